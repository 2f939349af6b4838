// Attention of one query token a sequence over its key/value cache. The cache is read once for all the query heads of
// a key/value head: memory bounds the speed. Long caches are cut into pieces of kPiece keys, each with its own maximum
// and sum, and the pieces are put together in order: the result does not depend on the number of threads.
#include "attention.h"

namespace nt {
namespace {

constexpr int64_t kPiece = 512;

// scores[r · kPiece + key] = queries[r]·k[key], queries float32 [rows, columns] with zeros behind head_dim.
template <typename T>
void scores_of(float *scores, const float *queries, int64_t rows, int64_t columns, const T *k, int64_t n,
               int64_t head_dim) {
  for (int64_t key = 0; key < n; key += kLanes) {
    int64_t block = std::min(int64_t(kLanes), n - key);
    for (int64_t r = 0; r < rows; r++) {
      const float *query = queries + r * columns;
      Vec sums[kLanes];
      for (int64_t i = 0; i < kLanes; i++) {
        const T *row = k + (key + std::min(i, block - 1)) * head_dim;
        Vec sum = Vec{};
        int64_t d = 0;
        for (; d + kLanes <= head_dim; d += kLanes) sum = fma(load(row + d), load(query + d), sum);
        if (d < head_dim) sum = fma(load_part(row + d, head_dim - d), load(query + d), sum);
        sums[i] = sum;
      }
      transpose(sums);
      for (int width = kLanes / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) sums[i] += sums[i + width];
      store(scores + r * kPiece + key, sums[0]);
    }
  }
}

// out[head_dim] = Σ p[key] · v[key]
template <typename T, int N>
void weigh_strip(float *out, const float *p, const T *v, int64_t n, int64_t head_dim) {
  Vec even[N] = {}, odd[N] = {};
  int64_t key = 0;
  for (; key + 2 <= n; key += 2)
    for (int i = 0; i < N; i++) {
      even[i] = fma(splat(p[key]), load(v + key * head_dim + i * kLanes), even[i]);
      odd[i] = fma(splat(p[key + 1]), load(v + (key + 1) * head_dim + i * kLanes), odd[i]);
    }
  for (int i = 0; i < N; i++) {
    if (key < n) even[i] = fma(splat(p[key]), load(v + key * head_dim + i * kLanes), even[i]);
    store(out + i * kLanes, even[i] + odd[i]);
  }
}

template <typename T>
void weigh(float *out, const float *p, const T *v, int64_t n, int64_t head_dim) {
  int64_t d = 0;
  for (; d + 4 * kLanes <= head_dim; d += 4 * kLanes) weigh_strip<T, 4>(out + d, p, v + d, n, head_dim);
  for (; d + kLanes <= head_dim; d += kLanes) weigh_strip<T, 1>(out + d, p, v + d, n, head_dim);
  if (d == head_dim) return;
  Vec sum = Vec{};
  for (int64_t key = 0; key < n; key++)
    sum = fma(splat(p[key]), load_part(v + key * head_dim + d, head_dim - d), sum);
  store(out + d, sum);
}

// p = exp2(factor · score − top) in place; returns Σ p. scores may be written up to the next whole vector.
float probabilities(float *scores, int64_t n, float scale, float *top) {
  const Vec least = splat(-__builtin_inff());
  for (int64_t key = n; key < round_up(n, kLanes); key++) scores[key] = least[0];
  Vec greatest = least, total = Vec{};
  for (int64_t key = 0; key < n; key += kLanes) greatest = max(load(scores + key), greatest);
  float factor = scale * kLog2E;
  *top = max_of(greatest) * factor;
  for (int64_t key = 0; key < n; key += kLanes) {
    Vec p = exp2<false>(fma(load(scores + key), splat(factor), splat(-*top)));
    total += p;
    store(scores + key, p);
  }
  return sum(total);
}

template <typename T>
struct Decode {
  T *o;
  int64_t ldo;
  const T *q;
  int64_t ldq;
  const T *k_cache, *v_cache;
  const int32_t *slots, *lengths;
  int64_t sequences, capacity, heads, kv_heads, head_dim;
  float scale;
};

template <typename T>
int32_t decode(int threads, const Decode<T> &call) {
  const int64_t group = call.heads / call.kv_heads, columns = round_up(call.head_dim, kLanes);
  const int64_t partial = columns + kLanes;  // Σ p·v, then the maximum and Σ p

  int64_t pieces = 0, longest = 0;
  for (int64_t s = 0; s < call.sequences; s++) {
    pieces += (call.lengths[s] + kPiece - 1) / kPiece;
    longest = std::max(longest, int64_t(call.lengths[s]));
  }
  if (longest == 0) pieces = 0;
  const int64_t count = pieces * call.kv_heads;
  Work *items = work_list(count);
  static thread_local Scratch memory_of_partials;
  auto *partials = static_cast<float *>(memory_of_partials.at_least(count * group * partial * 4));
  if (count > 0 && (items == nullptr || partials == nullptr))
    return fail(NT_OUT_OF_MEMORY, "attention_decode: no memory for %lld pieces", (long long)count);
  int64_t n = 0;
  for (int64_t s = 0; s < call.sequences; s++)
    for (int64_t h = 0; h < call.kv_heads; h++)
      for (int32_t begin = 0; begin < call.lengths[s]; begin += int32_t(kPiece), n++) {
        int32_t end = int32_t(std::min(begin + kPiece, int64_t(call.lengths[s])));
        items[n] = {end - begin, int32_t(s), int32_t(h), begin, end, int32_t(n)};
      }

  const int64_t floats = group * (columns + kPiece);
  bool done = run_longest_first(threads, items, count, floats, [&](const Work &item, float *memory) {
    float *queries = memory, *scores = memory + group * columns;
    const T *q = call.q + item.sequence * call.ldq + item.kv_head * group * call.head_dim;
    pack_rows<false, T>(queries, group, call.head_dim, columns, [&](int64_t r) { return q + r * call.head_dim; });
    int64_t start = ((call.slots[item.sequence] * call.kv_heads + item.kv_head) * call.capacity + item.begin);
    const T *k = call.k_cache + start * call.head_dim, *v = call.v_cache + start * call.head_dim;
    int64_t keys = item.end - item.begin;
    scores_of(scores, queries, group, columns, k, keys, call.head_dim);
    for (int64_t r = 0; r < group; r++) {
      float *out = partials + (item.kind * group + r) * partial, *p = scores + r * kPiece;
      out[columns + 1] = probabilities(p, keys, call.scale, out + columns);
      weigh(out, p, v, keys, call.head_dim);
    }
  });
  if (!done)
    return fail(NT_OUT_OF_MEMORY, "attention_decode: no memory for %lld floats a thread", (long long)floats);

  // The pieces of a head lie `group` partial results apart.
  const float *head_partials = partials;
  for (int64_t s = 0; s < call.sequences; s++) {
    int64_t cuts = (call.lengths[s] + kPiece - 1) / kPiece;
    for (int64_t h = 0; h < call.heads; h++) {
      T *o = call.o + s * call.ldo + h * call.head_dim;
      const float *first = head_partials + (h / group * cuts * group + h % group) * partial;
      if (cuts == 0) {
        for (int64_t i = 0; i < call.head_dim; i++) set(o[i], 0.0f);
        continue;
      }
      float top = first[columns], total = 0, out[256 + kLanes] = {};
      for (int64_t c = 1; c < cuts; c++) top = std::max(top, first[c * group * partial + columns]);
      for (int64_t c = 0; c < cuts; c++) {
        const float *piece = first + c * group * partial;
        Vec weight = exp2<false>(splat(piece[columns] - top));
        total += weight[0] * piece[columns + 1];
        for (int64_t i = 0; i < columns; i += kLanes) store(out + i, fma(weight, load(piece + i), load(out + i)));
      }
      store_row(o, out, 1.0f / total, call.head_dim);
    }
    head_partials += cuts * call.kv_heads * group * partial;
  }
  return NT_OK;
}

}  // namespace
}  // namespace nt

