// Matrix products by OpenBLAS: what cpu/matmul.h promises, in place of cpu/matmul.cpp.
//
// c is cut into tiles, and each thread of the pool computes whole tiles with calls of OpenBLAS that run on that thread
// alone. bf16 operands are multiplied as they are where the CPU has instructions for it; elsewhere a is converted to f32
// once, and b tile by tile.
#include "cpu/matmul.h"

#include <stdlib.h>
#include <sys/auxv.h>

#include "cpu/parallel.h"
#include "cpu/rounding.h"
#include "cpu/scratch.h"
#include "cpu/vec.h"
#include "cpu/word_matmul.h"

extern "C" {
void scipy_openblas_set_num_threads(int threads);
void scipy_cblas_sgemm(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha, const float *a,
                       int lda, const float *b, int ldb, float beta, float *c, int ldc);
void scipy_cblas_sbgemm(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha,
                        const uint16_t *a, int lda, const uint16_t *b, int ldb, float beta, float *c, int ldc);
}

namespace nt {

struct MatmulState {
  bool native_bf16;
  Scratch a, caller;  // a in f32; what `scratch` gives
};

namespace {

constexpr int kRowMajor = 101, kPlain = 111, kTransposed = 112;  // CBLAS's
constexpr unsigned long kHasBf16 = 1ul << 14;                    // HWCAP2_BF16
constexpr int64_t kTileElements = 1 << 21;                       // of a tile's b: 8 MiB in f32
constexpr int64_t kGrain = 16;

MatmulState *state_of(nt_context *context) {
  if (context->matmul != nullptr) return context->matmul;
  auto *state = static_cast<MatmulState *>(calloc(1, sizeof(MatmulState)));
  if (state == nullptr) return nullptr;
  scipy_openblas_set_num_threads(1);
  state->native_bf16 = (getauxval(AT_HWCAP2) & kHasBf16) != 0;
  return context->matmul = state;
}

// Whether the matrix lies in memory row by row. Both strides may be 1 (one row or one column): then the one that BLAS
// takes for the distance of rows has to be long enough.
bool by_rows(const Matrix &matrix, int64_t columns) {
  return matrix.column == 1 && (matrix.row != 1 || columns == 1);
}

void widen(const bf16 *from, float *to, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, load(from + i));
  for (; i < count; i++) to[i] = to_float(from[i]);
}

// Lines [begin, end) of a bf16 matrix, as they lie in memory, densely in f32; `to` is where line `begin` goes.
void widen_lines(const Matrix &matrix, int64_t begin, int64_t end, int64_t length, float *to) {
  const int64_t stride = matrix.column == 1 ? matrix.row : matrix.column;
  for (int64_t line = begin; line < end; line++, to += length)
    widen(static_cast<const bf16 *>(matrix.data) + line * stride, to, length);
}

Matrix dense(const float *data, bool rows, int64_t row_count, int64_t column_count) {
  return rows ? as_stored(data, NT_F32, column_count) : transposed(data, NT_F32, row_count);
}

// c (f32) = beta · c + a · b on the calling thread.
void gemm(const Product &p, float beta, float *c, int64_t ldc) {
  const bool a_rows = by_rows(p.a, p.k), b_rows = by_rows(p.b, p.n);
  const int a_order = a_rows ? kPlain : kTransposed, b_order = b_rows ? kPlain : kTransposed;
  const int lda = int(a_rows ? p.a.row : p.a.column), ldb = int(b_rows ? p.b.row : p.b.column);
  const int m = int(p.m), n = int(p.n), k = int(p.k);
  if (p.a.dtype == NT_BF16)
    scipy_cblas_sbgemm(kRowMajor, a_order, b_order, m, n, k, 1, static_cast<const uint16_t *>(p.a.data), lda,
                       static_cast<const uint16_t *>(p.b.data), ldb, beta, c, int(ldc));
  else
    scipy_cblas_sgemm(kRowMajor, a_order, b_order, m, n, k, 1, static_cast<const float *>(p.a.data), lda,
                      static_cast<const float *>(p.b.data), ldb, beta, c, int(ldc));
}

// A tile whose a is of the type to multiply in. `floats` has room for its b and its c in f32.
void tile(Product p, float *floats) {
  if (p.b.dtype != p.a.dtype) {
    const bool rows = by_rows(p.b, p.n);
    widen_lines(p.b, 0, rows ? p.k : p.n, rows ? p.n : p.k, floats);
    p.b = dense(floats, rows, p.k, p.n);
    floats += p.k * p.n;
  }
  const bool direct = p.c_dtype == NT_F32;
  float *c = direct ? static_cast<float *>(p.c) : floats;
  const int64_t ldc = direct ? p.ldc : p.n;
  const bool adds = direct && p.accumulate;
  if (p.bias != nullptr)
    for (int64_t i = 0; i < p.m; i++)
      for (int64_t j = 0; j < p.n; j++) c[i * ldc + j] = adds ? c[i * ldc + j] + p.bias[j] : p.bias[j];
  gemm(p, adds || p.bias != nullptr ? 1 : 0, c, ldc);
  if (direct) return;
  for (int64_t i = 0; i < p.m; i++) {
    bf16 *to = static_cast<bf16 *>(p.c) + i * p.ldc;
    for (int64_t j = 0; j < p.n; j++) set(to[j], p.accumulate ? c[i * ldc + j] + to_float(to[j]) : c[i * ldc + j]);
  }
}

}  // namespace

