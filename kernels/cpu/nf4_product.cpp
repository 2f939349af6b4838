// Products of few rows with an NF4 weight, as in generation: they cost the reading of the weight, so they read codes.
//
// c[t, j] = Σ_k a[t, k] · w[j, k]. Threads share the rows j; a row is walked by the blocks it lies in, a block's sixteen
// values stay in registers, and each vector looked up meets the rows of a at once.
#include "nf4_block.h"
#include "parallel.h"
#include "weight.h"

namespace nt {

namespace {

// How the values of a block are looked up and multiplied: in float32, or in bf16 by the instruction that multiplies and
// adds pairs. A is the type of a's rows then.
struct ByFloat {
  using A = float;
  using Table = Values;
  static constexpr int kLoaded = kLanes;
  static Table table(float absmax, int32_t stored, int32_t wanted) { return values_of(absmax, stored, wanted); }
  static Vec weights(const Table &table, const uint8_t *codes) { return look_up(table, codes); }
  static Vec multiply_add(Vec w, const A *a, Vec sum) { return fma(w, load(a), sum); }
};
#ifdef __AVX512BF16__
struct ByPair {
  using A = bf16;
  using Table = Values16;
  static constexpr int kLoaded = 2 * kLanes;
  // Rounded by the instruction, which takes subnormals for 0, as the product does.
  static Table table(float absmax, int32_t stored, int32_t) {
    Vec values = load(kCodebook) * splat(absmax);
    if (stored == NT_F16) values = rounded(values, NT_F16);
    return {_mm512_castsi256_si512((__m256i)_mm512_cvtneps_pbh((__m512)values))};
  }
  static __m512i weights(const Table &table, const uint8_t *codes) { return look_up_32(table, codes); }
  static Vec multiply_add(__m512i w, const A *a, Vec sum) {
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)w, (__m512bh)_mm512_loadu_si512(a));
  }
};
constexpr bool kPairs = true;
#else
using ByPair = ByFloat;
constexpr bool kPairs = false;
#endif

// Sums of one weight row with ROWS rows of a.
template <typename Mode, int ROWS>
inline void row_sums(float *result, const nt_weight *weight, const Absmax &absmax, int64_t row,
                     const typename Mode::A *a, int64_t lda) {
  constexpr int kSums = 2, kStep = kSums * Mode::kLoaded;  // neighboring vectors need not wait for each other
  Vec sum[ROWS][kSums] = {};
  float single[ROWS] = {};
  const uint8_t *codes = weight->nf4.codes;
  const int32_t stored = int32_t(weight->nf4.dtype);
  const int64_t begin = row * weight->in, end = begin + weight->in;
  for (int64_t i = begin; i < end;) {
    const int64_t block = i / kBlock, stop = (block + 1) * kBlock < end ? (block + 1) * kBlock : end;
    const float top = absmax.at(block);
    const typename Mode::Table table = Mode::table(top, stored, weight->dtype);
    auto one = [&](int64_t at) {
      const Values values = values_of(top, stored, weight->dtype);
      float sixteen[16];
      for (int v = 0; v < 16 / kLanes; v++) store(sixteen + v * kLanes, values.at[v]);
      for (int t = 0; t < ROWS; t++) single[t] += sixteen[code_at(codes, at)] * to_float(a[t * lda + at - begin]);
    };
    if (i % 2 == 1) one(i++);
    for (; i + kStep <= stop; i += kStep)
      for (int s = 0; s < kSums; s++) {
        const auto w = Mode::weights(table, codes + (i + s * Mode::kLoaded) / 2);
        for (int t = 0; t < ROWS; t++)
          sum[t][s] = Mode::multiply_add(w, a + t * lda + i - begin + s * Mode::kLoaded, sum[t][s]);
      }
    for (; i + Mode::kLoaded <= stop; i += Mode::kLoaded) {
      const auto w = Mode::weights(table, codes + i / 2);
      for (int t = 0; t < ROWS; t++) sum[t][0] = Mode::multiply_add(w, a + t * lda + i - begin, sum[t][0]);
    }
    for (; i < stop; i++) one(i);
  }
  for (int t = 0; t < ROWS; t++) result[t] = nt::sum(sum[t][0] + sum[t][1]) + single[t];
}

// c[t, j] for ROWS rows and all j.
template <typename Mode, int ROWS, typename C>
void few_rows(int threads, const nt_weight *weight, C *c, int64_t ldc, const typename Mode::A *a, int64_t lda,
              const float *bias, bool accumulate) {
  const Absmax absmax(weight->nf4, weight->out * weight->in);
  parallel_for(threads, weight->out, 1 + (1 << 14) / weight->in, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; j++) {
      float sums[ROWS];
      row_sums<Mode, ROWS>(sums, weight, absmax, j, a, lda);
      for (int t = 0; t < ROWS; t++) {
        float value = sums[t] + (bias == nullptr ? 0.0f : bias[j]);
        C *to = c + t * ldc + j;
        if (accumulate) value += to_float(*to);
        set(*to, value);
      }
    }
  });
}

template <typename Mode, typename C>
void all_rows(int threads, const nt_weight *weight, C *c, int64_t ldc, const typename Mode::A *a, int64_t lda,
              const float *bias, bool accumulate, int64_t T) {
  constexpr int64_t kMost = 4;  // whose sums stay in registers
  decltype(&few_rows<Mode, 1, C>) const instances[kMost] = {few_rows<Mode, 1, C>, few_rows<Mode, 2, C>,
                                                            few_rows<Mode, 3, C>, few_rows<Mode, 4, C>};
  for (int64_t t = 0; t < T; t += kMost) {
    const int64_t rows = T - t < kMost ? T - t : kMost;
    instances[rows - 1](threads, weight, c + t * ldc, ldc, a + t * lda, lda, bias, accumulate);
  }
}

}  // namespace

int32_t nf4_few_rows(nt_context *context, const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc, const void *a,
                     int64_t lda, const float *bias, bool accumulate, int64_t T) {
  if (T <= 0 || weight->out <= 0 || weight->in <= 0) return NT_OK;
  const auto run = [&](auto mode, const auto *rows, int64_t ld) {
    using Mode = decltype(mode);
    if (c_dtype == NT_F32)
      all_rows<Mode>(context->threads, weight, static_cast<float *>(c), ldc, rows, ld, bias, accumulate, T);
    else
      all_rows<Mode>(context->threads, weight, static_cast<bf16 *>(c), ldc, rows, ld, bias, accumulate, T);
  };
  if (weight->dtype == NT_F32) {
    run(ByFloat{}, static_cast<const float *>(a), lda);
  } else if constexpr (kPairs) {
    run(ByPair{}, static_cast<const ByPair::A *>(a), lda);
  } else {
    auto *rows = static_cast<float *>(scratch(context, T * weight->in * 4));
    if (rows == nullptr) return fail(NT_OUT_OF_MEMORY, "linear: no memory for %lld rows as f32", (long long)T);
    for (int64_t t = 0; t < T; t++)
      for (int64_t k = 0; k < weight->in; k++)
        rows[t * weight->in + k] = to_float(static_cast<const bf16 *>(a)[t * lda + k]);
    run(ByFloat{}, rows, weight->in);
  }
  return NT_OK;
}

}  // namespace nt
