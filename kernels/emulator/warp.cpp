// Warp collectives: what the last lane to arrive computes for all (PTX ISA: shfl.sync, vote.sync, redux.sync,
// match.sync, ldmatrix, mma.m16n8k16).
#include <string.h>

#include "runtime.h"

namespace nt::emulator {
namespace {

template <class T>
inline T &lane_of(void *const *lanes, int lane) {
  return *static_cast<T *>(lanes[lane]);
}

template <class Visit>
inline void for_each(unsigned mask, Visit visit) {
  for (; mask != 0; mask &= mask - 1) visit(__builtin_ctz(mask));
}

uint32_t combine(Reduction reduction, uint32_t a, uint32_t b) {
  switch (reduction) {
    case kReduceAdd: return a + b;
    case kReduceMin: return a < b ? a : b;
    case kReduceMax: return a > b ? a : b;
    case kReduceMinSigned: return int32_t(a) < int32_t(b) ? a : b;
    case kReduceMaxSigned: return int32_t(a) > int32_t(b) ? a : b;
    case kReduceAnd: return a & b;
    case kReduceOr: return a | b;
    case kReduceXor: return a ^ b;
  }
  return 0;
}

typedef float Row8 __attribute__((vector_size(32)));

inline float low_bf16(uint32_t pair) {
  pair <<= 16;
  float x;
  memcpy(&x, &pair, 4);
  return x;
}
inline float high_bf16(uint32_t pair) {
  pair &= 0xFFFF0000u;
  float x;
  memcpy(&x, &pair, 4);
  return x;
}

void count_rows(void *const *lanes) {
  const void *rows[32];
  for (int lane = 0; lane < 32; lane++) rows[lane] = lane_of<MatrixLoad>(lanes, lane).address;
  count_matrix_load(rows);
}

}  // namespace

void warp_nothing(void *const *, unsigned) {}

void warp_shuffle(void *const *lanes, unsigned mask) {
  for_each(mask, [&](int lane) {
    Shuffle &to = lane_of<Shuffle>(lanes, lane);
    if (!(mask >> to.source & 1)) fail("a shuffle reads lane %d, which mask %08x does not name", to.source, mask);
    to.result = lane_of<Shuffle>(lanes, to.source).value;
  });
}

void warp_ballot(void *const *lanes, unsigned mask) {
  unsigned votes = 0;
  for_each(mask, [&](int lane) { votes |= unsigned(lane_of<Ballot>(lanes, lane).predicate != 0) << lane; });
  for_each(mask, [&](int lane) { lane_of<Ballot>(lanes, lane).result = votes; });
}

void warp_reduction(void *const *lanes, unsigned mask) {
  const int first = __builtin_ctz(mask);
  const Reduction reduction = lane_of<WarpReduction>(lanes, first).reduction;
  uint32_t sum = lane_of<WarpReduction>(lanes, first).value;
  for_each(mask & (mask - 1), [&](int lane) {
    if (lane_of<WarpReduction>(lanes, lane).reduction != reduction) fail("lanes meet in different reductions");
    sum = combine(reduction, sum, lane_of<WarpReduction>(lanes, lane).value);
  });
  for_each(mask, [&](int lane) { lane_of<WarpReduction>(lanes, lane).result = sum; });
}

void warp_match(void *const *lanes, unsigned mask) {
  for_each(mask, [&](int lane) {
    Match &mine = lane_of<Match>(lanes, lane);
    for_each(mask, [&](int other) {
      mine.result |= unsigned(lane_of<Match>(lanes, other).value == mine.value) << other;
    });
  });
}

// Row r of matrix j was read by lane 8j + r; lane l receives elements 2·(l mod 4) and + 1 of row l / 4.
void warp_load_matrix(void *const *lanes, unsigned) {
  if (counting) count_rows(lanes);
  for (int lane = 0; lane < 32; lane++) {
    uint32_t *result = lane_of<MatrixLoad>(lanes, lane).result;
    for (int j = 0; j < 4; j++) result[j] = lane_of<MatrixLoad>(lanes, 8 * j + lane / 4).row[lane % 4];
  }
}

// … elements (2·(l mod 4), l / 4) and (2·(l mod 4) + 1, l / 4).
void warp_load_matrix_transposed(void *const *lanes, unsigned) {
  if (counting) count_rows(lanes);
  for (int lane = 0; lane < 32; lane++) {
    uint32_t *result = lane_of<MatrixLoad>(lanes, lane).result;
    const int column = lane / 4, row = 2 * (lane % 4);
    for (int j = 0; j < 4; j++) {
      const uint32_t *upper = lane_of<MatrixLoad>(lanes, 8 * j + row).row;
      const uint32_t *lower = lane_of<MatrixLoad>(lanes, 8 * j + row + 1).row;
      const int shift = 16 * (column % 2);
      result[j] = (upper[column / 2] >> shift & 0xFFFFu) | (lower[column / 2] >> shift & 0xFFFFu) << 16;
    }
  }
}

// d[16×8] += a[16×16]·b[16×8], laid over lanes as gpu.h's mma says; sums in order of k.
void warp_mma(void *const *lanes, unsigned) {
  float a[16][16], b[16][8], d[16][8];
  for (int lane = 0; lane < 32; lane++) {
    const MatrixProduct &product = lane_of<MatrixProduct>(lanes, lane);
    const int g = lane / 4, q = 2 * (lane % 4);
    for (int i = 0; i < 4; i++) {
      const int row = g + 8 * (i % 2), k = q + 8 * (i / 2);
      a[row][k] = low_bf16(product.a[i]);
      a[row][k + 1] = high_bf16(product.a[i]);
    }
    for (int i = 0; i < 2; i++) {
      b[q + 8 * i][g] = low_bf16(product.b[i]);
      b[q + 8 * i + 1][g] = high_bf16(product.b[i]);
    }
    for (int i = 0; i < 4; i++) d[g + 8 * (i / 2)][q + i % 2] = product.d[i];
  }
  Row8 rows[16];
  memcpy(rows, b, sizeof rows);
  for (int row = 0; row < 16; row += 4) {
    Row8 sums[4];
    memcpy(sums, d[row], sizeof sums);
    for (int k = 0; k < 16; k++)
      for (int i = 0; i < 4; i++) sums[i] += a[row + i][k] * rows[k];
    memcpy(d[row], sums, sizeof sums);
  }
  for (int lane = 0; lane < 32; lane++) {
    const MatrixProduct &product = lane_of<MatrixProduct>(lanes, lane);
    const int g = lane / 4, q = 2 * (lane % 4);
    for (int i = 0; i < 4; i++) product.d[i] = d[g + 8 * (i / 2)][q + i % 2];
  }
}

}  // namespace nt::emulator
