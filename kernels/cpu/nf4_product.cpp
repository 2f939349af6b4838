// Products of few rows with an NF4 weight, as in generation: they cost the reading of the weight, so they read codes.
//
// c[t, j] = Σ_k a[t, k] · w[j, k]. Threads share the rows j; a row is walked by the blocks it lies in, a block's sixteen
// values stay in registers, and each vector looked up meets the rows of a (as float32) at once.
#include <string.h>

#include "nf4_block.h"
#include "parallel.h"
#include "weight.h"

namespace nt {

namespace {

// Sums of one weight row with ROWS rows of a, `count` values apart.
template <int ROWS>
inline void row_sums(float *result, const nt_weight *weight, const Absmax &absmax, int64_t row, const float *a,
                     int64_t count) {
  constexpr int kSums = 2;  // neighbouring vectors have their own, so that they need not wait for each other
  Vec sum[ROWS][kSums] = {};
  float single[ROWS] = {};
  const uint8_t *codes = weight->nf4.codes;
  const int64_t begin = row * weight->in, end = begin + weight->in;
  for (int64_t i = begin; i < end;) {
    const int64_t block = i / kBlock, stop = (block + 1) * kBlock < end ? (block + 1) * kBlock : end;
    const Values values = values_of(absmax.at(block), int32_t(weight->nf4.dtype), weight->dtype);
    auto one = [&](int64_t at) {
      float sixteen[16];
      for (int v = 0; v < 16 / kLanes; v++) store(sixteen + v * kLanes, values.at[v]);
      for (int t = 0; t < ROWS; t++) single[t] += sixteen[code_at(codes, at)] * a[t * count + at - begin];
    };
    if (i % 2 == 1) one(i++);
    for (; i + kSums * kLanes <= stop; i += kSums * kLanes)
      for (int s = 0; s < kSums; s++) {
        const Vec w = look_up(values, codes + (i + s * kLanes) / 2);
        for (int t = 0; t < ROWS; t++) sum[t][s] = fma(w, load(a + t * count + i - begin + s * kLanes), sum[t][s]);
      }
    for (; i + kLanes <= stop; i += kLanes) {
      const Vec w = look_up(values, codes + i / 2);
      for (int t = 0; t < ROWS; t++) sum[t][0] = fma(w, load(a + t * count + i - begin), sum[t][0]);
    }
    for (; i < stop; i++) one(i);
  }
  for (int t = 0; t < ROWS; t++) result[t] = nt::sum(sum[t][0] + sum[t][1]) + single[t];
}

template <int ROWS, typename C>
void few_rows(int threads, const nt_weight *weight, C *c, int64_t ldc, const float *a, const float *bias,
              bool accumulate) {
  const Absmax absmax(weight->nf4, weight->out * weight->in);
  parallel_for(threads, weight->out, 1 + (1 << 14) / weight->in, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; j++) {
      float sums[ROWS];
      row_sums<ROWS>(sums, weight, absmax, j, a, weight->in);
      for (int t = 0; t < ROWS; t++) {
        float value = sums[t] + (bias == nullptr ? 0.0f : bias[j]);
        C *to = c + t * ldc + j;
        if (accumulate) value += to_float(*to);
        set(*to, value);
      }
    }
  });
}

template <typename C>
void few_rows(int threads, const nt_weight *weight, C *c, int64_t ldc, const float *a, const float *bias,
              bool accumulate, int64_t T) {
  constexpr int64_t kMost = 4;  // whose sums stay in registers
  decltype(&few_rows<1, C>) const instances[kMost] = {few_rows<1, C>, few_rows<2, C>, few_rows<3, C>, few_rows<4, C>};
  for (int64_t t = 0; t < T; t += kMost) {
    const int64_t rows = T - t < kMost ? T - t : kMost;
    instances[rows - 1](threads, weight, c + t * ldc, ldc, a + t * weight->in, bias, accumulate);
  }
}

}  // namespace

int32_t nf4_few_rows(nt_context *context, const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc, const void *a,
                     int64_t lda, const float *bias, bool accumulate, int64_t T) {
  if (T <= 0 || weight->out <= 0 || weight->in <= 0) return NT_OK;
  auto *rows = static_cast<float *>(scratch(context, T * weight->in * 4));
  if (rows == nullptr) return fail(NT_OUT_OF_MEMORY, "linear: no memory for %lld rows as f32", (long long)T);
  for (int64_t t = 0; t < T; t++) {
    float *to = rows + t * weight->in;
    if (weight->dtype == NT_F32) {
      memcpy(to, static_cast<const float *>(a) + t * lda, size_t(weight->in) * 4);
    } else {
      const bf16 *from = static_cast<const bf16 *>(a) + t * lda;
      for (int64_t k = 0; k < weight->in; k++) to[k] = to_float(from[k]);
    }
  }
  if (c_dtype == NT_F32) {
    few_rows(context->threads, weight, static_cast<float *>(c), ldc, rows, bias, accumulate, T);
  } else {
    few_rows(context->threads, weight, static_cast<bf16 *>(c), ldc, rows, bias, accumulate, T);
  }
  return NT_OK;
}

}  // namespace nt
