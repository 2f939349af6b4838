#include "skinny.h"

#include <type_traits>

#include "pair_rows.h"
#include "parallel.h"
#include "rounding.h"
#include "skinny_amx.h"
#include "vec.h"

namespace nt {

namespace {

// How a packed element steps along the summed dimension: one float, or a pair of bf16 for the instruction that
// multiplies and adds pairs.
struct ByFloat {
  using Packed = float;
  static constexpr int kStep = 1;
  static Packed pack(float x, float) { return x; }
  static Packed pack(bf16 x, bf16) { return to_float(x); }
  // Two vectors of columns of one row.
  template <typename T>
  static void pack_columns(Packed *q, const T *row, const T *) {
    store(q, load(row));
    store(q + kLanes, load(row + kLanes));
  }
  struct Vector {
    Vec value;
  };
  static Vector get(const Packed *q) { return {load(q)}; }
  static Vector broadcast(Packed p) { return {splat(p)}; }
  static Vec multiply_add(Vector a, Vector b, Vec sum) { return fma(a.value, b.value, sum); }

  static constexpr int kLoaded = kLanes;  // elements of an operand in one vector of narrow_product
  template <typename T>
  static Vector get_row(const T *x) {
    return {load(x)};
  }
  template <typename T>
  static Vector get_row_part(const T *x, int64_t n) {
    return {load_part(x, n)};
  }
};

#ifdef __AVX512BF16__
struct ByPair {
  using Packed = uint32_t;
  static constexpr int kStep = 2;
  static Packed pack(bf16 x, bf16 next) { return uint32_t(x.bits) | uint32_t(next.bits) << 16; }
  static void pack_columns(Packed *q, const bf16 *row, const bf16 *next) {
    store_pairs(q, _mm512_loadu_si512(row), _mm512_loadu_si512(next));
  }
  struct Vector {
    __m512bh value;
  };
  static Vector get(const Packed *q) { return {(__m512bh)_mm512_loadu_si512(q)}; }
  static Vector broadcast(Packed p) { return {(__m512bh)_mm512_set1_epi32(int(p))}; }
  static Vec multiply_add(Vector a, Vector b, Vec sum) {
    return (Vec)_mm512_dpbf16_ps((__m512)sum, a.value, b.value);
  }

