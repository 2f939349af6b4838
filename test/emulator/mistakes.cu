// Kernels that are wrong, one mistake each: mistakes.test.ts says which build of the emulator must find it.
#include "cases.h"

namespace {

constexpr int kThreads = 64;

__global__ void missing_barrier_kernel(float *y, const float *x) {
  NT_SHARED(float, values, [kThreads]);
  const int t = threadIdx.x;
  values[t] = x[t];
  // missing: __syncthreads();
  y[t] = values[t ^ 33];
}

__global__ void write_after_read_kernel(float *y, const float *x) {
  NT_SHARED(float, values, [kThreads]);
  const int t = threadIdx.x;
  float sum = 0;
  for (int i = 0; i < 4; i++) {
    values[t] = x[t] + float(i);
    __syncthreads();
    sum += values[kThreads - 1 - t];
    // missing: __syncthreads();
  }
  y[t] = sum;
}

__global__ void uninitialized_kernel(float *y, const float *x) {
  NT_SHARED(float, values, [kThreads]);
  const int t = threadIdx.x;
  if (t < kThreads - 1) values[t] = x[t];
  __syncthreads();
  y[t] = values[t];
}

__global__ void shuffle_as_fence_kernel(float *y, const float *x) {
  NT_SHARED(float, values, [kThreads]);
  const int t = threadIdx.x;
  values[t] = x[t];
  const float one = __shfl_xor_sync(nt::kAllLanes, 1.0f, 1);  // in place of __syncwarp()
  y[t] = values[t ^ 1] * one;
}

__global__ void missing_wait_kernel(float *y, const float *x) {
  NT_SHARED(__align__(16) float, values, [4 * kThreads]);
  const int t = threadIdx.x;
  nt::copy_async(values + 4 * t, x + 4 * (t % 16));
  nt::copy_async_commit();
  nt::copy_async_wait<1>();  // one group may still be under way, and it is
  __syncthreads();
  y[t] = values[t];
  nt::copy_async_wait<0>();
}

__global__ void never_awaited_kernel(float *y, const float *x) {
  NT_SHARED(__align__(16) float, values, [4 * kThreads]);
  nt::copy_async(values + 4 * threadIdx.x, x);
  nt::copy_async_commit();
  y[threadIdx.x] = x[threadIdx.x];
}

// Two tiles in turn; the next is fetched into the buffer that others may still read.
__global__ void early_prefetch_kernel(float *y, const float *x) {
  NT_SHARED(__align__(16) float, tiles, [2][4 * kThreads]);
  const int t = threadIdx.x;
  nt::copy_async(tiles[0] + 4 * t, x);
  nt::copy_async_commit();
  float sum = 0;
  for (int i = 0; i < 4; i++) {
    nt::copy_async(tiles[(i + 1) % 2] + 4 * t, x);  // belongs below the barrier
    nt::copy_async_commit();
    nt::copy_async_wait<1>();
    __syncthreads();
    sum += tiles[i % 2][4 * (kThreads - 1 - t)];
  }
  nt::copy_async_wait<0>();
  y[t] = sum / 4 + x[t] - x[0];
}

__global__ void divergent_barrier_kernel(float *y, const float *x) {
  if (threadIdx.x < 40) __syncthreads();
  y[threadIdx.x] = x[threadIdx.x];
}

__global__ void two_barriers_kernel(float *y, const float *x) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  y[threadIdx.x] = x[threadIdx.x];
}

__global__ void divergent_shuffle_kernel(float *y, const float *x) {
  float value = x[threadIdx.x];
  if (threadIdx.x % 2 == 1) value = __shfl_xor_sync(nt::kAllLanes, value, 2);
  y[threadIdx.x] = value;
}

__global__ void foreign_lane_kernel(float *y, const float *x) {
  float value = x[threadIdx.x];
  if (threadIdx.x % 32 < 16) value = __shfl_sync(0xFFFFu, value, 20);
  y[threadIdx.x] = value;
}

__global__ void global_overflow_kernel(float *y, const float *x, int past) {
  y[threadIdx.x] = x[threadIdx.x];
  if (threadIdx.x == 0) y[kThreads + past] = 1.0f;
}

