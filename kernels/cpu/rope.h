// The rotation of rotary position embedding (arXiv 2104.09864, with Transformers' pairing of halves).
#pragma once
#include "../entry/rope_tables.h"
#include "context.h"
#include "parallel.h"
#include "vec.h"

namespace nt {

// One head: (a, b) → (a·cos − b·sin, b·cos + a·sin), a[half] and b[half] the two halves; sign −1 turns back.
template <typename T_>
void rotate(T_ *a, T_ *b, const float *cosine, const float *sine, int64_t half, float sign) {
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    Vec c = load(cosine + i), s = splat(sign) * load(sine + i), x = load(a + i), y = load(b + i);
    store(a + i, fma(x, c, -(y * s)));
    store(b + i, fma(y, c, x * s));
  }
  if (i == half) return;
  int64_t n = half - i;
  Vec c = load_part(cosine + i, n), s = splat(sign) * load_part(sine + i, n);
  Vec x = load_part(a + i, n), y = load_part(b + i, n);
  store_part(a + i, fma(x, c, -(y * s)), n);
  store_part(b + i, fma(y, c, x * s), n);
}

// All heads of x[T, heads · head_dim], rows ldx apart.
template <typename T_>
void rotate_rows(int threads, T_ *x, int64_t ldx, const Rope &rope, int64_t T, int64_t heads, int64_t head_dim,
                 float sign) {
  const int64_t half = head_dim / 2;
  parallel_for(threads, T, 1 + 8192 / (heads * head_dim), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++)
      for (int64_t h = 0; h < heads; h++) {
        T_ *head = x + t * ldx + h * head_dim;
        const int64_t place = rope.positions[t] * half;
        rotate(head, head + half, rope.cosine + place, rope.sine + place, half, sign);
      }
  });
}

}  // namespace nt
