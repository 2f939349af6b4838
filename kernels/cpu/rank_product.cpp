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

}  // namespace nt
