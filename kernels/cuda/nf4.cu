// NF4 tensors: quantizing and dequantizing at memory speed.
#include "nf4.h"

#include <stdlib.h>

#include "blas.h"
#include "f16.h"
#include "rows.h"

namespace nt {
namespace {

constexpr int kThreads = 256;

// ------------------------------------------------------------------ quantize

static __device__ const float kBounds[15] = {NT_NF4_BOUNDS};

constexpr uint32_t kInfinity = 0x7F800000u;  // the bits of |x| order as |x| does, NaN's above

// Eight lanes have a block, each eight values of it: absmax by shuffles, codes by halving among the bounds in shared
// memory (15 banks). Magnitudes are compared as integers, so that counting what is not finite costs one comparison a
// lane. Bytes a value: sizeof(T) read, 0.56 written.
template <class T>
__global__ __launch_bounds__(kThreads, 4) void quantize_kernel(uint8_t *codes, float *absmax, const T *source,
                                                               int64_t n, bool vector, unsigned *non_finite) {
  NT_SHARED(float, bounds, [15]);
  if (threadIdx.x < 15) bounds[threadIdx.x] = kBounds[threadIdx.x];
  __syncthreads();
  const int64_t first = int64_t(global_thread()) * kCodesAWord;
  const int left = n - first < kCodesAWord ? (n > first ? int(n - first) : 0) : kCodesAWord;
  T values[kCodesAWord] = {};
  if (vector && left == kCodesAWord) {
    NT_UNROLL
    for (int k = 0; k < kCodesAWord; k += 16 / int(sizeof(T))) {
      const uint4 bits = __ldcs(reinterpret_cast<const uint4 *>(source + first + k));
      memcpy(static_cast<void *>(values + k), &bits, 16);
    }
  } else {
    NT_UNROLL
    for (int k = 0; k < kCodesAWord; k++)
      if (k < left) values[k] = source[first + k];
  }
  uint32_t bits = 0;
  NT_UNROLL
  for (int k = 0; k < kCodesAWord; k++) {
    const uint32_t magnitude = __float_as_uint(to_float(values[k])) & 0x7FFFFFFFu;
    bits = magnitude > bits ? magnitude : bits;
  }
  float top = __uint_as_float(bits);
  if (bits >= kInfinity) {
    unsigned count = 0;
    top = 0;
    for (int k = 0; k < kCodesAWord; k++) {
      const float magnitude = fabsf(to_float(values[k]));
      count += !(magnitude < INFINITY);
      top = fmaxf(top, magnitude);  // NaN counts for nothing
    }
    if (non_finite != nullptr) atomicAdd(non_finite, count);
  }
  NT_UNROLL
  for (int step = 1; step < 8; step *= 2) top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, step));
  if (left == 0) return;
  const float inverse = nt_nf4_inverse(top);
  uint32_t word = 0;
  NT_UNROLL
  for (int k = 0; k < kCodesAWord; k++) {
    const int code = k < left ? nt_nf4_code(bounds, to_float(values[k]) * inverse) : int(NT_NF4_ZERO);
    word |= uint32_t(code) << 4 * (k ^ 1);
  }
  if (first % kNf4Block == 0) absmax[first / kNf4Block] = top;
  uint8_t *to = codes + first / 2;
  if (vector && left == kCodesAWord) {
    *reinterpret_cast<uint32_t *>(to) = word;
  } else {
    for (int k = 0; 2 * k < left; k++) to[k] = uint8_t(word >> 8 * k);
  }
}

template <class T>
int32_t quantize(nt_context *context, uint8_t *codes, float *absmax, const void *source, int64_t n,
                 uint32_t *non_finite) {
  const bool vector = aligned16(source) && reinterpret_cast<uintptr_t>(codes) % 4 == 0;
  NT_CUDA(launch(quantize_kernel<T>, dim3(unsigned(ceil_div(n, kThreads * kCodesAWord))), dim3(kThreads), 0,
                 context->stream, codes, absmax, static_cast<const T *>(source), n, vector, non_finite),
          "nf4_quantize");
  return NT_OK;
}

// The block's sum, valid in thread 0.
__device__ __forceinline__ double sum_of_block(double x, double *sums) {
  sums[threadIdx.x] = x;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  return sums[0];
}

constexpr int64_t kParts = 256;

