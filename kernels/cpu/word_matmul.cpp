#include "word_matmul.h"

#include <string.h>

#include <algorithm>

#include "product_panels.h"
#include "weight_packing.h"
#include "word_block.h"
#include "word_packing.h"

namespace nt {
namespace {

// As in Goto's algorithm (ACM TOMS 34, 12), operands are copied into the order in which a micro-kernel reads them: a's rows by
// all threads together at first, b in strips of as many columns as a micro-kernel holds, by the thread that uses them, which
// then lie in its L2 cache while the rows pass by. bf16 is packed as floats where the CPU multiplies only these, and so
// widened once for many uses. The low-rank term is a few more words of the same sum, so that c is written once and not read.
constexpr int64_t kRows = kAccumulators / kVectors;     // of a micro-kernel
constexpr int64_t kDeepest = kLanes == 16 ? 768 : 320;  // words of the sum that are taken at a time
// From one of a's rows to the next: a number for the compiler, and an odd one of cache lines, so that rows fall into
// different sets.
constexpr int64_t kStride = kDeepest + kMostLowRank + 16;
static_assert(kStride % 32 == 16, "rows fall into the same sets");
constexpr int64_t kStripWords = (kLanes == 16 ? 160 : 48) << 10;  // of strips in the cache,
constexpr int64_t kRowWords = (kLanes == 16 ? 64 : 24) << 10;     // and of rows
constexpr int64_t kPanelRows = 2048, kAsideWords = 4 << 20;       // of a that are packed at a time; of sums put aside

// Of `strips`, how many a thread takes at a time: at most `most`, and if they are not far fewer, so that all have as many.
int64_t even(int64_t strips, int64_t most) {
  for (int64_t some = most; 2 * some > most; some--)
    if (strips % some == 0) return some;
  return most;
}

// Words of the sum, and pieces of work.
struct Plan {
  int64_t words, deep, extra;           // of k, of it at a time, of the low-rank term
  int64_t panel_rows, panel_columns;    // that are multiplied, `deep` words of them, before others
  int64_t rows, columns;                // of a thread's piece of that
  int64_t cached_rows;                  // of a piece, for one strip after the other

  Plan(const Product &p, int64_t K, int64_t R, int threads) : words(K), extra(R) {
    deep = round_up(ceil_div(words, ceil_div(words, kDeepest)), kLanes);
    panel_rows = std::min(p.m, kPanelRows);
    panel_columns = round_up(p.n, kStrip);
    if (deep < words) panel_columns = std::min(panel_columns, kAsideWords / panel_rows / kStrip * kStrip);
    columns = even(panel_columns / kStrip, std::min(panel_columns, kStripWords / (deep + extra)) / kStrip) * kStrip;
    // Enough pieces that no thread waits long for another's last.
    const int64_t pieces = ceil_div(16 * threads, ceil_div(panel_columns, columns));
    rows = round_up(ceil_div(panel_rows, std::min(pieces, ceil_div(panel_rows, 4 * kRows))), kRows);
    cached_rows = kRowWords / (deep + extra) / kRows * kRows;
  }
  int64_t strip_words() const { return columns * (deep + extra); }
  int64_t left_words() const { return round_up(panel_rows, kLanes) * kStride; }
  int64_t aside_words() const { return deep < words ? panel_rows * panel_columns : 0; }
};

constexpr int64_t kLine = 16;  // words of a cache line

// sums[M, N vectors of kStrip] (+)= left[M, words]·right[words, kStrip]. A cache line from `next` on is asked for with
// every kUnrolled words, to be in the L2 cache when it is needed.
template <bool Pairs, int M, int N>
__attribute__((noinline)) void strip_sums(int64_t words, const float *left, const float *right, float *sums, bool add,
                                           const float *next) {
  WordBlock<Pairs, M, N> block;
  block.begin(sums, kStrip, add);
  block.multiply(words, left, kStride, 1, right, kStrip, [&] {
    __builtin_prefetch(next, 0, 2);
    next += kLine;
  });
  block.end(sums, kStrip);
}

template <bool Pairs, int M = kRows>
void strip_sums(int64_t rows, int64_t words, const float *left, const float *right, float *sums, bool add,
                const float *next) {
  if (rows == M) return strip_sums<Pairs, M, kVectors>(words, left, right, sums, add, next);
  if constexpr (M > 1) strip_sums<Pairs, M - 1>(rows, words, left, right, sums, add, next);
}

// What all threads share: a's rows, packed, and the sums put aside.
struct Shared {
  float *left;   // [rows, kStride]
  float *aside;  // [strips, rows, kStrip], null where the sum is made at once
};

// Pieces of a panel: rows [m, m + rows) and columns [n, n + columns).
template <typename T, typename C>
class Pieces {
 public:
  Pieces(const Product &product, const LowRankTerm &term, const Plan &plan, const ProductPanel &panel, const Shared &shared,
         PackedColumns *packed, float *memory)
      : product_(product), term_(term), plan_(plan), panel_(panel), shared_(shared), packed_(packed), strips_(memory) {}

