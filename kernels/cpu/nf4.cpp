// NF4 tensors: quantizing and dequantizing, threads sharing the blocks. Both run at the speed of memory: a block of 64
// is read once, and its sixteen values are computed once and looked up by permutes.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "matmul.h"
#include "nf4_block.h"
#include "parallel.h"
#include "weight.h"

namespace nt {

namespace {

constexpr int64_t kLeastBlocks = 512;  // for a thread
alignas(64) const float kBounds[16] = {NT_NF4_BOUNDS, INFINITY};

// ------------------------------------------------------------------ quantize

// codes[kLanes] = how many bounds lie below s, by halving: `at` is the bound to compare with next.
inline VecI codes_of(Vec s) {
#ifdef __AVX512F__
  const __m512 bounds = (__m512)load(kBounds), x = (__m512)s;
  auto step = [&](__m512i at, int size) {
    const __mmask16 above = _mm512_cmp_ps_mask(x, _mm512_permutexvar_ps(at, bounds), _CMP_GT_OQ);
    return _mm512_mask_add_epi32(_mm512_sub_epi32(at, _mm512_set1_epi32(size)), above, at, _mm512_set1_epi32(size));
  };
  __m512i at = step(step(step(_mm512_set1_epi32(7), 4), 2), 1);
  const __mmask16 above = _mm512_cmp_ps_mask(x, _mm512_permutexvar_ps(at, bounds), _CMP_GT_OQ);
  return (VecI)_mm512_mask_add_epi32(at, above, at, _mm512_set1_epi32(1));
#else
  const Vec low = load(kBounds), high = load(kBounds + 8);
  const VecI upper = s > splat(kBounds[7]);
  auto bound = [&](VecI at) {
    const Vec below = (Vec)_mm256_permutevar8x32_ps((__m256)low, (__m256i)at);
    return (Vec)_mm256_blendv_ps((__m256)below, _mm256_permutevar8x32_ps((__m256)high, (__m256i)at), (__m256)upper);
  };
  VecI at = (upper & 8) + 3;
  at += ((s > bound(at)) & 4) - 2;
  at += ((s > bound(at)) & 2) - 1;
  return at + ((s > bound(at)) & 1);
#endif
}

// Two codes a byte from 64 codes, the first of each two high.
inline void pack(uint8_t *packed, const VecI (&codes)[kBlock / kLanes]) {
#ifdef __AVX512F__
  for (int i = 0; i < 4; i += 2) {
    const __m256i bytes = _mm256_set_m128i(_mm512_cvtepi32_epi8((__m512i)codes[i + 1]),
                                           _mm512_cvtepi32_epi8((__m512i)codes[i]));
    const __m256i pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi16(0x0110));
    _mm_storeu_si128((__m128i *)(packed + 8 * i), _mm256_cvtepi16_epi8(pairs));
  }
#else
  for (int i = 0; i < 8; i += 4) {
    __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32((__m256i)codes[i], (__m256i)codes[i + 1]),
                                        _mm256_packs_epi32((__m256i)codes[i + 2], (__m256i)codes[i + 3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    const __m256i pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi16(0x0110));
    _mm_storeu_si128((__m128i *)(packed + 4 * i),
                     _mm_packus_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1)));
  }
#endif
}

inline VecI greater(VecI a, VecI b) {
#ifdef __AVX512F__
  return (VecI)_mm512_max_epi32((__m512i)a, (__m512i)b);
#else
  return (VecI)_mm256_max_epi32((__m256i)a, (__m256i)b);
#endif
}

inline int32_t greatest(VecI v) {
  int32_t buffer[kLanes];
  memcpy(buffer, &v, sizeof v);
  int32_t result = buffer[0];
  for (int i = 1; i < kLanes; i++) result = buffer[i] > result ? buffer[i] : result;
  return result;
}

constexpr int32_t kInfinity = 0x7F800000;  // NaN lies above, whatever its sign, once the sign bit is gone

