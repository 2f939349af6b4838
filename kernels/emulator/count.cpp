#include "scheduler.h"
namespace nt::emulator {
bool counting = false;
void count_access(const void *, size_t, bool) {}
void count_matrix_load(const void *const[32]) {}
void count_begin_grid(const void *) {}
void count_end_block() {}
void count_write() {}
}