  static constexpr int kLoaded = 32;
  static Vector get_row(const bf16 *x) { return {(__m512bh)_mm512_loadu_si512(x)}; }
  static Vector get_row_part(const bf16 *x, int64_t n) {
    return {(__m512bh)_mm512_maskz_loadu_epi16(__mmask32((uint64_t(1) << n) - 1), x)};
  }
};
#endif

template <typename T>
struct ModeOf {
  using Mode = ByFloat;
};
#ifdef __AVX512BF16__
template <>
struct ModeOf<bf16> {
  using Mode = ByPair;
};
#endif

// A tile of the result: kRows rows, kVectors vectors of columns, all in registers.
#ifdef __AVX512F__
constexpr int kRows = 8;
#else
constexpr int kRows = 6;
#endif
constexpr int kVectors = 2;
constexpr int kWidth = kVectors * kLanes;

struct Tile {
  Vec at[kRows][kVectors];
};

// tile[i][j] += Σ_k p[k, i] · q[k, j], both packed: p [steps, kRows], q [steps, kWidth].
template <typename Mode>
inline void multiply(Tile &tile, const typename Mode::Packed *p, const typename Mode::Packed *q, int64_t steps) {
  Tile sum = tile;
  for (int64_t k = 0; k < steps; k++) {
    typename Mode::Vector column[kVectors];
    for (int j = 0; j < kVectors; j++) column[j] = Mode::get(q + k * kWidth + j * kLanes);
    for (int i = 0; i < kRows; i++) {
      typename Mode::Vector row = Mode::broadcast(p[k * kRows + i]);
      for (int j = 0; j < kVectors; j++) sum.at[i][j] = Mode::multiply_add(row, column[j], sum.at[i][j]);
    }
  }
  tile = sum;
}

// c[rows, columns] = or += tile.
template <typename T>
inline void put(T *c, int64_t ldc, const Tile &tile, int64_t rows, int64_t columns, bool accumulate) {
  if (columns == kWidth) {
    for (int64_t i = 0; i < rows; i++)
      for (int j = 0; j < kVectors; j++) {
        T *at = c + i * ldc + j * kLanes;
        store_rounded(at, accumulate ? tile.at[i][j] + load(at) : tile.at[i][j]);
      }
    return;
  }
  for (int64_t i = 0; i < rows; i++) {
    float row[kWidth];
    for (int j = 0; j < kVectors; j++) store(row + j * kLanes, tile.at[i][j]);
    for (int64_t j = 0; j < columns; j++) set(c[i * ldc + j], accumulate ? row[j] + to_float(c[i * ldc + j]) : row[j]);
  }
}

// c[columns, rows] (row distance ldc) += tileᵀ.
inline void add_transposed(float *c, int64_t ldc, const Tile &tile, int64_t rows, int64_t columns) {
  float buffer[kRows][kWidth];
  for (int i = 0; i < kRows; i++)
    for (int j = 0; j < kVectors; j++) store(buffer[i] + j * kLanes, tile.at[i][j]);
  for (int64_t j = 0; j < columns; j++)
    for (int64_t i = 0; i < rows; i++) c[j * ldc + i] += buffer[i][j];
}

// ------------------------------------------------------------------ c[T,N] = p[T,r] · q[r,N]

template <typename Mode, typename T, typename C>
int32_t rank_product(nt_context *context, C *c, int64_t ldc, const T *p, int64_t ldp, const T *q, int64_t q_row,
                     int64_t q_column, int64_t rows, int64_t columns, int64_t r, bool accumulate) {
  using Packed = typename Mode::Packed;
  const int64_t steps = ceil_div(r, Mode::kStep);
  const int64_t row_blocks = ceil_div(rows, kRows), panels = ceil_div(columns, kWidth);
  auto *packed_p =
      static_cast<Packed *>(packed_memory((row_blocks * kRows + panels * kWidth) * steps * int64_t(sizeof(Packed))));
  if (packed_p == nullptr) return fail(NT_OUT_OF_MEMORY, "linear: no memory to pack a rank-%lld product", (long long)r);
  Packed *packed_q = packed_p + row_blocks * kRows * steps;
  const T zero{};

  parallel_for(context->threads, row_blocks, 16, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; block++)
      for (int64_t i = 0; i < kRows; i++) {
        int64_t t = block * kRows + i;
        Packed *to = packed_p + block * kRows * steps + i;
        for (int64_t k = 0; k < steps; k++) {
          int64_t s = k * Mode::kStep;
          to[k * kRows] = t >= rows ? Packed{}
                                    : Mode::pack(p[t * ldp + s], s + 1 < r ? p[t * ldp + s + 1] : zero);
        }
      }
  });
  parallel_for(context->threads, panels, 4, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; panel++)
      for (int64_t k = 0; k < steps; k++) {
        int64_t s = k * Mode::kStep;
        Packed *to = packed_q + (panel * steps + k) * kWidth;
        for (int64_t j = 0; j < kWidth; j++) {
          int64_t column = panel * kWidth + j;
          const T *from = q + s * q_row + column * q_column;
          to[j] = column >= columns ? Packed{} : Mode::pack(from[0], s + 1 < r ? from[q_row] : zero);
        }
      }
  });
  parallel_for(context->threads, row_blocks, 4, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; block++) {
      int64_t t = block * kRows, height = rows - t < kRows ? rows - t : kRows;
      for (int64_t panel = 0; panel < panels; panel++) {
        int64_t j = panel * kWidth, width = columns - j < kWidth ? columns - j : kWidth;
        Tile tile = {};
        multiply<Mode>(tile, packed_p + block * kRows * steps, packed_q + panel * kWidth * steps, steps);
        put(c + t * ldc + j, ldc, tile, height, width, accumulate);
      }
    }
  });
  return NT_OK;
}