// The absmax of a block that holds values that are not finite: NaN counts for nothing in it.
__attribute__((noinline, cold)) float absmax_of_rest(const Vec (&x)[kBlock / kLanes], uint32_t &non_finite) {
  float values[kBlock], top = 0;
  memcpy(values, x, sizeof values);
  for (float value : values) {
    const float size = fabsf(value);
    if (!(size < INFINITY)) non_finite++;
    top = size > top ? size : top;
  }
  return top;
}

// Writes 32 bytes of codes; returns the block's absmax. Magnitudes are compared as integers, which order floats in the
// same way and leave no doubt about NaN: so counting what is not finite costs one comparison a block.
template <typename T>
inline float quantize_block(uint8_t *codes, const T *source, uint32_t &non_finite) {
  constexpr int kVectors = kBlock / kLanes;
  Vec x[kVectors];
  VecI top = {};
  for (int i = 0; i < kVectors; i++) {
    x[i] = load(source + i * kLanes);
    top = greater((VecI)x[i] & 0x7FFFFFFF, top);
  }
  const int32_t bits = greatest(top);
  float absmax;
  memcpy(&absmax, &bits, sizeof absmax);
  if (__builtin_expect(bits >= kInfinity, 0)) absmax = absmax_of_rest(x, non_finite);
  const Vec inverse = splat(nt_nf4_inverse(absmax));
  VecI c[kVectors];
  for (int i = 0; i < kVectors; i++) c[i] = codes_of(x[i] * inverse);
  pack(codes, c);
  return absmax;
}

template <typename T>
void quantize(int threads, uint8_t *codes, float *absmax, const T *source, int64_t n, uint32_t *non_finite) {
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  parallel_for(threads, blocks, kLeastBlocks, [&](int64_t begin, int64_t end) {
    uint32_t odd = 0;
    for (int64_t b = begin; b < end; b++) {
      const T *from = source + b * kBlock;
      uint8_t *to = codes + b * kBlock / 2;
      const int64_t left = n - b * kBlock;
      if (left >= kBlock) {
        absmax[b] = quantize_block(to, from, odd);
        continue;
      }
      T rest[kBlock] = {};
      uint8_t packed[kBlock / 2];
      memcpy(rest, from, size_t(left) * sizeof(T));
      absmax[b] = quantize_block(packed, rest, odd);
      memcpy(to, packed, size_t(left + 1) / 2);
      if (left % 2 == 1) to[left / 2] = uint8_t((packed[left / 2] & 0xF0) | NT_NF4_ZERO);
    }
    if (odd > 0 && non_finite != nullptr) __atomic_fetch_add(non_finite, odd, __ATOMIC_RELAXED);
  });
}

// ------------------------------------------------------------------ dequantize

inline void write_block(float *to, const Values &values, int32_t, const uint8_t *codes) {
  for (int64_t i = 0; i < kBlock; i += kLanes) store(to + i, look_up(values, codes + i / 2));
}
inline void write_block(uint16_t *to, const Values &values, int32_t dtype, const uint8_t *codes) {
  const Values16 narrowed = narrow(values, dtype);
  look_up_32(to, narrowed, codes);
  look_up_32(to + 32, narrowed, codes + 16);
}

// The blocks begin … end − 1 of n values in all.
template <typename T>
void write_blocks(T *to, int32_t dtype, const nt_nf4 &nf4, int64_t n, int64_t begin, int64_t end) {
  const int32_t stored = int32_t(nf4.dtype);
  const Absmax absmax(nf4, n);
  for (int64_t b = begin; b < end; b++, to += kBlock) {
    const Values values = values_of(absmax.at(b), stored, dtype);
    const uint8_t *codes = nf4.codes + b * kBlock / 2;
    const int64_t left = n - b * kBlock;
    if (left >= kBlock) {
      write_block(to, values, dtype, codes);
      continue;
    }
    uint8_t rest[kBlock / 2] = {};
    T whole[kBlock];
    memcpy(rest, codes, size_t(left + 1) / 2);
    write_block(whole, values, dtype, rest);
    memcpy(to, whole, size_t(left) * sizeof(T));
  }
}