// partial[part] = Σ of absmax over the part's blocks, in float64.
__global__ __launch_bounds__(kThreads, 4) void absmax_sum_kernel(double *partial, const float *absmax, int64_t blocks,
                                                                 int64_t blocks_a_part) {
  NT_SHARED(double, sums, [kThreads]);
  const int64_t begin = int64_t(blockIdx.x) * blocks_a_part;
  const int64_t end = begin + blocks_a_part < blocks ? begin + blocks_a_part : blocks;
  double sum = 0;
  for (int64_t b = begin + threadIdx.x; b < end; b += kThreads) sum += absmax[b];
  sum = sum_of_block(sum, sums);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ __launch_bounds__(kThreads, 4) void absmax_mean_kernel(float *offset, const double *partial, int64_t parts,
                                                                  int64_t blocks) {
  NT_SHARED(double, sums, [kThreads]);
  const double sum = sum_of_block(int64_t(threadIdx.x) < parts ? partial[threadIdx.x] : 0.0, sums);
  if (threadIdx.x == 0) *offset = float(sum / double(blocks));
}

// A group of 256 absmax a block, one a thread; the map in shared memory.
__global__ __launch_bounds__(kThreads, 4) void quantize_absmax_kernel(uint8_t *codes, float *absmax2,
                                                                      const float *absmax, const float *offset,
                                                                      int64_t blocks) {
  static_assert(kThreads == kNf4Nested, "one thread an absmax");
  NT_SHARED(float, map, [256]);
  NT_SHARED(float, tops, [8]);
  map[threadIdx.x] = kNf4Map[threadIdx.x];
  const int64_t b = int64_t(global_thread());
  const float distance = b < blocks ? absmax[b] - *offset : 0.0f;
  float top = warp_max(fmaxf(fabsf(distance), 0.0f));
  if ((threadIdx.x & 31) == 0) tops[threadIdx.x >> 5] = top;
  __syncthreads();
  NT_UNROLL
  for (int w = 0; w < 8; w++) top = fmaxf(top, tops[w]);
  if (threadIdx.x == 0) absmax2[blockIdx.x] = top;
  if (b < blocks) codes[b] = uint8_t(nt_nf4_nested_code(map, distance * nt_nf4_inverse(top)));
}

// ------------------------------------------------------------------ dequantize

constexpr int kWords = 4;  // loads in flight of a thread
constexpr int64_t kValuesABlock = int64_t(kThreads) * kWords * kCodesAWord;

__device__ __forceinline__ void put(float *y, const float (&x)[kCodesAWord]) {
  store_pack(y, Pack<float>{{x[0], x[1], x[2], x[3]}});
  store_pack(y + 4, Pack<float>{{x[4], x[5], x[6], x[7]}});
}
__device__ __forceinline__ void put(bf16 *y, const float (&x)[kCodesAWord]) {
  store_global(y, make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]),
                             pack_bf16(x[6], x[7])));
}
__device__ __forceinline__ void put(f16 *y, const float (&x)[kCodesAWord]) {
  const auto pair = [](float low, float high) { return uint32_t(to_f16(low)) | uint32_t(to_f16(high)) << 16; };
  store_global(y, make_uint4(pair(x[0], x[1]), pair(x[2], x[3]), pair(x[4], x[5]), pair(x[6], x[7])));
}
__device__ __forceinline__ void put_one(float *y, float x) { *y = x; }
__device__ __forceinline__ void put_one(bf16 *y, float x) { *y = from_float<bf16>(x); }
__device__ __forceinline__ void put_one(f16 *y, float x) { y->bits = to_f16(x); }

// A thread turns four words of codes into 32 values: 4-byte loads and 16-byte stores, both in whole lines a warp. What
// is left (`words` counts whole aligned words, 0 where nothing is aligned or rows end inside words) goes value by value.
// Bytes a value: 0.52 read, sizeof(To) written, left in the caches for the product that reads it.
template <class To, int dtype>
__global__ __launch_bounds__(kThreads, 4) void dequantize_kernel(To *y, int64_t ld, int64_t columns,
                                                                 const uint8_t *codes, Nf4Absmax absmax, int64_t words,
                                                                 int64_t n) {
  NT_SHARED(float, codebook, [16]);
  load_codebook(codebook);
  const int64_t first = int64_t(blockIdx.x) * (kThreads * kWords) + threadIdx.x;
  uint32_t word[kWords];
  float top[kWords];
  NT_UNROLL
  for (int k = 0; k < kWords; k++) {
    const int64_t w = first + k * kThreads;
    if (w >= words) continue;
    word[k] = __ldcs(reinterpret_cast<const unsigned *>(codes) + w);
    top[k] = block_absmax(absmax, w * kCodesAWord / kNf4Block);
  }
  NT_UNROLL
  for (int k = 0; k < kWords; k++) {
    const int64_t w = first + k * kThreads;
    if (w >= words) continue;
    float values[kCodesAWord];
    word_values<dtype>(values, codebook, word[k], top[k]);
    const ChunkPlace place = chunk_place(uint64_t(w), uint32_t(columns / kCodesAWord));
    put(y + place.row * ld + place.chunk * kCodesAWord, values);
  }
  const int64_t begin = int64_t(blockIdx.x) * kValuesABlock, end = begin + kValuesABlock < n ? begin + kValuesABlock : n;
  for (int64_t i = (begin > words * kCodesAWord ? begin : words * kCodesAWord) + threadIdx.x; i < end; i += kThreads) {
    const int code = codes[i / 2] >> (i % 2 == 0 ? 4 : 0) & 15;
    put_one(y + i / columns * ld + i % columns, stored<dtype>(codebook[code] * block_absmax(absmax, i / kNf4Block)));
  }
}