NT_API int32_t nt_kv_append(nt_context *context, int32_t dtype, void *k_cache, void *v_cache, const void *k,
                            const void *v, int64_t ldkv, const int32_t *cu_seqlens, const int32_t *slots,
                            const int32_t *starts, int64_t sequences, int64_t capacity, int64_t kv_heads,
                            int64_t head_dim) {
  const char *op = "kv_append";
  NT_CHECK_DTYPE("kv_append", dtype);
  if (int32_t status = nt::check_heads(op, kv_heads, kv_heads, head_dim)) return status;
  if (int32_t status = nt::check_borders(op, cu_seqlens, sequences)) return status;
  NT_CHECK(ldkv >= kv_heads * head_dim, "%s: ldkv must be at least kv_heads · head_dim = %lld, got %lld", op,
           (long long)(kv_heads * head_dim), (long long)ldkv);
  int64_t tokens = sequences > 0 ? cu_seqlens[sequences] : 0;
  if (tokens == 0) return NT_OK;
  NT_CHECK(k_cache != nullptr && v_cache != nullptr && k != nullptr && v != nullptr && slots != nullptr &&
               starts != nullptr,
           "%s: the caches, k, v, slots and starts must not be null", op);
  for (int64_t s = 0; s < sequences; s++) {
    int64_t length = cu_seqlens[s + 1] - cu_seqlens[s];
    NT_CHECK(slots[s] >= 0 && starts[s] >= 0 && starts[s] + length <= capacity,
             "%s: sample %lld must fit its slot of %lld positions, got slot %d, positions %d … %lld", op, (long long)s,
             (long long)capacity, int(slots[s]), int(starts[s]), (long long)(starts[s] + length));
  }
  const int64_t bytes = head_dim * nt::size_of(dtype), row_bytes = ldkv * nt::size_of(dtype);
  nt::parallel_for(context->threads, tokens, 1 + (1 << 18) / (kv_heads * bytes), [&](int64_t begin, int64_t end) {
    int64_t s = 0;
    for (int64_t t = begin; t < end; t++) {
      while (t >= cu_seqlens[s + 1]) s++;
      int64_t position = starts[s] + t - cu_seqlens[s];
      for (int64_t h = 0; h < kv_heads; h++) {
        int64_t to = ((slots[s] * kv_heads + h) * capacity + position) * bytes, from = t * row_bytes + h * bytes;
        memcpy(static_cast<char *>(k_cache) + to, static_cast<const char *>(k) + from, size_t(bytes));
        memcpy(static_cast<char *>(v_cache) + to, static_cast<const char *>(v) + from, size_t(bytes));
      }
    }
  });
  return NT_OK;
}

