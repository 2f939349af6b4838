// AMX: products of tiles of 16 rows of 64 bytes. C tiles hold floats; the rows of an A tile hold 16 words, a word being
// two bf16 that follow each other in the direction of the sum; those of a B tile a word for each column of C.
// Whether they may be used is known only at run time (has_amx): the kernels for avx512_bf16 have both ways.
#pragma once
#include <stdint.h>

#include "vec.h"

namespace nt {

constexpr int64_t kEdge = 16;                  // rows of a tile, and words of a row
constexpr int64_t kTileSize = kEdge * kEdge;   // words
constexpr int64_t kBlockStep = 2 * kTileSize;  // words of a packed operand (amx_packing.h) in a step of the sum

#ifdef __AMX_BF16__

constexpr bool kAmx = true;

// The calling thread's tiles, for as long as this lives: oneDNN lays out its own for each of its products. 0 … 3 are C's,
// 4 and 5 A's, 6 and 7 B's; those of B and C have `columns` words a row.
struct AmxTiles {
  explicit AmxTiles(int64_t columns = kEdge) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } layout;
    for (int tile = 0; tile < 8; tile++) layout.row_bytes[tile] = uint16_t(tile == 4 || tile == 5 ? 64 : 4 * columns);
    _tile_loadconfig(&layout);
  }
  ~AmxTiles() { _tile_release(); }
  AmxTiles(const AmxTiles &) = delete;
  AmxTiles &operator=(const AmxTiles &) = delete;
};

// C[M·16, N·16] in tiles: from memory, rows ldc floats apart, or zeros; and back.
template <int M, int N>
inline void amx_begin(const float *c, int64_t ldc, bool add) {
  static_assert(M <= 2 && N <= 2, "four tiles of C, two of A and two of B are all there are");
  const int64_t c_row = ldc * 4;
  const float *below = c + kEdge * ldc;
  if (add) {
    _tile_loadd(0, c, c_row);
    if constexpr (N > 1) _tile_loadd(1, c + kEdge, c_row);
    if constexpr (M > 1) _tile_loadd(2, below, c_row);
    if constexpr (M > 1 && N > 1) _tile_loadd(3, below + kEdge, c_row);
  } else {
    _tile_zero(0);
    if constexpr (N > 1) _tile_zero(1);
    if constexpr (M > 1) _tile_zero(2);
    if constexpr (M > 1 && N > 1) _tile_zero(3);
  }
}
template <int M, int N>
inline void amx_end(float *c, int64_t ldc) {
  const int64_t c_row = ldc * 4;
  float *below = c + kEdge * ldc;
  _tile_stored(0, c, c_row);
  if constexpr (N > 1) _tile_stored(1, c + kEdge, c_row);
  if constexpr (M > 1) _tile_stored(2, below, c_row);
  if constexpr (M > 1 && N > 1) _tile_stored(3, below + kEdge, c_row);
}

// Where the tiles of an operand lie, in bytes: its rows, the next tile along the sum, and the second tile, of rows of A or
// of columns of B.
struct AmxOperand {
  const void *data;
  int64_t row, step, second;
};

// C += A·B over `steps` tiles along the sum, with besides() in each step. All four tiles are asked for before the first is
// multiplied: 10 % faster than each where it is first needed. Stream: B's tiles need not stay in the L1 cache.
template <int M, int N, bool Stream = false, typename Besides>
inline void amx_sum(int64_t steps, const AmxOperand &a, const AmxOperand &b, Besides &besides) {
  const char *left = static_cast<const char *>(a.data), *right = static_cast<const char *>(b.data);
  for (int64_t step = 0; step < steps; step++, left += a.step, right += b.step) {
    _tile_loadd(4, left, a.row);
    if constexpr (Stream) {
      _tile_stream_loadd(6, right, b.row);
      if constexpr (N > 1) _tile_stream_loadd(7, right + b.second, b.row);
    } else {
      _tile_loadd(6, right, b.row);
      if constexpr (N > 1) _tile_loadd(7, right + b.second, b.row);
    }
    if constexpr (M > 1) _tile_loadd(5, left + a.second, a.row);
    besides();
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (N > 1) _tile_dpbf16ps(1, 4, 7);
    if constexpr (M > 1) _tile_dpbf16ps(2, 5, 6);
    if constexpr (M > 1 && N > 1) _tile_dpbf16ps(3, 5, 7);
  }
}

// C[M·16, N·16] (+)= A·B over the words [begin, end) of the sum, whole tiles. Row-major: A[M·16, words] with rows lda
// words apart, B[words, N·16], C in floats.
template <int M, int N>
inline void amx_product(int64_t begin, int64_t end, const void *a, int64_t lda, const void *b, int64_t ldb, float *c,
                         int64_t ldc, bool add) {
  amx_begin<M, N>(c, ldc, add);
  const auto nothing = [] {};
  amx_sum<M, N>((end - begin + kEdge - 1) / kEdge, {static_cast<const char *>(a) + begin * 4, lda * 4, 64, kEdge * lda * 4},
                {static_cast<const char *>(b) + begin * ldb * 4, ldb * 4, kEdge * ldb * 4, 64}, nothing);
  amx_end<M, N>(c, ldc);
}

inline void amx_product(bool two_rows, bool two_columns, int64_t begin, int64_t end, const void *a, int64_t lda,
                         const void *b, int64_t ldb, float *c, int64_t ldc, bool add) {
  auto *call = two_rows ? two_columns ? amx_product<2, 2> : amx_product<2, 1>
                        : two_columns ? amx_product<1, 2> : amx_product<1, 1>;
  call(begin, end, a, lda, b, ldb, c, ldc, add);
}

#else

// Without the instructions nobody asks for these.
constexpr bool kAmx = false;
struct AmxTiles {};
inline void amx_product(bool, bool, int64_t, int64_t, const void *, int64_t, const void *, int64_t, float *, int64_t,
                        bool) {}

#endif

}  // namespace nt