int32_t matmul(nt_context *context, const Product &product) {
  if (product.m <= 0 || product.n <= 0 || product.k <= 0) return NT_OK;
  MatmulState *state = state_of(context);
  if (state == nullptr) return fail(NT_OUT_OF_MEMORY, "matmul: no memory");
  Product p = product;
  const bool in_bf16 = p.a.dtype == NT_BF16 && p.b.dtype == NT_BF16 && state->native_bf16;
  if (p.a.dtype == NT_BF16 && !in_bf16) {
    const bool rows = by_rows(p.a, p.k);
    const int64_t lines = rows ? p.m : p.k, length = rows ? p.k : p.m;
    auto *to = static_cast<float *>(state->a.at_least(p.m * p.k * 4));
    if (to == nullptr) return fail(NT_OUT_OF_MEMORY, "matmul: no memory for %lld bytes", (long long)(p.m * p.k * 4));
    parallel_for(context->threads, lines, 1 + (1 << 15) / length, [&](int64_t begin, int64_t end) {
      widen_lines(p.a, begin, end, length, to + begin * length);
    });
    p.a = dense(to, rows, p.m, p.k);
  }
  // Columns first; rows are cut where there are too few columns for all threads.
  const int64_t threads = context->threads;
  int64_t width = round_up((p.n + threads - 1) / threads, kGrain);
  if (width * p.k > kTileElements) width = round_up(kTileElements / p.k + 1, kGrain);
  const int64_t across = (p.n + width - 1) / width, down = across < threads ? (threads + across - 1) / across : 1;
  const int64_t height = round_up((p.m + down - 1) / down, kGrain);
  const int64_t tiles = across * ((p.m + height - 1) / height);
  bool has_memory = true;
  on_threads(int(tiles < threads ? tiles : threads), [&](int thread, int count) {
    static thread_local Scratch scratch;
    for (int64_t t = thread; t < tiles; t += count) {
      const int64_t i = t / across * height, j = t % across * width;
      Product part = p;
      part.m = p.m - i < height ? p.m - i : height;
      part.n = p.n - j < width ? p.n - j : width;
      part.a.data = element(p.a, i, 0);
      part.b.data = element(p.b, 0, j);
      part.bias = p.bias == nullptr ? nullptr : p.bias + j;
      part.c = static_cast<char *>(p.c) + (i * p.ldc + j) * size_of(p.c_dtype);
      const int64_t floats = (part.b.dtype != part.a.dtype ? part.k * part.n : 0) +
                             (part.c_dtype == NT_BF16 ? part.m * part.n : 0);
      auto *buffer = static_cast<float *>(scratch.at_least(floats * 4 + 4));
      if (buffer == nullptr)
        __atomic_store_n(&has_memory, false, __ATOMIC_RELAXED);
      else
        tile(part, buffer);
    }
  });
  return has_memory ? int32_t(NT_OK) : fail(NT_OUT_OF_MEMORY, "matmul: no memory for converted operands");
}

int32_t matmul_tiles(nt_context *context, const Product &product, int64_t tile) {
  return by_tiles(product, tile, [&](const Product &part) { return matmul(context, part); });
}

int64_t tile_rows(nt_context *, int32_t) { return 64; }

bool has_amx(nt_context *) { return false; }

bool words_multiply(nt_context *, int32_t, int64_t) { return false; }

// OpenBLAS has no layout of its own that a caller could write.
int32_t takes_panels(nt_context *, const Product &, bool *takes) {
  *takes = false;
  return NT_OK;
}

void *scratch(nt_context *context, int64_t bytes) {
  MatmulState *state = state_of(context);
  return state == nullptr ? nullptr : state->caller.at_least(bytes);
}

void matmul_destroy(nt_context *context) {
  MatmulState *state = context->matmul;
  if (state == nullptr) return;
  release(state->a.data);
  release(state->caller.data);
  free(state);
  context->matmul = nullptr;
}

}  // namespace nt
