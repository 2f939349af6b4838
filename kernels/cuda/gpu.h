// What every CUDA kernel file includes first. Under nvcc it is CUDA itself, with the few PTX instructions that have no
// built-in behind thin functions; under g++ it is the emulator, which has the same names (../emulator/emulator.h).
//
// Kernels keep to the part of CUDA that both understand: shared memory by NT_SHARED and NT_DYNAMIC_SHARED, launches by
// nt::launch, no inline assembly outside this file, no packed 16-bit arithmetic, no float atomics.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#ifdef __CUDACC__

// NT_SHARED(float, sums, [32]); is `__shared__ float sums[32];`
#define NT_SHARED(type, name, dimensions) __shared__ type name dimensions
// The launch's dynamic shared memory, as bytes, 128-byte aligned.
#define NT_DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#define NT_UNROLL _Pragma("unroll")
#define NT_NO_UNROLL _Pragma("unroll 1")

namespace nt {

// Allows launches of the kernel with that much dynamic shared memory on the current device; the driver is asked once for
// each kernel, device and larger size (device.cu).
cudaError_t allow_shared(const void *kernel, int bytes);

// launch, below, without what it tells others.
template <class... Parameters, class... Arguments>
inline cudaError_t enqueue(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                          Arguments &&...arguments) {
  if (shared > 48 * 1024) {
    const cudaError_t status = allow_shared(reinterpret_cast<const void *>(kernel), int(shared));
    if (status != cudaSuccess) return status;
  }
  kernel<<<grid, block, shared, stream>>>(static_cast<Parameters>(arguments)...);
  return cudaGetLastError();
}

__device__ __forceinline__ uint32_t shared_address(const void *p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Four 8×8 matrices of 16-bit values from shared memory: lane 8·j + i gives the address of row i (16 bytes, 16-byte
// aligned) of matrix j; lane l receives in registers[j] elements 2·(l mod 4) and + 1 of row l / 4 of matrix j.
__device__ __forceinline__ void load_matrix(uint32_t (&registers)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(shared_address(row))
               : "memory");
}

// The same with each matrix transposed: lane l receives elements (2·(l mod 4), l / 4) and (2·(l mod 4) + 1, l / 4).
__device__ __forceinline__ void load_matrix_transposed(uint32_t (&registers)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(shared_address(row))
               : "memory");
}

// d[16×8] += a[16×16]·b[16×8], bf16 in, float32 sums. With g = lane / 4, q = 2·(lane mod 4), pairs in one register
// low half first: a = (g, q), (g + 8, q), (g, q + 8), (g + 8, q + 8); b = (k = q, n = g), (k = q + 8, n = g);
// d = (g, q), (g, q + 1), (g + 8, q), (g + 8, q + 1).
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 16 bytes from global to shared memory, both 16-byte aligned, arriving at some time before the wait that covers its
// group; `valid` false writes zeros (source must still be an address of this allocation). Not cached in L1.
__device__ __forceinline__ void copy_async(void *destination, const void *source, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(destination)), "l"(source),
               "r"(valid ? 16 : 0)
               : "memory");
}
// The same for 8 bytes, both 8-byte aligned.
__device__ __forceinline__ void copy_async_half(void *destination, const void *source, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared_address(destination)), "l"(source),
               "r"(valid ? 8 : 0)
               : "memory");
}
// Closes the group of this thread's copies since the last commit.
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `pending` of this thread's newest groups are unfinished. A barrier makes them visible to others.
template <int pending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// Tells the emulator of a 16-byte access that it would not see otherwise: it checks and counts them.
__device__ __forceinline__ void note_load(const void *) {}

// 16 bytes to global memory, 16-byte aligned. In PTX, as nvcc splits some plain stores of a uint4 into four.
__device__ __forceinline__ void store_global(void *p, const uint4 &x) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}

// 2^x, within 2 ulp; results below 2⁻¹²⁶ are 0. One instruction, unlike exp2f.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// The float16 nearest to x, ties to even, and the value of a float16.
__device__ __forceinline__ uint16_t to_f16(float x) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
__device__ __forceinline__ float from_f16(uint16_t bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}

// x, of which the compiler knows no more: what is computed from it in a loop is computed there each time, instead of
// before the loop and then kept in a register that the loop is short of.
__device__ __forceinline__ int computed_here(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

}  // namespace nt

#else
#include "../emulator/emulator.h"
#endif