  void run(int64_t m, int64_t n) const {
    const int64_t end = std::min(m + plan_.rows, panel_.m + panel_.rows);
    const int64_t columns = std::min(plan_.columns, panel_.n + panel_.columns - n);
    pack(n, columns);
    for (; m < end; m += plan_.cached_rows) {
      const int64_t rows = std::min(plan_.cached_rows, end - m);
      const float *next = left(m + rows < end ? m + rows : m);
      for (int64_t j = 0; j < columns; j += kStrip)
        for (int64_t i = 0; i < rows; i += kRows, next += panel_.depth / kUnrolled * kLine)
          tile(m + i, std::min(kRows, rows - i), n + j, strip(j), next);
    }
  }

 private:
  const Product &product_;
  const LowRankTerm &term_;
  const Plan &plan_;
  const ProductPanel &panel_;
  const Shared &shared_;
  PackedColumns *packed_;
  float *strips_;  // [strips, deep + extra, kStrip]

  float *strip(int64_t column) const { return strips_ + column * (plan_.deep + plan_.extra); }
  const float *left(int64_t m) const { return shared_.left + (m - panel_.m) * kStride; }

  void pack(int64_t n, int64_t columns) const {
    if (packed_->are(panel_, n)) return;
    pack_right<T>(strips_, strip(kStrip) - strips_, product_, n, columns, panel_.k, panel_.depth);
    if (panel_.is_last && plan_.extra > 0)
      for (int64_t j = 0; j < columns; j += kStrip)
        pack_low_rank<T>(strip(j) + plan_.deep * kStrip, term_, plan_.extra, n + j, product_.n);
    packed_->become(panel_, n);
  }

  void tile(int64_t m, int64_t rows, int64_t n, const float *right, const float *next) const {
    alignas(64) float own[kRows * kStrip];
    float *sums = own;
    if (shared_.aside != nullptr) {
      sums = shared_.aside + ((n - panel_.n) / kStrip * panel_.rows + m - panel_.m) * kStrip;
      // The next tile's sums follow.
      for (int64_t j = kRows * kStrip; j < 2 * kRows * kStrip; j += kLine) __builtin_prefetch(sums + j, 1);
    }
    C *c = static_cast<C *>(product_.c) + m * product_.ldc + n;
    if (panel_.is_last)
      for (int64_t row = 0; row < rows; row++)
        for (int64_t j = 0; j < kStrip; j += 64 / int64_t(sizeof(C))) __builtin_prefetch(c + row * product_.ldc + j, 1);
    strip_sums<kPairs<T>>(rows, panel_.depth, left(m), right, sums, panel_.k > 0, next);
    if (!panel_.is_last) return;
    const Range used = term_words<T>(term_, n);
    if (used.begin < used.end)
      strip_sums<kPairs<T>>(rows, used.end - used.begin, left(m) + plan_.deep + used.begin,
                            right + (plan_.deep + used.begin) * kStrip, sums, true, right);
    const int64_t columns = std::min(kStrip, product_.n - n);
    for (int64_t row = 0; row < rows; row++, c += product_.ldc, sums += kStrip) put(c, sums, n, columns);
  }

