#include "amx_matmul.h"

#ifdef __AMX_BF16__

#include <algorithm>
#include <atomic>

#include "amx_words.h"
#include "parallel.h"
#include "scratch.h"
#include "word_packing.h"

namespace nt {
namespace {

// b is packed into panels, some of a's rows into blocks of 32: what four tiles read lies side by side then. A thread takes
// as many rows as stay in its core's L2 cache, and each panel in turn passes over them; where these are all rows, a panel
// is packed just before, else all of them are at first. The low-rank term is a few more steps of the same sum, so that c is
// written once and not read.
constexpr int64_t kPanelStep = kEdge * kPanel;    // words of a panel in one step of the sum
constexpr int64_t kLeftStep = kEdge * kBlock;     // words of a block of a's rows in one
constexpr int64_t kLeftWords = 160 << 10;         // of a that stay in the cache, beside panels from further away
constexpr int64_t kMostLeftWords = 256 << 10;     // beside a single panel that is packed there
constexpr int64_t kDeepest = 96, kDeepestAlone = 48;  // steps: longer sums are put aside in between
constexpr int64_t kAsideColumns = 1024;           // of sums that are
constexpr int64_t kRightWords = 4 << 20;          // of b, packed at a time
constexpr int64_t kFewestRows = 128;              // of a piece of work, if there are as many

// The size of equal pieces of `count`, none larger than `most`, in multiples.
int64_t equal(int64_t count, int64_t most, int64_t multiple) {
  return round_up(ceil_div(count, ceil_div(count, most)), multiple);
}

// Steps of the sum, and pieces of work. What becomes of an element of c does not depend on them: sums that are put aside
// are in float32, as in tiles.
struct Plan {
  int64_t steps, deep, extra;  // of K, of it at a time, of the low-rank term
  int64_t rows, columns, columns_packed;
  bool packs_alone;  // each thread its panels

