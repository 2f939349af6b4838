#include "amx_matmul.h"

#ifdef __AMX_BF16__

#include <string.h>

#include <algorithm>

#include "amx_packing.h"
#include "item_memory.h"
#include "product_panels.h"
#include "word_packing.h"

namespace nt {
namespace {

// Columns of b are packed by the thread that uses them, and stay in its L2 cache while the rows of a pass by, 32 at a time.
// These, or as much of their sums as the L1 cache holds, are multiplied with one block of 32 columns after the other; b's
// tiles pass the L1 cache by. Beside the products, the sums of the block before are rounded into c, and what comes next is
// asked for: neither waits for memory then. The low-rank term is a few more steps of the same sum, so that c is written once
// and not read.
constexpr int64_t kCached = 18;              // steps of the sum for which 32 rows stay in the L1 cache
constexpr int64_t kRightWords = 256 << 10;   // packed columns that stay in the L2 cache
constexpr int64_t kDeepest = 32;             // steps for which columns are packed: longer sums are put aside in between
constexpr int64_t kAsideWords = 4 << 20;     // sums put aside, at most
constexpr int64_t kPanelRows = 2048;         // rows that have sums put aside, at most
constexpr int64_t kFewestRows = 128;         // rows of a piece of work, if there are as many
constexpr int64_t kFewestBlocks = 4;         // blocks of columns of a piece of work, if there are as many
constexpr int64_t kBlockWords = kBlock * kBlock;
constexpr int64_t kSetDistance = 4096;       // bytes between rows that fall into the same set of the L1 cache

// The size of equal pieces of `count`, none larger than `most`.
int64_t piece_size(int64_t count, int64_t most) { return ceil_div(count, ceil_div(count, most)); }

// Steps of the sum, and pieces of work. What becomes of an element of c does not depend on them: sums that are put aside
// are in float32, as in tiles.
struct Plan {
  int64_t steps;                      // of K
  int64_t deep;                       // steps of a panel
  int64_t cached;                     // steps for which a block of rows passes by the columns before the next steps
  int64_t extra;                      // steps of the low-rank term
  int64_t panel_rows, panel_columns;  // what is multiplied, `deep` steps of it, before the rest
  int64_t rows, columns;              // of a thread's piece of a panel

  Plan(const Product &p, int64_t R, int threads) : steps(ceil_div(p.k, kStep)), extra(ceil_div(R, kStep)) {
    deep = piece_size(steps, kDeepest);
    cached = piece_size(deep, kCached);
    panel_rows = std::min(p.m, kPanelRows);
    panel_columns = round_up(p.n, kBlock);
    if (deep < steps) panel_columns = std::min(panel_columns, kAsideWords / row_blocks() / kBlockWords * kBlock);
    const int64_t blocks = panel_columns / kBlock, most = std::max<int64_t>(1, kRightWords / block_words());
    // As many pieces for each thread, unless they get narrow.
    const int64_t least = ceil_div(blocks, most), even = round_up(least, threads);
    columns = ceil_div(blocks, std::max(least, std::min(even, ceil_div(blocks, kFewestBlocks)))) * kBlock;
    // Enough that none waits long for another's last.
    const int64_t pieces = ceil_div(8 * threads, ceil_div(panel_columns, columns));
    rows = round_up(std::max(ceil_div(panel_rows, pieces), std::min(panel_rows, kFewestRows)), kBlock);
  }
  int64_t block_words() const { return (deep + extra) * kBlockStep; }
  bool makes_sums_at_once() const { return cached == steps; }
  int64_t row_blocks() const { return ceil_div(panel_rows, kBlock); }
  int64_t aside_words() const { return deep < steps ? row_blocks() * panel_columns * kBlock : 0; }
};

// Lines of the cache that will be written, asked for one by one.
struct ExpectedLines {
  const char *at = nullptr;
  int64_t distance = 0, left = 0;

