// Device memory of the emulated device (device_memory.cpp), for the CUDA runtime API.
#pragma once
#include <stddef.h>

#include "runtime.h"

#pragma GCC visibility push(hidden)
namespace nt::emulator {

cudaError_t memory_allocate(void **address, size_t bytes);
cudaError_t memory_free(void *address);
void memory_info(size_t *free_bytes, size_t *total_bytes);
// Whether [address, address + bytes) lies in one allocation.
bool memory_holds(const void *address, size_t bytes);
// Whether it lies in memory that cudaHostAlloc gave, which devices can reach (cuda_runtime.cpp).
bool is_pinned(const void *address);

}  // namespace nt::emulator
#pragma GCC visibility pop