namespace nt {

// What host code hands to a stream: a kernel, or by its name a product c[m,n] = a[m,k]·b[k,n] or a copy.
struct Enqueued {
  const void *kernel;  // null: `name` says what it is
  const char *name;
  int64_t blocks;
  int64_t bytes;          // of a copy: read and written
  int64_t m, n, k;        // of a product, with the sizes of the elements of a and b, and of c
  int32_t operand_bytes, result_bytes;
  bool accumulate;        // c is read, too
};

inline Enqueued moved(const char *name, int64_t bytes) { return {nullptr, name, 0, bytes, 0, 0, 0, 0, 0, false}; }

// Told before and after work is enqueued on a stream; null: nobody listens (timeline.cu sets it).
struct Observer {
  cudaStream_t stream;
  void (*begin)(const Enqueued &);
  void (*end)();
};
inline const Observer *observer = nullptr;

// Tells the observer, from here to the end of the scope.
class Watched {
 public:
  Watched(cudaStream_t stream, const Enqueued &what) : watched_(observer != nullptr && observer->stream == stream) {
    if (watched_) observer->begin(what);
  }
  ~Watched() {
    if (watched_) observer->end();
  }
  Watched(const Watched &) = delete;
  Watched &operator=(const Watched &) = delete;

 private:
  const bool watched_;
};

// Enqueues kernel(arguments…) with `shared` bytes of dynamic shared memory.
template <class... Parameters, class... Arguments>
inline cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                          Arguments &&...arguments) {
  const Watched watched(stream, {reinterpret_cast<const void *>(kernel), nullptr,
                                 int64_t(grid.x) * grid.y * grid.z, 0, 0, 0, 0, 0, 0, false});
  return enqueue(kernel, grid, block, shared, stream, static_cast<Arguments &&>(arguments)...);
}

typedef __nv_bfloat16 bf16;

constexpr unsigned kAllLanes = 0xFFFFFFFFu;

// Eight bf16 or four float32: what one thread moves in one 16-byte access.
template <class T>
struct alignas(16) Pack {
  static constexpr int size = 16 / sizeof(T);
  T x[size];
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
  return __float2bfloat16_rn(x);
}

// Two floats as bf16 in one register, `low` in the low half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &pair, 4);
  return bits;
}

// 16 bytes that the next kernel may want too, and 16 bytes that nobody reads again soon (streamed past the caches). By
// uint4, as nvcc copies a Pack of bf16 element by element; stores go to global memory.
template <class T>
__device__ __forceinline__ Pack<T> load_pack(const T *p) {
  note_load(p);
  uint4 bits = *reinterpret_cast<const uint4 *>(p);
  Pack<T> pack;
  memcpy(&pack, &bits, 16);
  return pack;
}
template <class T>
__device__ __forceinline__ Pack<T> load_pack_once(const T *p) {
  uint4 bits = __ldcs(reinterpret_cast<const uint4 *>(p));
  Pack<T> pack;
  memcpy(&pack, &bits, 16);
  return pack;
}
template <class T>
__device__ __forceinline__ void store_pack(T *p, const Pack<T> &pack) {
  uint4 bits;
  memcpy(&bits, &pack, 16);
  store_global(p, bits);
}
template <class T>
__device__ __forceinline__ void store_pack_once(T *p, const Pack<T> &pack) {
  uint4 bits;
  memcpy(&bits, &pack, 16);
  __stcs(reinterpret_cast<uint4 *>(p), bits);
}

// Sums and maxima over the warp, in every lane, in a fixed order. Under the emulator, where each exchange is dear, the
// warp meets once for all five (emulator.h), to the same bits.
__device__ __forceinline__ float sum_by_shuffles(float x) {
  NT_UNROLL
  for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}
__device__ __forceinline__ float max_by_shuffles(float x) {
  NT_UNROLL
  for (int step = 16; step > 0; step >>= 1) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}
#ifdef __CUDACC__
__device__ __forceinline__ float warp_sum(float x) { return sum_by_shuffles(x); }
__device__ __forceinline__ float warp_max(float x) { return max_by_shuffles(x); }
#endif

// The block's sum in every thread, in a fixed order. blockDim.x is a multiple of 32, at most 1024. `scratch`: 32 floats
// of shared memory; a barrier stands before their first use and after their last.
__device__ __forceinline__ float block_sum(float x, float *scratch) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  x = warp_sum(x);
  __syncthreads();
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  x = warp_sum(lane < warps ? scratch[lane] : 0.0f);
  return x;
}

}  // namespace nt
