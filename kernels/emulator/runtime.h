// What code compiled from .cu files calls in the emulator's runtime, and what the runtime's files share.
//
// A grid runs block by block, a block as fibers on the calling OS thread: a CUDA thread runs until it waits for others
// (a barrier, a warp collective) or ends, then the next takes over. Nothing runs at the same time, so the emulator's
// own data need no locks; NEFTUNE_EMULATOR_SEED shuffles the order.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime.h>

// Parameters that say which line of a kernel called, for reports.
#define NT_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

#pragma GCC visibility push(hidden)
namespace nt::emulator {

struct Position {
  uint3 index;  // threadIdx
  int lane, warp;
};
extern Position *current;  // the running CUDA thread; null in host code
extern uint3 block_index;
extern dim3 block_size, grid_size;

// ---- launches (scheduler.cpp)

typedef void (*Body)(void *arguments);
// Enqueues a grid whose every thread calls body with a copy of `arguments`. `kernel` names it in reports.
cudaError_t enqueue_grid(const void *kernel, dim3 grid, dim3 block, size_t dynamic_shared, Body body,
                         const void *arguments, size_t bytes);
// Whether a kernel's argument points to the host's memory (device_memory.cpp), and the launch's error if so.
bool is_host_memory(const void *p);
cudaError_t refuse_argument(const void *kernel);
// Whether a launch in this stream would be on the device that is current (cuda_runtime.cpp), and its error if not.
bool is_of_current_device(const CUstream_st *stream);
cudaError_t refuse_stream(const void *kernel);

// Reports a mistake of the running kernel and ends its launch with cudaErrorLaunchFailure (under a sanitizer: ends the
// process).
[[noreturn]] __attribute__((format(printf, 1, 2))) void fail(const char *format, ...);
// Reports a mistake of host code; cudaGetErrorString(cudaErrorLaunchFailure) repeats the last report.
__attribute__((format(printf, 1, 2))) cudaError_t fail_host(const char *format, ...);
const char *last_report();

// ---- barriers and warp collectives (scheduler.cpp)

enum BlockReduction { kBlockCount, kBlockAnd, kBlockOr };
int block_barrier(BlockReduction reduction, int predicate, const char *file, int line);

// Called once, by the last lane of `mask` to arrive, with every lane's arguments.
typedef void (*WarpOperation)(void *const lanes[32], unsigned mask);
// `fence`: memory written before is visible to the warp after (a shuffle promises no such thing).
void warp_collective(WarpOperation operation, unsigned mask, void *arguments, bool fence, const char *file, int line);
void memory_fence();

// ---- warp operations (warp.cpp)

struct Shuffle {
  uint64_t value, result;
  int source;
};
struct Ballot {
  int predicate;
  unsigned result;
};
enum Reduction {
  kReduceAdd,
  kReduceMin,
  kReduceMax,
  kReduceMinSigned,
  kReduceMaxSigned,
  kReduceAnd,
  kReduceOr,
  kReduceXor
};
struct WarpReduction {
  Reduction reduction;
  uint32_t value, result;
};
struct Match {
  uint64_t value;
  unsigned result;
};
struct MatrixLoad {
  const void *address;
  uint32_t row[4], result[4];
};
struct MatrixProduct {
  float *d;
  const uint32_t *a;
  uint32_t b[2];
};
void warp_nothing(void *const *lanes, unsigned mask);
void warp_shuffle(void *const *lanes, unsigned mask);
void warp_ballot(void *const *lanes, unsigned mask);
void warp_reduction(void *const *lanes, unsigned mask);
void warp_match(void *const *lanes, unsigned mask);
void warp_load_matrix(void *const *lanes, unsigned mask);
void warp_load_matrix_transposed(void *const *lanes, unsigned mask);
void warp_mma(void *const *lanes, unsigned mask);
// Of a float of each lane.
void warp_sum(void *const *lanes, unsigned mask);
void warp_max(void *const *lanes, unsigned mask);

// ---- shared memory (shared.cpp)

void *shared_variable(const void *key, size_t bytes, size_t alignment);
void *dynamic_shared();
// Fails unless [p, p + bytes) lies in one variable of the block's shared memory.
void check_shared(const void *p, size_t bytes, const char *what, const char *file, int line);
bool is_shared(const void *p);

// ---- cp.async (copies.cpp)

// Copies 16 or 8 bytes, or writes zeros where source is null, or bytes that are no number where it is `destination`.
// It lives in the kernel's file, so that sanitizers see the access.
typedef void (*CopyOperation)(void *destination, const void *source);
void copy_async(void *destination, const void *source, bool valid, CopyOperation copy);
void copy_async_commit();
void copy_async_wait(int pending);

// ---- counters (count.cpp)

extern bool counting;
// One lane's access of `bytes` at p, in step with its warp's other lanes at the same call.
void count_access(const void *p, size_t bytes, bool store);
// What every access through a function of gpu.h or a cached load calls first.
__attribute__((always_inline)) inline void note_access(const void *p, size_t bytes, size_t alignment, bool store,
                                                       const char *file, int line) {
  if (reinterpret_cast<uintptr_t>(p) % alignment != 0)
    fail("%s:%d: an access of %zu bytes at %p is misaligned", file, line, bytes, p);
  if (counting) count_access(p, bytes, store);
}
// A warp's ldmatrix: 32 addresses of 16-byte rows.
void count_matrix_load(const void *const rows[32]);
// A warp's mma.
void count_product();

}  // namespace nt::emulator
#pragma GCC visibility pop