template <class To, int dtype>
int32_t dequantize(nt_context *context, void *destination, const nt_nf4 &nf4, int64_t n, int64_t columns, int64_t ld) {
  // What lies side by side is one row, whose last word may not be whole; its chunks are to be counted in 32 bits.
  if (ld == columns) ld = columns = ceil_div(n, kCodesAWord) * kCodesAWord;
  const bool vector = aligned16(destination) && reinterpret_cast<uintptr_t>(nf4.codes) % 4 == 0 &&
                      columns % kCodesAWord == 0 && ld % 8 == 0 && columns / kCodesAWord <= UINT32_MAX;
  NT_CUDA(launch(dequantize_kernel<To, dtype>, dim3(unsigned(ceil_div(n, kValuesABlock))), dim3(kThreads), 0,
                 context->stream, static_cast<To *>(destination), ld, columns, nf4.codes,
                 absmax_of(nf4, n), vector ? n / kCodesAWord : int64_t(0), n),
          "nf4_dequantize");
  return NT_OK;
}

// Rounding to the destination is the last step in any case, so what has its precision or more need not be rounded.
int32_t dequantize(nt_context *context, void *destination, int32_t dtype, const nt_nf4 &nf4, int64_t n, int64_t columns,
                   int64_t ld) {
  if (n == 0) return NT_OK;
  switch (dtype) {
    case NT_F32:
      if (nf4.dtype == NT_F32) return dequantize<float, NT_F32>(context, destination, nf4, n, columns, ld);
      if (nf4.dtype == NT_BF16) return dequantize<float, NT_BF16>(context, destination, nf4, n, columns, ld);
      return dequantize<float, NT_F16>(context, destination, nf4, n, columns, ld);
    case NT_BF16:
      if (nf4.dtype == NT_F16) return dequantize<bf16, NT_F16>(context, destination, nf4, n, columns, ld);
      return dequantize<bf16, NT_F32>(context, destination, nf4, n, columns, ld);
    default:
      if (nf4.dtype == NT_BF16) return dequantize<f16, NT_BF16>(context, destination, nf4, n, columns, ld);
      return dequantize<f16, NT_F32>(context, destination, nf4, n, columns, ld);
  }
}

}  // namespace

int32_t nf4_expand(nt_context *context, const nt_weight *weight) {
  const int64_t n = weight->out * weight->in;
  return dequantize(context, weight->scratch, weight->dtype, weight->nf4, n, weight->in, weight->ld);
}

namespace {

int32_t nf4_quantize(nt_context *context, uint8_t *codes, float *absmax, const void *source, int32_t source_dtype,
                     int64_t n, uint32_t *non_finite) {
  if (source_dtype == NT_F32) return quantize<float>(context, codes, absmax, source, n, non_finite);
  if (source_dtype == NT_BF16) return quantize<bf16>(context, codes, absmax, source, n, non_finite);
  return quantize<f16>(context, codes, absmax, source, n, non_finite);
}

int32_t nf4_quantize_absmax(nt_context *context, uint8_t *codes, float *absmax2, const float *absmax, int64_t blocks) {
  const int64_t groups = ceil_div(blocks, kNf4Nested);
  const int64_t groups_a_part = ceil_div(groups, kParts), parts = ceil_div(groups, groups_a_part);
  auto *partial = static_cast<double *>(context->workspace);
  float *offset = absmax2 + groups;
  NT_CUDA(launch(absmax_sum_kernel, dim3(unsigned(parts)), dim3(kThreads), 0, context->stream, partial, absmax, blocks,
                 groups_a_part * kNf4Nested),
          "nf4_quantize_absmax");
  NT_CUDA(launch(absmax_mean_kernel, dim3(1), dim3(kThreads), 0, context->stream, offset, partial, parts, blocks),
          "nf4_quantize_absmax");
  NT_CUDA(launch(quantize_absmax_kernel, dim3(unsigned(groups)), dim3(kThreads), 0, context->stream, codes, absmax2,
                 absmax, offset, blocks),
          "nf4_quantize_absmax");
  return NT_OK;
}

int32_t nf4_dequantize(nt_context *context, void *destination, int32_t dtype, const nt_nf4 &nf4, int64_t n,
                       int64_t columns, int64_t ld) {
  return dequantize(context, destination, dtype, nf4, n, columns, ld);
}

}  // namespace
}  // namespace nt

#include "../entry/nf4.h"
