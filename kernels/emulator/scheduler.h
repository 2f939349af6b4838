// What the runtime's own files know of the running block.
#pragma once
#include "fiber.h"
#include "runtime.h"

#pragma GCC visibility push(hidden)
namespace nt::emulator {

constexpr int kMaxThreads = 1024;
constexpr int kMaxCopies = 256;  // cp.async copies of one thread that have not arrived

struct Copy {
  void *destination;
  const void *source;  // null: zeros
  CopyOperation operation;
  int group;
};

struct Thread {
  Position position;  // first, so that `current` is also the running Thread
  Fiber *fiber;       // null before it starts
  bool finished;
  const char *waits_in;  // null while it runs or may run
  const char *file;      // the line of its last barrier or collective
  int line;
  int copies, committed;  // of pending; groups closed so far
  Copy *pending;          // kMaxCopies of them, apart: a block's threads are close together
};

extern Thread *threads[kMaxThreads];
extern int block_threads;

inline Thread *running() { return reinterpret_cast<Thread *>(current); }

// Leaves the broken block for run_grid. Only from a fiber.
[[noreturn]] void abandon_block();
// The lowest address of the running fiber's stack.
char *running_stack();

// Where in the order of things chance decides (NEFTUNE_EMULATOR_SEED): a number below n, n > 0.
extern bool randomised;
uint32_t random_below(uint32_t n);

// ---- shared.cpp
// Whether the device has so much for a block; an error after a report where not.
cudaError_t shared_check(size_t dynamic_bytes);
void shared_begin_grid(size_t dynamic_bytes);
void shared_begin_block();
bool shared_end_block();  // false after a report: something wrote where nothing is
bool describe_shared(const void *p, char *text, size_t size);

// ---- copies.cpp
void copies_begin(Thread *thread);
void copies_land_some(Thread *thread);
void copies_end(Thread *thread);

// ---- report.cpp
void report_begin_grid(const void *kernel);
const char *kernel_name(const void *kernel);  // valid until the next call
// While they stand, a fault in the kernel ends its launch with a report of the thread and the address.
void catch_faults();
void release_faults();

// ---- device_memory.cpp
bool describe_memory(const void *p, char *text, size_t size);

// ---- count.cpp
void count_begin_grid(const void *kernel, unsigned threads, size_t dynamic_shared);
void count_end_block();
void count_write();

}  // namespace nt::emulator
#pragma GCC visibility pop
