// Rotary position embedding (arXiv 2104.09864, with Transformers' pairing of halves), in place.
#include "context.h"
#include "parallel.h"
#include "vec.h"

namespace nt {
namespace {

// One head: (a, b) → (a·cos − b·sin, b·cos + a·sin), a[half] and b[half] the two halves.
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

template <typename T_>
void rope(int threads, T_ *x, int64_t ldx, const float *cosine, const float *sine, const int32_t *positions,
          int64_t T, int64_t heads, int64_t head_dim, float sign) {
  int64_t half = head_dim / 2;
  parallel_for(threads, T, 1 + 8192 / (heads * head_dim), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++)
      for (int64_t h = 0; h < heads; h++) {
        T_ *head = x + t * ldx + h * head_dim;
        rotate(head, head + half, cosine + positions[t] * half, sine + positions[t] * half, half, sign);
      }
  });
}

}  // namespace
}  // namespace nt

NT_API int32_t nt_rope(nt_context *context, int32_t dtype, void *x, int64_t ldx, const float *cosine,
                       const float *sine, const int32_t *positions, int64_t T, int64_t heads, int64_t head_dim,
                       int32_t inverse) {
  NT_CHECK_DTYPE("rope", dtype);
  NT_CHECK(T >= 0 && heads >= 0 && head_dim >= 0, "rope: sizes must be ≥ 0, got T %lld, heads %lld, head_dim %lld",
           (long long)T, (long long)heads, (long long)head_dim);
  NT_CHECK(head_dim % 2 == 0, "rope: head_dim must be even, got %lld", (long long)head_dim);
  NT_CHECK(ldx >= heads * head_dim, "rope: ldx must be at least heads · head_dim = %lld, got %lld",
           (long long)(heads * head_dim), (long long)ldx);
  if (T == 0 || heads == 0 || head_dim == 0) return NT_OK;
  NT_CHECK(x != nullptr && cosine != nullptr && sine != nullptr && positions != nullptr,
           "rope: x, cosine, sine and positions must not be null");
  for (int64_t t = 0; t < T; t++)
    NT_CHECK(positions[t] >= 0, "rope: positions must be ≥ 0, got %d at token %lld", int(positions[t]), (long long)t);
  float sign = inverse != 0 ? -1.0f : 1.0f;
  if (dtype == NT_F32)
    nt::rope(context->threads, static_cast<float *>(x), ldx, cosine, sine, positions, T, heads, head_dim, sign);
  else
    nt::rope(context->threads, static_cast<nt::bf16 *>(x), ldx, cosine, sine, positions, T, heads, head_dim, sign);
  return NT_OK;
}