  Plan(const Product &p, int64_t R, int threads) : steps(ceil_div(p.k, kStep)), extra(ceil_div(R, kStep)) {
    const int64_t panels = ceil_div(p.n, kPanel), blocks = ceil_div(p.m, kBlock);
    const int64_t shares = ceil_div(4 * threads, panels);  // of the rows, where columns are too few for all threads
    deep = equal(steps, kDeepestAlone, 1);
    packs_alone = p.b_blocked == nullptr && blocks * left_block() <= kMostLeftWords;
    if (!packs_alone) deep = equal(steps, kDeepest, 1);
    const int64_t cached = packs_alone ? blocks : std::max<int64_t>(1, kLeftWords / left_block());
    rows = equal(p.m, std::min(cached * kBlock, std::max(kFewestRows, ceil_div(p.m, shares))), kBlock);
    columns_packed = panels * kPanel;
    if (p.b_blocked == nullptr && !packs_alone)
      columns_packed = std::min(columns_packed, std::max(kPanel, kRightWords / ((steps + extra) * kPanelStep) * kPanel));
    // Rows are packed anew for each piece where they are not there for all of the sum.
    const int64_t wanted = deep < steps ? threads : 4 * threads;
    columns = round_up(ceil_div(columns_packed, ceil_div(wanted, ceil_div(p.m, rows))), kPanel);
    if (deep < steps) columns = std::min(columns, kAsideColumns);
  }
  int64_t left_block() const { return (deep + extra) * kLeftStep; }
  int64_t left_words() const { return rows / kBlock * left_block(); }
  int64_t aside_words() const { return deep < steps ? rows * columns : 0; }
  int64_t panel_words() const { return packs_alone ? deep * kPanelStep : 0; }
};

// Columns of the packed operands from n on.
struct Panels {
  uint64_t call;  // of this product
  int64_t n;
  const float *base, *low_rank;  // [panels, steps, kPanelStep], null where threads pack; [panels, extra, kPanelStep]
  const Range *used;             // steps of the low-rank term that are not all zeros, by panel
};

// The panel of q[K, N] from column n on, `steps` steps from `first_step` on.
void pack_panel(float *to, const Matrix &q, int64_t K, int64_t N, int64_t n, int64_t first_step, int64_t steps) {
  for (int64_t step = 0; step < steps; step++)
    for (int64_t j = 0; j < kPanel; j += kEdge) {
      Vec tile[kEdge];
      right_tile(tile, q, (first_step + step) * kStep, n + j, K, N);
      for (int64_t i = 0; i < kEdge; i++) store(to + step * kPanelStep + j + i * kPanel, tile[i]);
    }
}

void pack_low_rank_panels(int threads, float *to, Range *used, const LowRankTerm &term, int64_t extra, int64_t n,
                          int64_t columns, int64_t N) {
  static_assert(kStrip == kPanel && kPairs<bf16>, "a strip of words is a panel");
  parallel_for(threads, ceil_div(columns, kPanel), 8, [&](int64_t first_panel, int64_t last_panel) {
    for (int64_t panel = first_panel; panel < last_panel; panel++) {
      float *at = to + panel * extra * kPanelStep;
      const int64_t begin = n + panel * kPanel;
      const Range words = term_words<bf16>(term, begin);
      used[panel] = {words.begin / kEdge, ceil_div(words.end, kEdge)};
      if (term.blocks == nullptr)
        pack_panel(at, as_stored(term.whole, NT_BF16, N), term.rank, N, begin, 0, extra);
      else
        pack_low_rank<bf16>(at, term, extra * kEdge, begin, N);
    }
  });
}

// Rows of a into blocks, `steps` steps from value k of K on; zeros beyond K and up to whole tiles of rows.
void pack_left(float *to, int64_t distance, const bf16 *a, int64_t lda, int64_t rows, int64_t k, int64_t steps,
               int64_t K) {
  for (int64_t i = 0; i < round_up(rows, kEdge); i++) {
    float *at = to + i / kBlock * distance + i % kBlock * kEdge;
    for (int64_t step = 0; step < steps; step++) {
      const int64_t from = k + step * kStep;
      const Vec words = i < rows ? (Vec)_mm512_maskz_loadu_epi16(first(K - from), a + i * lda + from) : Vec{};
      store(at + step * kLeftStep, words);
    }
  }
}

struct Sums {
  float *at;  // [kBlock, kBlock]
  bool begun;
};

template <int M>
inline void block_sums(const Sums &sums, int64_t steps, const float *left, const float *right, const Range &used,
                       const float *low_left, const float *low_right) {
  constexpr int64_t kRight = kPanel * 4, kLeft = kEdge * 4;
  const auto add = [](int64_t count, const float *a, const float *b) {
    amx_sum<M, 2>(count, {a, kLeft, kLeftStep * 4, kEdge * kLeft}, {b, kRight, kPanelStep * 4, 0});
  };
  amx_begin<M, 2>(sums.at, kBlock, sums.begun);
  add(steps, left, right);
  if (used.begin < used.end)
    add(used.end - used.begin, low_left + used.begin * kLeftStep, low_right + used.begin * kPanelStep);
  amx_end<M, 2>(sums.at, kBlock);
}

// What a thread keeps from one piece to the next.
struct Kept {
  Scratch memory;
  uint64_t call = 0;  // the product whose rows from m on are packed at the beginning of the memory,
  int64_t m = -1;     // where they are there for all of the sum
};

// A thread's piece: rows [m, m + rows) and columns [n, n + columns) of c.
template <typename C>
class Piece {
 public:
  Piece(const Product &product, const LowRankTerm &term, const Plan &plan, const Panels &panels, Kept *kept, float *memory)
      : product_(product), term_(term), plan_(plan), panels_(panels), kept_(kept), left_(memory),
        aside_(left_ + plan.left_words()), own_panel_(aside_ + plan.aside_words()) {}

