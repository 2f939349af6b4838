// Warp collectives: what the last lane to arrive computes for all (PTX ISA: shfl.sync, vote.sync, redux.sync,
// match.sync, ldmatrix, mma.m16n8k16).
#include <immintrin.h>
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

// The exchanges of a butterfly, one after the other: lanes 8i … 8i + 7 in values[i].
template <class Combine>
void combine_floats(void *const *lanes, unsigned mask, Combine combine) {
  if (mask != 0xFFFFFFFFu) fail("a sum or maximum over a warp of which only the lanes %08x exist", mask);
  alignas(32) float stored[32];
  for (int lane = 0; lane < 32; lane++) stored[lane] = lane_of<float>(lanes, lane);
  __m256 values[4], others[4];
  auto combine_all = [&] {
    for (int i = 0; i < 4; i++) values[i] = combine(values[i], others[i]);
  };
  for (int i = 0; i < 4; i++) values[i] = _mm256_load_ps(stored + 8 * i);
  for (int step : {2, 1}) {
    for (int i = 0; i < 4; i++) others[i] = values[i ^ step];
    combine_all();
  }
  for (int i = 0; i < 4; i++) others[i] = _mm256_permute2f128_ps(values[i], values[i], 1);
  combine_all();
  for (int i = 0; i < 4; i++) others[i] = _mm256_permute_ps(values[i], 0b01001110);
  combine_all();
  for (int i = 0; i < 4; i++) others[i] = _mm256_permute_ps(values[i], 0b10110001);
  combine_all();
  for (int i = 0; i < 4; i++) _mm256_store_ps(stored + 8 * i, values[i]);
  for (int lane = 0; lane < 32; lane++) lane_of<float>(lanes, lane) = stored[lane];
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

void warp_sum(void *const *lanes, unsigned mask) {
  combine_floats(lanes, mask, [](__m256 a, __m256 b) { return _mm256_add_ps(a, b); });
}

void warp_max(void *const *lanes, unsigned mask) {
  combine_floats(lanes, mask, [](__m256 a, __m256 b) {  // fmaxf: where one is NaN, the other
    return _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps(b, b, _CMP_UNORD_Q));
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

// d[16×8] += a[16×16]·b[16×8], laid over lanes as gpu.h's mma says; sums in order of k. Registers hold pairs of
// neighbors in k, so pairs stay together until they are widened: p counts pairs.
void warp_mma(void *const *lanes, unsigned) {
  if (counting) count_product();
  alignas(32) uint32_t a[16][8], b[8][8];  // [row][p], [p][column]
  alignas(32) float d[16][8];
  for (int lane = 0; lane < 32; lane++) {
    const MatrixProduct &product = lane_of<MatrixProduct>(lanes, lane);
    const int g = lane / 4, pair = lane % 4;
    a[g][pair] = product.a[0];
    a[g + 8][pair] = product.a[1];
    a[g][pair + 4] = product.a[2];
    a[g + 8][pair + 4] = product.a[3];
    b[pair][g] = product.b[0];
    b[pair + 4][g] = product.b[1];
    memcpy(&d[g][2 * pair], product.d, 8);
    memcpy(&d[g + 8][2 * pair], product.d + 2, 8);
  }
  // bf16 to float32: the first of a pair is the low half.
  const __m256i high_half = _mm256_set1_epi32(int(0xFFFF0000u));
  auto first = [](const uint32_t *pairs) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(*reinterpret_cast<const __m256i *>(pairs), 16));
  };
  auto second = [&](const uint32_t *pairs) {
    return _mm256_castsi256_ps(_mm256_and_si256(*reinterpret_cast<const __m256i *>(pairs), high_half));
  };
  alignas(32) float a_first[16][8], a_second[16][8];
  for (int row = 0; row < 16; row++) {
    _mm256_store_ps(a_first[row], first(a[row]));
    _mm256_store_ps(a_second[row], second(a[row]));
  }
  for (int top = 0; top < 16; top += 8) {
    __m256 sums[8];
    for (int i = 0; i < 8; i++) sums[i] = _mm256_load_ps(d[top + i]);
    for (int p = 0; p < 8; p++) {
      const __m256 b_first = first(b[p]), b_second = second(b[p]);
#pragma GCC unroll 8
      for (int i = 0; i < 8; i++) {
        sums[i] = _mm256_fmadd_ps(_mm256_broadcast_ss(&a_first[top + i][p]), b_first, sums[i]);
        sums[i] = _mm256_fmadd_ps(_mm256_broadcast_ss(&a_second[top + i][p]), b_second, sums[i]);
      }
    }
    for (int i = 0; i < 8; i++) _mm256_store_ps(d[top + i], sums[i]);
  }
  for (int lane = 0; lane < 32; lane++) {
    float *to = lane_of<MatrixProduct>(lanes, lane).d;
    const int g = lane / 4, pair = lane % 4;
    memcpy(to, &d[g][2 * pair], 8);
    memcpy(to + 2, &d[g + 8][2 * pair], 8);
  }
}

}  // namespace nt::emulator