NT_API int32_t nt_attention_decode(nt_context *context, int32_t dtype, void *o, int64_t ldo, const void *q,
                                   int64_t ldq, const void *k_cache, const void *v_cache, const int32_t *slots,
                                   const int32_t *lengths, int64_t sequences, int64_t capacity, int64_t heads,
                                   int64_t kv_heads, int64_t head_dim, float scale) {
  const char *op = "attention_decode";
  NT_CHECK_DTYPE("attention_decode", dtype);
  if (int32_t status = nt::check_heads(op, heads, kv_heads, head_dim)) return status;
  NT_CHECK(sequences >= 0, "%s: sequences must be ≥ 0, got %lld", op, (long long)sequences);
  NT_CHECK(scale > 0 && scale < 1e30f, "%s: scale must be finite and > 0, got %g", op, double(scale));
  NT_CHECK(ldo >= heads * head_dim && ldq >= heads * head_dim,
           "%s: ldo and ldq must be at least heads · head_dim = %lld, got %lld and %lld", op,
           (long long)(heads * head_dim), (long long)ldo, (long long)ldq);
  if (sequences == 0) return NT_OK;
  NT_CHECK(o != nullptr && q != nullptr && k_cache != nullptr && v_cache != nullptr && slots != nullptr &&
               lengths != nullptr,
           "%s: o, q, the caches, slots and lengths must not be null", op);
  for (int64_t s = 0; s < sequences; s++)
    NT_CHECK(slots[s] >= 0 && lengths[s] >= 0 && lengths[s] <= capacity,
             "%s: lengths must be between 0 and the capacity %lld, slots ≥ 0, got length %d of slot %d", op,
             (long long)capacity, int(lengths[s]), int(slots[s]));
  auto run = [&](auto element) {
    using T = decltype(element);
    return nt::decode<T>(context->threads,
                         {static_cast<T *>(o), ldo, static_cast<const T *>(q), ldq, static_cast<const T *>(k_cache),
                          static_cast<const T *>(v_cache), slots, lengths, sequences, capacity, heads, kv_heads,
                          head_dim, scale});
  };
  return dtype == NT_F32 ? run(float{}) : run(nt::bf16{});
}