  void ask(int64_t count) {
    for (; count > 0 && left > 0; count--, left--, at += distance) __builtin_prefetch(at, 1, 3);
  }
};

// What is done beside the products of a block, a part of it with each step.
template <typename C>
struct BesideWork {
  // Sums of the block before, to be rounded into c, some rows with each step.
  const float *sums = nullptr;
  C *c = nullptr;
  int64_t ldc = 0, rows = 0, rows_a_step = 0;
  ExpectedLines results;  // of the next block
  // Some rows of the next block of rows, `distance` bytes apart: a line of each with each step.
  const char *next = nullptr;
  int64_t distance = 0, next_rows = 0;

  void round(int64_t count) {
    for (; count > 0 && rows > 0; count--, rows--, c += ldc, sums += kBlock) put(c, sums);
  }
  void operator()() {
    round(rows_a_step);
    results.ask(2 * rows_a_step);
    const char *line = next;
    for (int64_t i = 0; i < next_rows; i++, line += distance) __builtin_prefetch(line, 0, 2);
    next += 64;
  }
};

// A thread's memory; without any it is only measured.
struct Memory {
  float *right;  // [blocks, deep + extra, kBlockStep]
  float *left;   // [cached + extra, kBlockStep]
  float *strip;  // the term's words in the order of a strip
  float *sums;   // of two blocks in turn, or of all where `cached` steps do not make them whole
  int64_t words;

  Memory(const Plan &plan, float *memory) {
    Parts parts = {memory};
    right = parts.take(plan.columns / kBlock * plan.block_words());
    left = parts.take((plan.cached + plan.extra) * kBlockStep);
    strip = parts.take(plan.extra * kEdge * kStrip);
    sums = parts.take((plan.makes_sums_at_once() ? 2 : std::max<int64_t>(2, plan.columns / kBlock)) * kBlockWords);
    words = parts.used;
  }
};

// Pieces of a panel: rows [m, m + rows) and columns [n, n + columns).
template <typename C>
class Pieces {
 public:
  // aside: the blocks' sums [columns, rows of blocks], null where they are made at once.
  Pieces(const Product &product, const LowRankTerm &term, const Plan &plan, const ProductPanel &panel, float *aside,
         PackedColumns *packed, float *memory)
      : product_(product), term_(term), plan_(plan), panel_(panel), aside_(aside), packed_(packed), memory_(plan, memory) {}

  void run(int64_t m, int64_t n) {
    const int64_t end = std::min(m + plan_.rows, panel_.m + panel_.rows);
    const int64_t columns = std::min(plan_.columns, panel_.n + panel_.columns - n);
    pack(n, columns);
    for (; m < end; m += kBlock) block_of_rows(m, std::min(kBlock, end - m), n, columns);
    beside_.round(kBlock);
  }

 private:
  const Product &product_;
  const LowRankTerm &term_;
  const Plan &plan_;
  const ProductPanel &panel_;
  float *aside_;
  PackedColumns *packed_;
  const Memory memory_;
  BesideWork<C> beside_ = {};
  const AmxTiles tiles_;

  bool has_term() const { return panel_.is_last && plan_.extra > 0; }
  // The term's packed columns follow those of b.
  float *term_columns(int64_t j) const { return memory_.right + j / kBlock * plan_.block_words() + plan_.deep * kBlockStep; }
  const float *columns_of(int64_t n, int64_t j, int64_t k) const {
    if (product_.b_blocked == nullptr) return memory_.right + j / kBlock * plan_.block_words() + k * kBlockStep;
    return static_cast<const float *>(product_.b_blocked) + ((n + j) / kBlock * plan_.steps + panel_.k + k) * kBlockStep;
  }

  void pack(int64_t n, int64_t columns) const {
    if (packed_->are(panel_, n)) return;
    if (product_.b_blocked == nullptr) {
      if (product_.b.row != 1 && n + columns <= product_.n && (panel_.k + panel_.depth) * kStep <= product_.k)
        pack_column_blocks(memory_.right, plan_.block_words(), columns / kBlock, product_.b, n, panel_.k, panel_.depth);
      else
        for (int64_t j = 0; j < columns; j += kBlock)
          pack_columns(memory_.right + j / kBlock * plan_.block_words(), product_.b, product_.k, product_.n, n + j, panel_.k,
                       panel_.depth);
    }
    if (has_term())
      for (int64_t j = 0; j < columns; j += kBlock) pack_term(j, n);
    packed_->become(panel_, n);
  }