  void run(int64_t m, int64_t n) {
    const int64_t rows = std::min(plan_.rows, product_.m - m);
    const int64_t end = std::min({n + plan_.columns, panels_.n + plan_.columns_packed, product_.n});
    for (int64_t k = 0; k < plan_.steps; k += plan_.deep) {
      const int64_t steps = std::min(plan_.deep, plan_.steps - k);
      pack(m, rows, k, steps);
      for (int64_t panel = n; panel < end; panel += kPanel) {
        const float *right = own_panel_;
        if (plan_.packs_alone)
          pack_panel(own_panel_, product_.b, product_.k, product_.n, panel, k, steps);
        else
          right = panels_.base + ((panel - panels_.n) / kPanel * plan_.steps + k) * kPanelStep;
        for (int64_t i = 0; i < rows; i += kBlock) {
          if (k + steps == plan_.steps) expect_write(m + i, std::min(kBlock, rows - i), panel);
          for (int64_t j = panel; j < std::min(panel + kPanel, end); j += kBlock)
            block(m + i, rows - i, j, i, aside(i, j - n), k, steps, right + j % kPanel);
        }
      }
    }
  }

 private:
  const Product &product_;
  const LowRankTerm &term_;
  const Plan &plan_;
  const Panels &panels_;
  Kept *kept_;
  float *left_, *aside_, *own_panel_;

  void pack(int64_t m, int64_t rows, int64_t k, int64_t steps) {
    if (kept_->call == panels_.call && kept_->m == m) return;
    const auto *a = static_cast<const bf16 *>(element(product_.a, m, 0));
    pack_left(left_, plan_.left_block(), a, product_.a.row, rows, k * kStep, steps, product_.k);
    if (k == 0 && plan_.extra > 0)
      pack_left(left_ + plan_.deep * kLeftStep, plan_.left_block(), static_cast<const bf16 *>(term_.left) + m * term_.ld, term_.ld, rows, 0,
                plan_.extra, term_.width());
    kept_->call = panels_.call;
    kept_->m = plan_.deep == plan_.steps ? m : -1;
  }

  C *result(int64_t m, int64_t n) const { return static_cast<C *>(product_.c) + m * product_.ldc + n; }

  // A panel's columns of c: asked for before the sums are made, they are there when these are written.
  void expect_write(int64_t m, int64_t rows, int64_t n) const {
    constexpr int64_t kLine = 64 / int64_t(sizeof(C));
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j < kPanel; j += kLine) __builtin_prefetch(result(m + i, n + j), 1);
  }

  float *aside(int64_t i, int64_t j) const {
    return plan_.deep < plan_.steps ? aside_ + (j / kBlock * (plan_.rows / kBlock) + i / kBlock) * kBlock * kBlock : nullptr;
  }

  void block(int64_t m, int64_t rows, int64_t n, int64_t i, float *aside, int64_t k, int64_t steps,
             const float *right) {
    alignas(64) float own[kBlock * kBlock];
    const Sums sums = {aside == nullptr ? own : aside, k > 0};
    const int64_t panel = (n - panels_.n) / kPanel, inside = n % kPanel;
    const bool is_last = k + steps == plan_.steps;
    const Range used = is_last && plan_.extra > 0 ? panels_.used[panel] : Range{0, 0};
    C *c = result(m, n);
    rows = std::min(rows, kBlock);
    const float *left = left_ + i / kBlock * plan_.left_block();
    const float *low_left = left + plan_.deep * kLeftStep;
    const float *low_right = panels_.low_rank + panel * plan_.extra * kPanelStep + inside;
    if (rows > kEdge)
      block_sums<2>(sums, steps, left, right, used, low_left, low_right);
    else
      block_sums<1>(sums, steps, left, right, used, low_left, low_right);
    if (!is_last) return;
    const int64_t columns = std::min(kBlock, product_.n - n);
    if (product_.bias != nullptr) add_bias(sums.at, rows, columns, product_.bias + n);
    if (columns == kBlock && !product_.accumulate)
      for (int64_t row = 0; row < rows; row++) put(c + row * product_.ldc, sums.at + row * kBlock);
    else
      put(c, product_.ldc, sums.at, kBlock, rows, columns, product_.accumulate, 1.0f);
  }