__global__ void global_overread_kernel(float *y, const float *x, int past) {
  y[threadIdx.x] = x[threadIdx.x + past];
}

__global__ void dynamic_shared_kernel(float *y, const float *x, int past) {
  NT_DYNAMIC_SHARED(raw);
  float *values = reinterpret_cast<float *>(raw);
  values[threadIdx.x + past] = x[threadIdx.x];
  y[threadIdx.x] = x[threadIdx.x];
}

// Together with the variable, 48 KB of dynamic memory are more than a launch may have unless it was allowed.
__global__ void both_shared_kernel(float *y, const float *x) {
  NT_DYNAMIC_SHARED(raw);
  NT_SHARED(float, values, [kThreads]);
  values[threadIdx.x] = x[threadIdx.x];
  reinterpret_cast<float *>(raw)[threadIdx.x] = values[threadIdx.x];
  y[threadIdx.x] = reinterpret_cast<float *>(raw)[threadIdx.x];
}

__global__ void static_shared_kernel(float *y, const float *x, int past) {
  NT_SHARED(float, values, [kThreads]);
  NT_SHARED(float, others, [kThreads]);
  values[threadIdx.x + past] = x[threadIdx.x];
  others[threadIdx.x] = 0.0f;
  y[threadIdx.x] = x[threadIdx.x];
}

__global__ void local_overflow_kernel(float *y, const float *x, int past) {
  float values[8];
  for (int i = 0; i < 8; i++) values[i] = x[threadIdx.x];
  volatile int at = threadIdx.x % 8 + past;
  values[at] = x[threadIdx.x];
  y[threadIdx.x] = values[threadIdx.x % 8];
}

__global__ void misaligned_kernel(float *y, const float *x) {
  const nt::Pack<float> pack = nt::load_pack(x + 1 + 4 * (threadIdx.x % 8));
  y[threadIdx.x] = x[threadIdx.x] + 0.0f * pack.x[3];
}

__global__ void misaligned_vector_kernel(float *y, const float *x) {
  const float4 vector = *reinterpret_cast<const float4 *>(x + 1 + 4 * (threadIdx.x % 8));
  y[threadIdx.x] = x[threadIdx.x] + 0.0f * vector.w;
}

__global__ void misaligned_row_kernel(float *y, const float *x) {
  NT_SHARED(float, values, [512]);  // asks for no more than 4-byte alignment
  for (int i = threadIdx.x; i < 512; i += kThreads) values[i] = x[threadIdx.x];
  __syncthreads();
  uint32_t registers[4];
  nt::load_matrix(registers, values + 4 * (threadIdx.x % 32));
  y[threadIdx.x] = x[threadIdx.x];
}

__global__ void matrix_from_global_kernel(float *y, const float *x) {
  uint32_t registers[4];
  nt::load_matrix(registers, x);
  y[threadIdx.x] = x[threadIdx.x];
}

__global__ void two_blocks_kernel(float *y, const float *x) {
  y[threadIdx.x] = x[threadIdx.x];
  if (threadIdx.x == blockIdx.x) y[0] = x[0];
}

__global__ void copy_kernel(float *y, const float *x) { y[threadIdx.x] = x[threadIdx.x]; }

__global__ void recursive_kernel(float *y, const float *x, int depth) {
  volatile char frame[4000];
  frame[0] = char(depth);
  if (depth > 0) recursive_kernel(y, x, depth - 1 + frame[0] - char(depth));
  y[threadIdx.x] = x[threadIdx.x];
}

__global__ void divide_kernel(float *y, const float *x, int zero) {
  y[threadIdx.x] = x[threadIdx.x];
  if (int(threadIdx.x) % (zero + 0) == 70) y[0] = 0.0f;
}

// Launches kernel(y, x, arguments…) and compares with expected(t, x).
template <class Kernel, class Expected, class... Arguments>
bool try_kernel(Kernel kernel, size_t shared, int blocks, Expected expected, Arguments... arguments) {
  auto *x = device<float>(kThreads), *y = device<float>(kThreads);
  for (int t = 0; t < kThreads; t++) x[t] = float(t + 1);
  if (!launched(nt::launch(kernel, dim3(unsigned(blocks)), dim3(kThreads), shared, nullptr, y, x, arguments...)))
    return false;
  for (int t = 0; t < kThreads; t++)
    if (!(y[t] == expected(t, x))) return false;
  return true;
}