template <typename T>
void dequantize(int threads, T *destination, int32_t dtype, const nt_nf4 &nf4, int64_t n) {
  parallel_for(threads, (n + kBlock - 1) / kBlock, kLeastBlocks, [&](int64_t begin, int64_t end) {
    write_blocks(destination + begin * kBlock, dtype, nf4, n, begin, end);
  });
}

}  // namespace

const void *nf4_values(void *to, const nt_weight *weight, int64_t begin, int64_t end) {
  const int64_t n = weight->out * weight->in, first = begin / kBlock, last = (end + kBlock - 1) / kBlock;
  if (weight->dtype == NT_F32)
    write_blocks(static_cast<float *>(to), weight->dtype, weight->nf4, n, first, last);
  else
    write_blocks(static_cast<uint16_t *>(to), weight->dtype, weight->nf4, n, first, last);
  return static_cast<const char *>(to) + (begin - first * kBlock) * size_of(weight->dtype);
}

const void *nf4_rows(void *to, const nt_weight *weight, int64_t begin, int64_t end) {
  return nf4_values(to, weight, begin * weight->in, end * weight->in);
}

int64_t nf4_rows_bytes(const nt_weight *weight, int64_t rows) {
  return (rows * weight->in + kNf4Beside) * size_of(weight->dtype);
}

int32_t nf4_dequantize(nt_context *context, void *destination, int32_t dtype, const nt_nf4 &nf4, int64_t n) {
  if (dtype == NT_F32)
    dequantize(context->threads, static_cast<float *>(destination), dtype, nf4, n);
  else
    dequantize(context->threads, static_cast<uint16_t *>(destination), dtype, nf4, n);
  return NT_OK;
}

// What is to lie apart is made side by side first: no training on a CPU asks for it.
int32_t nf4_dequantize(nt_context *context, void *destination, int32_t dtype, const nt_nf4 &nf4, int64_t n,
                       int64_t columns, int64_t ld) {
  if (ld == columns) return nf4_dequantize(context, destination, dtype, nf4, n);
  const int64_t size = size_of(dtype);
  auto *values = static_cast<char *>(scratch(context, n * size));
  if (values == nullptr) return fail(NT_OUT_OF_MEMORY, "nf4_dequantize: no memory for %lld values", (long long)n);
  nf4_dequantize(context, values, dtype, nf4, n);
  for (int64_t i = 0; i < n; i += columns)
    memcpy(static_cast<char *>(destination) + i / columns * ld * size, values + i * size,
           size_t((n - i < columns ? n - i : columns) * size));
  return NT_OK;
}

namespace {

int32_t nf4_quantize(nt_context *context, uint8_t *codes, float *absmax, const void *source, int32_t source_dtype,
                     int64_t n, uint32_t *non_finite) {
  if (source_dtype == NT_F32)
    quantize(context->threads, codes, absmax, static_cast<const float *>(source), n, non_finite);
  else if (source_dtype == NT_BF16)
    quantize(context->threads, codes, absmax, static_cast<const bf16 *>(source), n, non_finite);
  else
    quantize(context->threads, codes, absmax, static_cast<const f16 *>(source), n, non_finite);
  return NT_OK;
}

int32_t nf4_quantize_absmax(nt_context *context, uint8_t *codes, float *absmax2, const float *absmax, int64_t blocks) {
  double sum = 0;
  for (int64_t b = 0; b < blocks; b++) sum += absmax[b];
  const float offset = float(sum / double(blocks));
  const int64_t groups = (blocks + kNested - 1) / kNested;
  absmax2[groups] = offset;
  parallel_for(context->threads, groups, 8, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; g++) {
      const int64_t first = g * kNested, last = first + kNested < blocks ? first + kNested : blocks;
      float top = 0;
      for (int64_t b = first; b < last; b++) {
        const float distance = fabsf(absmax[b] - offset);
        top = distance > top ? distance : top;
      }
      absmax2[g] = top;
      const float inverse = nt_nf4_inverse(top);
      for (int64_t b = first; b < last; b++)
        codes[b] = uint8_t(nt_nf4_nested_code(kDynamicMap, (absmax[b] - offset) * inverse));
    }
  });
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/nf4.h"