  void pack_term(int64_t j, int64_t n) const {
    static_assert(kStrip == 2 * kBlock && kPairs<bf16>, "a strip of words is two blocks wide");
    const int64_t inside = (n + j) % kStrip;
    const int64_t words = Packing<bf16>::words(term_.width()), whole = plan_.extra * kEdge;
    if (j == 0 || inside == 0) pack_low_rank<bf16>(memory_.strip, term_, words, n + j - inside, product_.n);
    memset(memory_.strip + words * kStrip, 0, size_t((whole - words) * kStrip) * 4);
    for (int64_t word = 0; word < whole; word++)
      for (int64_t tile = 0; tile < 2; tile++)
        store(term_columns(j) + word / kEdge * kBlockStep + tile * kTileSize + word % kEdge * kEdge,
              load(memory_.strip + word * kStrip + inside + tile * kEdge));
  }

  C *result(int64_t m, int64_t n) const { return static_cast<C *>(product_.c) + m * product_.ldc + n; }

  float *aside(int64_t m, int64_t n) const {
    return aside_ + ((n - panel_.n) / kBlock * plan_.row_blocks() + (m - panel_.m) / kBlock) * kBlockWords;
  }

  // Where the sums of a block lie.
  float *sums_of(int64_t m, int64_t n, int64_t j) const {
    if (aside_ != nullptr) return aside(m, n + j);
    return memory_.sums + (plan_.makes_sums_at_once() ? j / kBlock % 2 : j / kBlock) * kBlockWords;
  }

  void block_of_rows(int64_t m, int64_t rows, int64_t n, int64_t columns) {
    const auto add_products = rows > kEdge ? &Pieces::add_products<2> : &Pieces::add_products<1>;
    if (has_term())
      pack_rows(memory_.left + plan_.cached * kBlockStep, static_cast<const bf16 *>(term_.left) + m * term_.ld, term_.ld,
                rows, 0, plan_.extra, term_.width());
    for (int64_t k = 0; k < panel_.depth; k += plan_.cached) {
      const int64_t steps = std::min(plan_.cached, panel_.depth - k);
      const bool is_end = k + steps == panel_.depth, makes_results = panel_.is_last && is_end;
      const AmxOperand left = rows_of(m, rows, panel_.k + k, steps);
      expect_rows(is_end ? m + kBlock : m, panel_.k + (is_end ? 0 : k + steps), columns, steps);
      for (int64_t j = 0; j < columns; j += kBlock) {
        const bool is_next_row = j + kBlock == columns;
        expect_sums(is_next_row ? m + kBlock : m, is_next_row ? n : n + j + kBlock, k, makes_results);
        float *sums = sums_of(m, n, j);
        const Range used = makes_results && has_term() ? term_steps(n + j) : Range{0, 0};
        (this->*add_products)(sums, panel_.k + k > 0, steps, left, columns_of(n, j, k), used, term_columns(j));
        if (makes_results) finish(m, rows, n + j, sums);
        beside_.next += beside_.next_rows * beside_.distance - steps * 64;
      }
    }
  }

  // Whole rows are read as they lie, unless all would fall into the same set of the L1 cache.
  AmxOperand rows_of(int64_t m, int64_t rows, int64_t step, int64_t steps) const {
    const auto *a = static_cast<const bf16 *>(element(product_.a, m, 0));
    const int64_t lda = product_.a.row, bytes = lda * 2, k = step * kStep;
    if (rows == kBlock && bytes % kSetDistance != 0 && k + steps * kStep <= product_.k)
      return {a + k, bytes, kEdge * 4, kEdge * bytes};
    pack_rows(memory_.left, a, lda, rows, k, steps, product_.k);
    return packed(memory_.left);
  }

  static AmxOperand packed(const float *tiles) { return {tiles, kEdge * 4, kBlockStep * 4, kTileSize * 4}; }