float same(int t, const float *x) { return x[t]; }

}  // namespace

#define PLAIN(kernel) [] { return try_kernel(kernel, 0, 1, same); }
const Case kMistakes[] = {
    {"missing barrier",
     [] { return try_kernel(missing_barrier_kernel, 0, 1, [](int t, const float *x) { return x[t ^ 33]; }); }},
    {"write after read",
     [] {
       return try_kernel(write_after_read_kernel, 0, 1, [](int t, const float *x) { return 4 * x[63 - t] + 6; });
     }},
    {"uninitialized", PLAIN(uninitialized_kernel)},
    {"shuffle as fence",
     [] { return try_kernel(shuffle_as_fence_kernel, 0, 1, [](int t, const float *x) { return x[t ^ 1]; }); }},
    {"missing wait", PLAIN(missing_wait_kernel)},
    {"never awaited", PLAIN(never_awaited_kernel)},
    {"early prefetch", PLAIN(early_prefetch_kernel)},
    {"divergent barrier", PLAIN(divergent_barrier_kernel)},
    {"two barriers", PLAIN(two_barriers_kernel)},
    {"divergent shuffle", PLAIN(divergent_shuffle_kernel)},
    {"foreign lane", PLAIN(foreign_lane_kernel)},
    {"global overflow", [] { return try_kernel(global_overflow_kernel, 0, 1, same, 0); }},
    {"global overread", [] { return try_kernel(global_overread_kernel, 0, 1, same, 1); }},
    {"global underflow", [] { return try_kernel(global_overflow_kernel, 0, 1, same, -kThreads - 1); }},
    {"dynamic shared overflow", [] { return try_kernel(dynamic_shared_kernel, kThreads * 4, 1, same, 1); }},
    {"odd dynamic shared overflow", [] { return try_kernel(dynamic_shared_kernel, kThreads * 4 + 4, 1, same, 2); }},
    {"no dynamic shared", [] { return try_kernel(dynamic_shared_kernel, 0, 1, same, 0); }},
    {"too much shared", [] { return try_kernel(dynamic_shared_kernel, 228 * 1024, 1, same, 0); }},
    {"static beside dynamic shared", [] { return try_kernel(both_shared_kernel, 48 * 1024, 1, same); }},
    {"static shared overflow", [] { return try_kernel(static_shared_kernel, 0, 1, same, 1); }},
    {"local overflow", [] { return try_kernel(local_overflow_kernel, 0, 1, same, 1); }},
    {"misaligned", PLAIN(misaligned_kernel)},
    {"misaligned vector", PLAIN(misaligned_vector_kernel)},
    {"misaligned row", PLAIN(misaligned_row_kernel)},
    {"matrix from global", PLAIN(matrix_from_global_kernel)},
    {"two blocks", [] { return try_kernel(two_blocks_kernel, 0, 2, same); }},
    {"null",
     [] {
       float *nowhere = nullptr;
       return launched(nt::launch(copy_kernel, dim3(1), dim3(kThreads), 0, nullptr, nowhere, nowhere));
     }},
    {"host pointer",
     [] {
       static float values[kThreads];
       return launched(nt::launch(copy_kernel, dim3(1), dim3(kThreads), 0, nullptr, device<float>(kThreads), values));
     }},
    {"deep recursion", [] { return try_kernel(recursive_kernel, 0, 1, same, 100); }},
    {"division by zero", [] { return try_kernel(divide_kernel, 0, 1, same, 0); }},
    {"pinned memory reused", [] { return reuse_pinned(false); }},
    {"block too large",
     [] {
       return launched(
           nt::launch(copy_kernel, dim3(1), dim3(1025), 0, nullptr, device<float>(2000), device<float>(2000)));
     }},
};
const int kMistakeCount = sizeof kMistakes / sizeof *kMistakes;
