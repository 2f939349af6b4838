// c[t, j] = Σ_k a[t, k] · w[j, k]. Threads share the rows j of w; kLanes of them make a vector of results. Each result is
// summed in one vector of partial sums, along k, and then over its lanes, whatever is computed beside it.
#include "few_rows.h"

#include "lane_sums.h"
#include "matmul.h"
#include "parallel.h"
#include "product_result.h"
#include "scratch.h"

namespace nt {

namespace {

// How values are multiplied: in float32, or in bf16 by the instruction that multiplies and adds pairs. A is the type of
// a's rows then.
template <typename T>
struct ByFloat {
  using A = float;
  using W = T;
  static constexpr int kLoaded = kLanes;
  static Vec load(const W *w) { return nt::load(w); }
  static Vec load_part(const W *w, int64_t n) { return nt::load_part(w, n); }
  static Vec multiply_add(Vec w, const A *a, Vec sum) { return fma(w, nt::load(a), sum); }
  static Vec multiply_add_part(Vec w, const A *a, int64_t n, Vec sum) { return fma(w, nt::load_part(a, n), sum); }
};
#ifdef __AVX512BF16__
struct ByPair {
  using A = bf16;
  using W = bf16;
  static constexpr int kLoaded = 2 * kLanes;
  static __m512i load(const W *w) { return _mm512_loadu_si512(w); }
  static __m512i load_part(const W *w, int64_t n) {
    return _mm512_maskz_loadu_epi16(__mmask32((uint64_t(1) << n) - 1), w);
  }
  static Vec multiply_add(__m512i w, const A *a, Vec sum) {
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)w, (__m512bh)load(a));
  }
  static Vec multiply_add_part(__m512i w, const A *a, int64_t n, Vec sum) {
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)w, (__m512bh)load_part(a, n));
  }
};
#endif

// The most rows of a whose sums stay in registers, and as many vectors of sums there may be.
#ifdef __AVX512F__
constexpr int kMostRows = 8, kSums = 24;
#else
constexpr int kMostRows = 4, kSums = 12;
#endif

// How many rows of w ahead memory is asked for: the hardware does not see beyond a page.
constexpr int kAhead = 8;

// Rows of w that one pass over k takes.
constexpr int rows_of_weight(int rows) {
  for (int n = 8; n > 1; n /= 2)
    if (n * rows <= kSums && n <= kLanes / 2) return n;
  return 1;
}

// sums[t][first + j]: the partial sums of rows t of a with `n` rows of w from `first` on; beyond `last` the last one is
// read again.
template <typename Mode, int rows, int n>
inline void partial_sums(Vec (&sums)[kMostRows][kLanes], int first, int last, const typename Mode::A *a, int64_t lda,
                         const typename Mode::W *w, int64_t in) {
  const typename Mode::W *row[n];
  for (int j = 0; j < n; j++) row[j] = w + (first + j < last ? first + j : last) * in;
  Vec sum[n][rows] = {};
  int64_t k = 0;
  for (; k + Mode::kLoaded <= in; k += Mode::kLoaded)
    for (int j = 0; j < n; j++) {
      const auto loaded = Mode::load(row[j] + k);
      __builtin_prefetch(row[j] + kAhead * in + k);
      for (int t = 0; t < rows; t++) sum[j][t] = Mode::multiply_add(loaded, a + t * lda + k, sum[j][t]);
    }
  if (k < in)
    for (int j = 0; j < n; j++) {
      const auto loaded = Mode::load_part(row[j] + k, in - k);
      for (int t = 0; t < rows; t++)
        sum[j][t] = Mode::multiply_add_part(loaded, a + t * lda + k, in - k, sum[j][t]);
    }
  for (int j = 0; j < n; j++)
    for (int t = 0; t < rows; t++) sums[t][first + j] = sum[j][t];
}

// `rows` rows of c from `t` on, columns begin … end, from the rows w of the weight that begin with `begin`.
template <typename Mode, int rows>
void some_rows(const ProductResult &result, int64_t t, const typename Mode::A *a, int64_t lda,
               const typename Mode::W *w, int64_t begin, int64_t end, int64_t in) {
  constexpr int n = rows_of_weight(rows);
  for (int64_t j = begin; j < end; j += kLanes) {
    const int64_t width = end - j < kLanes ? end - j : kLanes;
    Vec sums[kMostRows][kLanes];
    for (int i = 0; i < kLanes; i += n)
      partial_sums<Mode, rows, n>(sums, i, int(width) - 1, a + t * lda, lda, w + (j - begin) * in, in);
    for (int r = 0; r < rows; r++) result.put(t + r, j, sums_of(sums[r]), width);
  }
}

