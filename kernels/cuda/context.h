// The device context of the CUDA backend: one device, one stream in which all work runs in call order, a workspace
// for whatever runs, and small tables that callers give in host memory.
#pragma once
#include "gpu.h"

#include "../check.h"

namespace nt {
struct Blas;     // blas.cu's
struct Staging;  // staging.h's
}  // namespace nt

struct nt_context {
  int device;
  cudaStream_t stream;
  int multiprocessors;
  int64_t l2_bytes, total_bytes;  // of memory
  int shared_limit;  // bytes of dynamic shared memory that a block may ask for
  char name[256];
  int major, minor;  // compute capability
  unsigned char uuid[16];

  // Scratch of the function that runs now: cuBLASLt's workspace, partial sums. Work in the stream is ordered, so each
  // call may use all of it and none finds what another left.
  void *workspace;
  int64_t workspace_bytes;

  nt::Staging *staging;
  nt::Blas *blas;
  int64_t big_plain_products;  // that cuBLASLt had no algorithm for

  // Rows of a product and its result, filled up to a tile (row_tiles.cu); null until the first.
  void *tile;
  int64_t tile_bytes;

  unsigned *counters;  // kCounters zeros, between kernels; see last_block.h
};

namespace nt {

// Whether the host may read what device pointers point to.
constexpr bool kHostIsDevice = false;

// 32 MiB is what cuBLASLt asks for on Hopper.
constexpr int64_t kWorkspaceBytes = int64_t(32) << 20;

// As many sums of one kernel can be made by their last block.
constexpr int kCounters = 4096;

// NT_OK, or NT_DEVICE / NT_OUT_OF_MEMORY with a message that names `what`.
int32_t check_cuda(cudaError_t status, const char *what);

// Copies `bytes` of host memory to the device and gives the address there, valid for kernels launched until the next
// call of a function of this backend ends … at least. The host memory is read before this returns. Equal contents given
// again are not copied again. Null after a failure (nt_last_error has the reason).
const void *device_table(nt_context *context, const void *host, int64_t bytes);

template <class T>
inline const T *device_table(nt_context *context, const T *host, int64_t count) {
  return static_cast<const T *>(device_table(context, static_cast<const void *>(host), count * int64_t(sizeof(T))));
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace nt

// Leaves the function with NT_DEVICE where a CUDA call or launch failed.
#define NT_CUDA(call, what)                                     \
  do {                                                          \
    const int32_t nt_status_ = nt::check_cuda((call), (what));  \
    if (nt_status_ != NT_OK) return nt_status_;                 \
  } while (0)