// ------------------------------------------------------------------ c[T,R] = scale · x[T,K] · q[K,R]

// destination[columns, rows] = source[rows, columns]ᵀ, rows of the source ld apart.
template <typename T>
void transpose(int threads, T *destination, const T *source, int64_t ld, int64_t rows, int64_t columns) {
  parallel_for(threads, rows, 1 + (1 << 14) / columns, [&](int64_t begin, int64_t end) {
    for (int64_t j = 0; j < columns; j++)
      for (int64_t i = begin; i < end; i++) destination[j * rows + i] = source[i * ld + j];
  });
}

constexpr int kDotColumns = 4;
#ifdef __AVX512F__
constexpr int kDotRows = 6;
#else
constexpr int kDotRows = 2;
#endif

// The sums of four vectors.
inline __m128 sums(Vec a, Vec b, Vec c, Vec d) {
  auto fold = [](Vec v) {
#ifdef __AVX512F__
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256((__m512)v), _mm512_extractf32x8_ps((__m512)v, 1));
#else
    __m256 half = (__m256)v;
#endif
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  };
  return _mm_hadd_ps(_mm_hadd_ps(fold(a), fold(b)), _mm_hadd_ps(fold(c), fold(d)));
}

template <typename T>
void narrow_rows(T *c, int64_t ldc, const T *x, int64_t ldx, const T *a, int64_t lda, float scale, int64_t begin,
                 int64_t end, int64_t R, int64_t K) {
  using Mode = typename ModeOf<T>::Mode;
  for (int64_t t = begin; t < end; t += kDotRows) {
    for (int64_t r = 0; r < R; r += kDotColumns) {
      // Beyond the last row or column the last one is read again, and not written.
      const T *rows[kDotRows], *columns[kDotColumns];
      for (int i = 0; i < kDotRows; i++) rows[i] = x + (t + i < end ? t + i : end - 1) * ldx;
      for (int j = 0; j < kDotColumns; j++) columns[j] = a + (r + j < R ? r + j : R - 1) * lda;
      Vec sum[kDotRows][kDotColumns] = {};
      typename Mode::Vector column[kDotColumns];
      int64_t k = 0;
      for (; k + Mode::kLoaded <= K; k += Mode::kLoaded) {
        for (int j = 0; j < kDotColumns; j++) column[j] = Mode::get_row(columns[j] + k);
        for (int i = 0; i < kDotRows; i++) {
          auto row = Mode::get_row(rows[i] + k);
          for (int j = 0; j < kDotColumns; j++) sum[i][j] = Mode::multiply_add(row, column[j], sum[i][j]);
        }
      }
      if (k < K) {
        for (int j = 0; j < kDotColumns; j++) column[j] = Mode::get_row_part(columns[j] + k, K - k);
        for (int i = 0; i < kDotRows; i++) {
          auto row = Mode::get_row_part(rows[i] + k, K - k);
          for (int j = 0; j < kDotColumns; j++) sum[i][j] = Mode::multiply_add(row, column[j], sum[i][j]);
        }
      }
      for (int i = 0; i < kDotRows && t + i < end; i++) {
        float four[4];
        _mm_storeu_ps(four, sums(sum[i][0], sum[i][1], sum[i][2], sum[i][3]));
        for (int j = 0; j < kDotColumns && r + j < R; j++) set(c[(t + i) * ldc + r + j], scale * four[j]);
      }
    }
  }
}

// ------------------------------------------------------------------ c[R,N] += pᵀ[R,T] · q[T,N]

constexpr int64_t kOuterSteps = 256;  // packed steps summed in registers between visits to c
constexpr int64_t kOuterPanels = 8;   // panels packed together: whole cache lines of q's rows
constexpr int64_t kAhead = 4;         // steps that rows of q are prefetched ahead

