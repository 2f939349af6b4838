// The arithmetic of the stand-in for cuBLASLt (cublaslt.cpp): float32 sums of products of float32 or bfloat16.
#pragma once
#include "../cuda/cublaslt.h"

#include <immintrin.h>
#include <stdlib.h>
#include <string.h>

namespace nt::lt {
namespace {

size_t size_of(DataType type) { return type == kFloat32 ? 4 : 2; }

float bf16_to_float(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  float x;
  memcpy(&x, &wide, 4);
  return x;
}
uint16_t float_to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FFF;
  return uint16_t((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
}
float widened(float x) { return x; }
float widened(uint16_t x) { return bf16_to_float(x); }
float load(const void *data, DataType type, int64_t i) {
  return type == kFloat32 ? static_cast<const float *>(data)[i] : widened(static_cast<const uint16_t *>(data)[i]);
}

// `count` vectors of length k in panels of `width` side by side: panel[k][width], the last filled up with zeros.
// Element p of vector i is data[i · step + p · stride]; the loops go along whichever of the two is 1.
template <class T>
void pack(float *packed, const T *data, int64_t count, int64_t k, int64_t step, int64_t stride, int64_t width) {
  for (int64_t first = 0; first < count; first += width, packed += width * k) {
    const int64_t vectors = count - first < width ? count - first : width;
    if (vectors < width) memset(packed, 0, size_t(width * k) * sizeof(float));
    if (step == 1) {
      for (int64_t p = 0; p < k; p++)
        for (int64_t i = 0; i < vectors; i++) packed[p * width + i] = widened(data[first + i + p * stride]);
    } else {
      for (int64_t i = 0; i < vectors; i++)
        for (int64_t p = 0; p < k; p++) packed[p * width + i] = widened(data[(first + i) * step + p * stride]);
    }
  }
}

float *pack(const void *data, DataType type, int64_t count, int64_t k, int64_t step, int64_t stride, int64_t width) {
  const int64_t rounded = (count + width - 1) / width * width;
  auto *packed = static_cast<float *>(aligned_alloc(64, (size_t(rounded * k) * sizeof(float) + 63) / 64 * 64));
  if (packed == nullptr) abort();
  if (type == kFloat32) {
    pack(packed, static_cast<const float *>(data), count, k, step, stride, width);
  } else {
    pack(packed, static_cast<const uint16_t *>(data), count, k, step, stride, width);
  }
  return packed;
}

constexpr int kRows = 16, kColumns = 6;  // of one tile: twelve vectors of sums

// sums[column][row] = Σ_k a[k][row] · b[k][column], in order of k from `from` on and then from 0 on.
void multiply_tile(float (&sums)[kColumns][kRows], const float *a, const float *b, int64_t k, int64_t from) {
  __m256 low[kColumns], high[kColumns];
  for (int j = 0; j < kColumns; j++) low[j] = high[j] = _mm256_setzero_ps();
  const auto add = [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; p++) {
      const __m256 first = _mm256_load_ps(a + p * kRows), second = _mm256_load_ps(a + p * kRows + 8);
#pragma GCC unroll 6
      for (int j = 0; j < kColumns; j++) {
        const __m256 factor = _mm256_broadcast_ss(b + p * kColumns + j);
        low[j] = _mm256_fmadd_ps(first, factor, low[j]);
        high[j] = _mm256_fmadd_ps(second, factor, high[j]);
      }
    }
  };
  add(from, k);
  add(0, from);
  for (int j = 0; j < kColumns; j++) {
    _mm256_storeu_ps(sums[j], low[j]);
    _mm256_storeu_ps(sums[j] + 8, high[j]);
  }
}

}  // namespace
}  // namespace nt::lt
