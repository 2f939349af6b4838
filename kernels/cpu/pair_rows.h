// Two rows of bf16 as one row of pairs, for the instruction that multiplies and adds pairs.
#pragma once
#include "vec.h"

#ifdef __AVX512BF16__
namespace nt {

// Which elements of two rows, one after the other, make the first 16 pairs.
inline __m512i pair_order() {
  return _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3,
                          34, 2, 33, 1, 32, 0);
}

// words[32]: element i of `row` in the low half of word i, that of `next` in the high half.
inline void store_pairs(void *words, __m512i row, __m512i next) {
  const __m512i first = pair_order();
  const __m512i second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
  _mm512_storeu_si512(words, _mm512_permutex2var_epi16(row, first, next));
  _mm512_storeu_si512(static_cast<char *>(words) + 64, _mm512_permutex2var_epi16(row, second, next));
}

}  // namespace nt
#endif