template <typename T>
int32_t outer_product(nt_context *context, float *c, bool c_transposed, const T *p, int64_t ldp, const T *q,
                      int64_t ldq, int64_t rows, int64_t R, int64_t N) {
  using Mode = typename ModeOf<T>::Mode;
  using Packed = typename Mode::Packed;
  const int64_t steps = ceil_div(rows, Mode::kStep), row_blocks = ceil_div(R, kRows);
  const int64_t panels = ceil_div(N, kWidth), pack = kOuterPanels * kOuterSteps * kWidth;
  auto *packed_p = static_cast<Packed *>(
      packed_memory((row_blocks * kRows * steps + context->threads * pack) * int64_t(sizeof(Packed))));
  if (packed_p == nullptr) return fail(NT_OUT_OF_MEMORY, "lora: no memory to pack %lld rows", (long long)rows);
  Packed *packed_q = packed_p + row_blocks * kRows * steps;
  const T zero{};

  // p as [row blocks, steps, kRows].
  parallel_for(context->threads, steps, 64, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; k++) {
      int64_t t = k * Mode::kStep;
      const T *row = p + t * ldp;
      for (int64_t block = 0; block < row_blocks; block++)
        for (int64_t i = 0; i < kRows; i++) {
          int64_t r = block * kRows + i;
          packed_p[(block * steps + k) * kRows + i] =
              r >= R ? Packed{} : Mode::pack(row[r], t + 1 < rows ? row[ldp + r] : zero);
        }
    }
  });
  // Steps k0 … k1 of `count` panels from `panel` on, each panel by itself. Rows of q lie pages apart, where the
  // hardware does not prefetch.
  auto pack_panels = [&](Packed *to, int64_t panel, int64_t count, int64_t k0, int64_t k1) {
    for (int64_t k = k0; k < k1; k++)
      for (int64_t i = 0; i < count; i++) {
        int64_t t = k * Mode::kStep, j = (panel + i) * kWidth, width = N - j < kWidth ? N - j : kWidth;
        Packed *at = to + (i * (k1 - k0) + k - k0) * kWidth;
        const T *row = q + t * ldq + j;
        for (int64_t ahead = 0; ahead < 2; ahead++)
          __builtin_prefetch(Mode::kStep == 2 ? row + (2 * kAhead + ahead) * ldq : row + kAhead * ldq + ahead * kLanes);
        bool pair = t + 1 < rows;
        if (width == kWidth && (pair || Mode::kStep == 1)) {
          Mode::pack_columns(at, row, row + ldq);
        } else {
          for (int64_t c0 = 0; c0 < kWidth; c0++)
            at[c0] = c0 >= width ? Packed{} : Mode::pack(row[c0], pair ? row[ldq + c0] : zero);
        }
      }
  };
  auto work = [&](int64_t first, int64_t last, Packed *buffer) {
    for (int64_t group = first; group < last; group += kOuterPanels) {
      int64_t count = last - group < kOuterPanels ? last - group : kOuterPanels;
      for (int64_t k = 0; k < steps; k += kOuterSteps) {
        int64_t some = steps - k < kOuterSteps ? steps - k : kOuterSteps;
        pack_panels(buffer, group, count, k, k + some);
        for (int64_t block = 0; block < row_blocks; block++)
          for (int64_t i = 0; i < count; i++) {
            int64_t r = block * kRows, j = (group + i) * kWidth;
            int64_t height = R - r < kRows ? R - r : kRows, width = N - j < kWidth ? N - j : kWidth;
            Tile tile = {};
            multiply<Mode>(tile, packed_p + (block * steps + k) * kRows, buffer + i * some * kWidth, some);
            if (c_transposed) {
              add_transposed(c + j * R + r, R, tile, height, width);
            } else {
              put(c + r * N + j, N, tile, height, width, true);
            }
          }
      }
    }
  };
  on_threads(panels < context->threads ? int(panels) : context->threads, [&](int thread, int threads) {
    Range range = piece(panels, thread, threads);
    work(range.begin, range.end, packed_q + thread * pack);
  });
  return NT_OK;
}

}  // namespace