  // c[columns], at column n of the product, from sums.
  void put(C *c, const float *sums, int64_t n, int64_t columns) const {
    int64_t j = 0;
    for (; j + kLanes <= columns; j += kLanes) {
      Vec sum = load(sums + j);
      if (product_.bias != nullptr) sum += load(product_.bias + n + j);
      if (product_.accumulate) sum += load(c + j);
      store_rounded(c + j, sum);
    }
    if (j == columns) return;
    Vec sum = load(sums + j);
    if (product_.bias != nullptr) sum += load_part(product_.bias + n + j, columns - j);
    if (product_.accumulate) sum += load_part(c + j, columns - j);
    C last[kLanes];
    store_rounded(last, sum);  // as the others, to the bit
    memcpy(c + j, last, size_t(columns - j) * sizeof(C));
  }
};

// Packs the rows of a panel.
template <typename T>
void pack_rows_of(nt_context *context, const Product &product, const LowRankTerm &term, const Plan &plan,
                  const ProductPanel &panel, float *left) {
  parallel_for(context->threads, ceil_div(panel.rows, kLanes), 1, [&](int64_t begin, int64_t end) {
    float *to = left + begin * kLanes * kStride;
    const int64_t m = panel.m + begin * kLanes, rows = std::min(panel.m + panel.rows, panel.m + end * kLanes) - m;
    pack_left<T>(to, kStride, product.a, m, rows, panel.k, panel.depth, product.k);
    if (panel.is_last && plan.extra > 0)
      pack_left<T>(to + plan.deep, kStride, {term.left, 0, term.ld, 1}, m, rows, 0, plan.extra, term.width());
  });
}

template <typename T, typename C>
int32_t multiply(nt_context *context, const Product &product, const LowRankTerm &term) {
  const int64_t words = Packing<T>::words(product.k);
  const Plan plan(product, words, Packing<T>::words(term.width()), context->threads);
  auto *left = static_cast<float *>(scratch(context, (plan.left_words() + plan.aside_words()) * 4));
  if (left == nullptr) return fail(NT_OUT_OF_MEMORY, "linear: no memory to pack %lld rows", (long long)plan.panel_rows);
  const Shared shared = {left, plan.deep < words ? left + plan.left_words() : nullptr};
  return for_each_panel(product, plan, words, 1, [&](const ProductPanel &panel) {
    pack_rows_of<T>(context, product, term, plan, panel, left);
    return run_pieces(context, panel, plan, plan.strip_words(), [&](PackedColumns *packed, float *memory) {
      return Pieces<T, C>(product, term, plan, panel, shared, packed, memory);
    });
  });
}

template <typename T>
int32_t multiply(nt_context *context, const Product &product, const LowRankTerm &term) {
  return product.c_dtype == NT_F32 ? multiply<T, float>(context, product, term) : multiply<T, bf16>(context, product, term);
}

template <typename T>
int64_t threads_that_pack(int threads, const Product &product, int64_t rank) {
  const Plan plan(product, Packing<T>::words(product.k), Packing<T>::words(rank), threads);
  const int64_t across = ceil_div(plan.panel_columns, plan.columns), down = ceil_div(plan.panel_rows, plan.rows);
  return std::min(ceil_div(threads, across), down);
}

}  // namespace

int64_t threads_that_pack(nt_context *context, const Product &product, int64_t rank) {
  return product.a.dtype == NT_F32 ? threads_that_pack<float>(context->threads, product, rank)
                                   : threads_that_pack<bf16>(context->threads, product, rank);
}

int32_t word_matmul(nt_context *context, const Product &product, const LowRankTerm &term) {
  if (product.m <= 0 || product.n <= 0 || product.k <= 0) return NT_OK;
  return product.a.dtype == NT_F32 ? multiply<float>(context, product, term) : multiply<bf16>(context, product, term);
}

}  // namespace nt
