// The rotation of rotary position embedding (arXiv 2104.09864, with Transformers' pairing of halves).
#pragma once
#include "../entry/rope_tables.h"
#include "context.h"
#include "parallel.h"
#include "prefetch.h"
#include "vec.h"

namespace nt {

// One head: (a, b) → (a·cos − b·sin, b·cos + a·sin), a[half] and b[half] the two halves; sign −1 turns back.
template <typename T_>
void rotate(T_ *a, T_ *b, const float *cosine, const float *sine, int64_t half, float sign) {
  struct Turned {
    Vec a, b;
  };
  auto turn = [&](Vec x, Vec y, Vec c, Vec s) {
    s *= splat(sign);
    return Turned{fma(x, c, -(y * s)), fma(y, c, x * s)};
  };
  auto at = [&](int64_t i) { return turn(load(a + i), load(b + i), load(cosine + i), load(sine + i)); };
  int64_t i = 0;
  for (; i + 2 * kLanes <= half; i += 2 * kLanes) {
    const Turned low = at(i), high = at(i + kLanes);
    store_rounded(a + i, low.a, high.a);
    store_rounded(b + i, low.b, high.b);
  }
  for (; i + kLanes <= half; i += kLanes) {
    const Turned one = at(i);
    store_rounded(a + i, one.a);
    store_rounded(b + i, one.b);
  }
  if (i == half) return;
  const int64_t n = half - i;
  const Turned rest = turn(load_part(a + i, n), load_part(b + i, n), load_part(cosine + i, n), load_part(sine + i, n));
  store_part(a + i, rest.a, n);
  store_part(b + i, rest.b, n);
}

// All heads of x[T, heads · head_dim], rows ldx apart.
template <typename T_>
void rotate_rows(int threads, T_ *x, int64_t ldx, const Rope &rope, int64_t T, int64_t heads, int64_t head_dim,
                 float sign) {
  const int64_t half = head_dim / 2, columns = heads * head_dim;
  const int64_t ahead = (1 + kPrefetchBytes / (ldx * int64_t(sizeof(T_)))) * ldx;
  parallel_for(threads, T, 1 + 8192 / columns, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      T_ *row = x + t * ldx;
      const int64_t place = rope.positions[t] * half;
      for (int64_t j = 0; j < columns; j += 64 / int64_t(sizeof(T_))) __builtin_prefetch(row + ahead + j, 1);
      for (T_ *head = row; head < row + columns; head += head_dim)
        rotate(head, head + half, rope.cosine + place, rope.sine + place, half, sign);
    }
  });
}

}  // namespace nt