int32_t rank_product(nt_context *context, int32_t dtype, void *c, int32_t c_dtype, int64_t ldc, const void *p,
                     int64_t ldp, const Matrix &q, int64_t T, int64_t N, int64_t r, bool accumulate) {
  if (T <= 0 || N <= 0 || r <= 0) return NT_OK;
#ifdef __AMX_BF16__
  if (amx_takes(context, dtype))
    return rank_product_amx(context, c, c_dtype, ldc, static_cast<const bf16 *>(p), ldp, q, T, N, r, accumulate);
#endif
  auto call = [&](auto *to, auto *from) {
    using E = typename ModeOf<typename std::remove_const<typename std::remove_pointer<decltype(from)>::type>::type>::Mode;
    return rank_product<E>(context, to, ldc, from, ldp, static_cast<decltype(from)>(q.data), q.row, q.column, T, N, r,
                           accumulate);
  };
  if (dtype == NT_F32) return call(static_cast<float *>(c), static_cast<const float *>(p));
  if (c_dtype == NT_F32) return call(static_cast<float *>(c), static_cast<const bf16 *>(p));
  return call(static_cast<bf16 *>(c), static_cast<const bf16 *>(p));
}

int32_t narrow_product(nt_context *context, int32_t dtype, void *c, int64_t ldc, const void *x, int64_t ldx,
                       const Matrix &q, float scale, int64_t T, int64_t R, int64_t K) {
  if (T <= 0 || R <= 0 || K <= 0) return NT_OK;
#ifdef __AMX_BF16__
  if (amx_takes(context, dtype) && K % 32 == 0 && ldx % 2 == 0)
    return narrow_product_amx(context, static_cast<bf16 *>(c), ldc, static_cast<const bf16 *>(x), ldx, q, scale, T, R, K);
#endif
  void *turned = q.row == 1 ? nullptr : packed_memory(K * R * size_of(dtype));
  if (q.row != 1 && turned == nullptr)
    return fail(NT_OUT_OF_MEMORY, "lora: no memory for %lld columns, transposed", (long long)K);
  auto call = [&](auto *to, auto *from, auto *copy) {
    const auto *a = static_cast<decltype(from)>(q.data);
    if (copy != nullptr) {
      transpose(context->threads, copy, a, q.row, K, R);
      a = copy;
    }
    const int64_t lda = copy != nullptr ? K : q.column;
    parallel_for(context->threads, ceil_div(T, kDotRows), 1, [&](int64_t begin, int64_t end) {
      narrow_rows(to, ldc, from, ldx, a, lda, scale, begin * kDotRows, end * kDotRows < T ? end * kDotRows : T, R, K);
    });
  };
  if (dtype == NT_F32)
    call(static_cast<float *>(c), static_cast<const float *>(x), static_cast<float *>(turned));
  else
    call(static_cast<bf16 *>(c), static_cast<const bf16 *>(x), static_cast<bf16 *>(turned));
  return NT_OK;
}

int32_t outer_product(nt_context *context, int32_t dtype, float *c, bool c_transposed, const void *p, int64_t ldp,
                      const void *q, int64_t ldq, int64_t T, int64_t R, int64_t N) {
  if (T <= 0 || R <= 0 || N <= 0) return NT_OK;
#ifdef __AMX_BF16__
  if (amx_takes(context, dtype))
    return outer_product_amx(context, c, c_transposed, static_cast<const bf16 *>(p), ldp, static_cast<const bf16 *>(q),
                             ldq, T, R, N);
#endif
  if (dtype == NT_F32)
    return outer_product(context, c, c_transposed, static_cast<const float *>(p), ldp, static_cast<const float *>(q),
                         ldq, T, R, N);
  return outer_product(context, c, c_transposed, static_cast<const bf16 *>(p), ldp, static_cast<const bf16 *>(q), ldq,
                       T, R, N);
}

int64_t outer_rows(nt_context *context, int32_t dtype) {
  if (amx_takes(context, dtype)) return kAmxOuterSteps;
  return dtype == NT_F32 ? kOuterSteps * ModeOf<float>::Mode::kStep : kOuterSteps * ModeOf<bf16>::Mode::kStep;
}

}  // namespace nt