  // The block at m, n is next: its rows of c, or its sums put aside.
  void expect_sums(int64_t m, int64_t n, int64_t k, bool makes_results) {
    if (makes_results)
      beside_.results = {reinterpret_cast<const char *>(result(m, n)), product_.ldc * int64_t(sizeof(C)), kBlock};
    else if (aside_ != nullptr && k == 0)
      beside_.results = {reinterpret_cast<const char *>(aside(m, n)), 64, 2 * kBlock};
  }

  // Rows from m on are needed after the blocks of these columns.
  void expect_rows(int64_t m, int64_t step, int64_t columns, int64_t steps) {
    const bool are_there = m < panel_.m + panel_.rows;
    beside_.next = static_cast<const char *>(element(product_.a, are_there ? m : panel_.m, step * kStep));
    beside_.distance = product_.a.row * 2;
    beside_.next_rows = are_there ? ceil_div(kBlock * kBlock, columns) : 0;
    beside_.rows_a_step = ceil_div(kBlock, steps);
  }

  Range term_steps(int64_t n) const {
    const Range words = term_words<bf16>(term_, n / kStrip * kStrip);
    return {words.begin / kEdge, ceil_div(words.end, kEdge)};
  }

  template <int M>
  void add_products(float *sums, bool begun, int64_t steps, const AmxOperand &left, const float *right, const Range &used,
                    const float *term_right) {
    const auto nothing = [] {};
    BesideWork<C> beside = beside_;  // in registers
    amx_begin<M, 2>(sums, kBlock, begun);
    amx_sum<M, 2, true>(steps, left, packed(right), beside);
    if (used.begin < used.end)
      amx_sum<M, 2>(used.end - used.begin, packed(memory_.left + (plan_.cached + used.begin) * kBlockStep),
                    packed(term_right + used.begin * kBlockStep), nothing);
    amx_end<M, 2>(sums, kBlock);
    beside_ = beside;
  }

  // Sums of a block that are whole: rounded into c beside the next block's products, or at once.
  void finish(int64_t m, int64_t rows, int64_t n, float *sums) {
    C *c = result(m, n);
    const int64_t columns = std::min(kBlock, product_.n - n);
    if (product_.bias != nullptr)
      for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) sums[i * kBlock + j] += product_.bias[n + j];
    if (columns == kBlock && !product_.accumulate)
      beside_.sums = sums, beside_.c = c, beside_.ldc = product_.ldc, beside_.rows = rows;
    else
      put(c, product_.ldc, sums, kBlock, rows, columns, product_.accumulate, 1.0f);
  }
};

template <typename C>
int32_t multiply(nt_context *context, const Product &product, const LowRankTerm &term) {
  const Plan plan(product, term.width(), context->threads);
  float *aside = nullptr;
  if (plan.deep < plan.steps) {
    aside = static_cast<float *>(scratch(context, plan.aside_words() * 4));
    if (aside == nullptr)
      return fail(NT_OUT_OF_MEMORY, "linear: no memory to put sums of %lld rows aside", (long long)plan.panel_rows);
  }
  const int64_t words = Memory(plan, nullptr).words;
  return for_each_panel(product, plan, plan.steps, kBlock, [&](const ProductPanel &panel) {
    return run_pieces(context, panel, plan, words, [&](PackedColumns *packed, float *memory) {
      return Pieces<C>(product, term, plan, panel, aside, packed, memory);
    });
  });
}

}  // namespace

int32_t amx_matmul(nt_context *context, const Product &product, const LowRankTerm &term) {
  if (product.m <= 0 || product.n <= 0 || product.k <= 0) return NT_OK;
  return product.c_dtype == NT_F32 ? multiply<float>(context, product, term) : multiply<bf16>(context, product, term);
}

}  // namespace nt

#else

namespace nt {

int32_t amx_matmul(nt_context *, const Product &, const LowRankTerm &) {
  return fail(NT_UNSUPPORTED, "linear: this instruction set has no AMX");
}

}  // namespace nt

#endif