  static void add_bias(float *sums, int64_t rows, int64_t columns, const float *bias) {
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j < columns; j++) sums[i * kBlock + j] += bias[j];
  }
};

template <typename C>
bool multiply(nt_context *context, const Product &product, const LowRankTerm &term, const Plan &plan,
              const Panels &panels) {
  const int64_t columns = std::min(plan.columns_packed, product.n - panels.n);
  const int64_t across = ceil_div(columns, plan.columns), down = ceil_div(product.m, plan.rows);
  bool has_memory = true;
  parallel_for(context->threads, down * across, 1, [&](int64_t begin, int64_t end) {
    static thread_local Kept kept;
    const int64_t bytes = (plan.left_words() + plan.aside_words() + plan.panel_words()) * 4;
    auto *words = static_cast<float *>(kept.memory.at_least(bytes));
    if (words == nullptr) {
      __atomic_store_n(&has_memory, false, __ATOMIC_RELAXED);
      return;
    }
    const AmxTiles tiles;
    Piece<C> piece(product, term, plan, panels, &kept, words);
    for (int64_t i = begin; i < end; i++) piece.run(i / across * plan.rows, panels.n + i % across * plan.columns);
  });
  return has_memory;
}

}  // namespace

int32_t amx_matmul(nt_context *context, const Product &product, const LowRankTerm &term) {
  if (product.m <= 0 || product.n <= 0 || product.k <= 0) return NT_OK;
  const Plan plan(product, term.width(), context->threads);
  static std::atomic<uint64_t> calls{0};
  const uint64_t call = ++calls;
  const int64_t panels = plan.columns_packed / kPanel;
  const bool packs_all = product.b_blocked == nullptr && !plan.packs_alone;
  const int64_t base = packs_all ? panels * plan.steps * kPanelStep : 0;
  const int64_t low_rank = panels * plan.extra * kPanelStep, ranges = panels * int64_t(sizeof(Range)) / 4;
  auto *words = static_cast<float *>(scratch(context, (base + low_rank + ranges) * 4));
  if (words == nullptr) return fail(NT_OUT_OF_MEMORY, "linear: no memory to pack %lld columns", (long long)product.n);
  auto *used = reinterpret_cast<Range *>(words + base + low_rank);
  for (int64_t n = 0; n < product.n; n += plan.columns_packed) {
    const int64_t columns = std::min(plan.columns_packed, product.n - n);
    if (packs_all)
      parallel_for(context->threads, ceil_div(columns, kPanel), 1, [&](int64_t begin, int64_t end) {
        for (int64_t panel = begin; panel < end; panel++)
          pack_panel(words + panel * plan.steps * kPanelStep, product.b, product.k, product.n, n + panel * kPanel, 0,
                     plan.steps);
      });
    if (plan.extra > 0) pack_low_rank_panels(context->threads, words + base, used, term, plan.extra, n, columns, product.n);
    const auto *packed = packs_all ? words : static_cast<const float *>(product.b_blocked);
    const Panels there = {call, n, packed, words + base, used};
    const bool done = product.c_dtype == NT_F32 ? multiply<float>(context, product, term, plan, there)
                                                : multiply<bf16>(context, product, term, plan, there);
    if (!done) return fail(NT_OUT_OF_MEMORY, "linear: no memory for %lld rows", (long long)plan.rows);
  }
  return NT_OK;
}

}  // namespace nt

#else

namespace nt {

int32_t amx_matmul(nt_context *, const Product &, const LowRankTerm &) {
  return fail(NT_UNSUPPORTED, "linear: this instruction set has no AMX");
}

}  // namespace nt

#endif
