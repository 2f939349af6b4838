// How a large product is divided: into panels, each a part of the sum for some rows and columns, and a panel into pieces,
// which threads take one by one. A thread packs a piece's columns, and keeps them for its next pieces.
#pragma once
#include <algorithm>
#include <atomic>

#include "matmul.h"
#include "parallel.h"
#include "rounding.h"
#include "scratch.h"

namespace nt {

// What is being multiplied: `rows` rows from m, `columns` columns from n, and `depth` of the sum from k on, in the units in
// which operands are packed.
struct ProductPanel {
  uint64_t number;  // of all panels
  int64_t m, n, k, rows, columns, depth;
  bool is_last;  // of the sum
};

// What a thread keeps from one piece to the next: the columns of a panel from column n on.
struct PackedColumns {
  Scratch memory;
  uint64_t number = 0;
  int64_t n = -1;

  bool are(const ProductPanel &panel, int64_t column) const { return number == panel.number && n == column; }
  void become(const ProductPanel &panel, int64_t column) { number = panel.number, n = column; }
};

// run(panel) for all of a product, up to the first that returns another status than NT_OK: at most plan.panel_rows ×
// plan.panel_columns and plan.deep of the sum, which is `depth` in all; a panel's columns are rounded up to `multiple`.
template <typename Plan, typename Run>
int32_t for_each_panel(const Product &product, const Plan &plan, int64_t depth, int64_t multiple, const Run &run) {
  static std::atomic<uint64_t> numbers{0};
  for (int64_t m = 0; m < product.m; m += plan.panel_rows)
    for (int64_t n = 0; n < product.n; n += plan.panel_columns)
      for (int64_t k = 0; k < depth; k += plan.deep) {
        const int64_t rows = std::min(plan.panel_rows, product.m - m);
        const int64_t columns = std::min(plan.panel_columns, round_up(product.n - n, multiple));
        const int64_t some = std::min(plan.deep, depth - k);
        const int32_t status = run(ProductPanel{++numbers, m, n, k, rows, columns, some, k + some == depth});
        if (status != NT_OK) return status;
      }
  return NT_OK;
}

// make(columns, memory).run(m, n) for the pieces of a panel, plan.rows × plan.columns, on all threads, each with `words`
// floats of memory.
template <typename Plan, typename Make>
int32_t run_pieces(nt_context *context, const ProductPanel &panel, const Plan &plan, int64_t words, const Make &make) {
  const int64_t across = ceil_div(panel.columns, plan.columns), down = ceil_div(panel.rows, plan.rows);
  const int64_t count = across * down;
  std::atomic<bool> has_memory{true};
  const auto run = [&](int64_t begin, int64_t end) {
    static thread_local PackedColumns columns;
    auto *memory = static_cast<float *>(columns.memory.at_least(words * 4));
    if (memory == nullptr) return has_memory.store(false);
    auto pieces = make(&columns, memory);
    for (int64_t i = begin; i < end; i++)
      pieces.run(panel.m + i % down * plan.rows, panel.n + i / down * plan.columns);
  };
  parallel_for(context->threads, count, 1, run, count);  // one by one, as each takes long
  if (has_memory.load()) return NT_OK;
  return fail(NT_OUT_OF_MEMORY, "linear: no memory to pack %lld columns", (long long)plan.columns);
}

}  // namespace nt