template <typename Mode, int rows>
void up_to_rows(int64_t count, const ProductResult &result, int64_t t, const typename Mode::A *a, int64_t lda,
                const typename Mode::W *w, int64_t begin, int64_t end, int64_t in) {
  if (count == rows) return some_rows<Mode, rows>(result, t, a, lda, w, begin, end, in);
  if constexpr (rows > 1) up_to_rows<Mode, rows - 1>(count, result, t, a, lda, w, begin, end, in);
}

// Rows of w that stay in a core's cache while groups of rows of a meet them; those of a weight in NF4 are expanded there.
constexpr int64_t kBlockBytes = 128 << 10, kExpandedBytes = 32 << 10;

template <typename Mode>
int32_t product(int threads, const ProductResult &result, const typename Mode::A *a, int64_t lda,
                const nt_weight *weight, int64_t T) {
  using W = typename Mode::W;
  const int64_t out = weight->out, in = weight->in, row_bytes = in * int64_t(sizeof(W));
  const bool coded = weight->scratch != nullptr;
  const int64_t block = ((coded ? kExpandedBytes : kBlockBytes) / row_bytes / kLanes + 1) * kLanes;
  const int64_t vectors = (out + kLanes - 1) / kLanes;
  bool has_memory = true;
  parallel_for(threads, vectors, 1 + (1 << 14) / (row_bytes * kLanes), [&](int64_t first, int64_t last) {
    static thread_local Scratch memory;
    void *expanded = coded ? memory.at_least(nf4_rows_bytes(weight, block)) : nullptr;
    if (coded && expanded == nullptr) {
      __atomic_store_n(&has_memory, false, __ATOMIC_RELAXED);
      return;
    }
    const int64_t stop = last * kLanes < out ? last * kLanes : out;
    for (int64_t begin = first * kLanes; begin < stop; begin += block) {
      const int64_t end = begin + block < stop ? begin + block : stop;
      const W *w = coded ? static_cast<const W *>(nf4_rows(expanded, weight, begin, end))
                         : static_cast<const W *>(weight->data) + begin * in;
      for (int64_t t = 0; t < T; t += kMostRows)
        up_to_rows<Mode, kMostRows>(T - t < kMostRows ? T - t : kMostRows, result, t, a, lda, w, begin, end, in);
    }
  });
  return has_memory ? int32_t(NT_OK) : fail(NT_OUT_OF_MEMORY, "linear: no memory to expand %lld rows", (long long)block);
}

}  // namespace

int32_t few_rows_product(nt_context *context, const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc,
                         const void *a, int64_t lda, const float *bias, bool accumulate, int64_t T) {
  const int64_t in = weight->in;
  if (T <= 0 || weight->out <= 0 || in <= 0) return NT_OK;
  const ProductResult result = {c, c_dtype, ldc, bias, accumulate};
  if (weight->dtype == NT_F32)
    return product<ByFloat<float>>(context->threads, result, static_cast<const float *>(a), lda, weight, T);
#ifdef __AVX512BF16__
  return product<ByPair>(context->threads, result, static_cast<const bf16 *>(a), lda, weight, T);
#else
  auto *rows = static_cast<float *>(scratch(context, T * in * 4));
  if (rows == nullptr) return fail(NT_OUT_OF_MEMORY, "linear: no memory for %lld rows as f32", (long long)T);
  parallel_for(context->threads, T, 1 + (1 << 15) / in, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const bf16 *from = static_cast<const bf16 *>(a) + t * lda;
      float *to = rows + t * in;
      int64_t k = 0;
      for (; k + kLanes <= in; k += kLanes) store(to + k, load(from + k));
      if (k < in) store_part(to + k, load_part(from + k, in - k), in - k);
    }
  });
  return product<ByFloat<bf16>>(context->threads, result, rows, in, weight, T);
#endif
}

}  // namespace nt
