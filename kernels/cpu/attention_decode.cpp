// Attention of one query token a sequence over its key/value cache. The cache is read once for all the query heads of
// a key/value head: memory bounds the speed. Long caches are cut into pieces of kPiece keys, each with its own maximum
// and sum, and the pieces are put together in order: the result does not depend on the number of threads.
#include "attention.h"
#include "lane_sums.h"
#include "pair_rows.h"

namespace nt {
namespace {

constexpr int64_t kPiece = 512;

// Keys whose values are copied at a time.
constexpr int64_t kChunk = 64;

// How many keys ahead memory is asked for: the hardware sees too late that a head's keys begin, and not beyond a page.
constexpr int64_t kAhead = 2 * kLanes;

// Asks for the rows [begin, end) of x, of which there are n.
template <typename T>
inline void ask_for(const T *x, int64_t begin, int64_t end, int64_t n, int64_t head_dim) {
  const char *bytes = reinterpret_cast<const char *>(x + begin * head_dim);
  const int64_t count = (std::min(end, n) - begin) * head_dim * int64_t(sizeof(T));
  for (int64_t i = 0; i < count; i += 64) __builtin_prefetch(bytes + i);
}

// Of `block` packed keys with each of the packed queries: scores[r · kPiece …]. kStride: their row distance where it is
// known, so that the loops are unrolled; else 0.
template <bool Pairs, int64_t kStride>
inline void block_scores(float *scores, const float *queries, int64_t rows, int64_t stride, const float *keys,
                         int64_t block) {
  const int64_t words = kStride > 0 ? kStride : stride;
  for (int64_t r = 0; r < rows; r++) {
    Vec sums[kLanes];
    for (int64_t i = 0; i < kLanes; i++) {
      const float *row = keys + std::min(i, block - 1) * words;
      Vec sum = Vec{};
      for (int64_t w = 0; w < words; w += kLanes)
        sum = multiply_add<Pairs>(load(row + w), load(queries + r * words + w), sum);
      sums[i] = sum;
    }
    store(scores + r * kPiece, sums_of(sums));
  }
}

// scores[r · kPiece + key] = queries[r]·k[key], queries packed [rows, stride]; `copy` has room for kLanes packed rows. The
// values v, which are read next, are asked for meanwhile.
template <bool Pairs, typename T>
void scores_of(float *scores, const float *queries, int64_t rows, const HeadSize &head, const T *k, const T *v,
               int64_t n, int64_t head_dim, float *copy) {
  // Keys that fill whole vectors of words are words already.
  const bool direct = (Pairs || sizeof(T) == 4) && head_dim * int64_t(sizeof(T)) == head.stride * 4;
  ask_for(k, 0, kAhead, n, head_dim);
  for (int64_t key = 0; key < n; key += kLanes) {
    ask_for(k, key + kAhead, key + kAhead + kLanes, n, head_dim);
    ask_for(v, key, key + kLanes, n, head_dim);
    int64_t block = std::min(int64_t(kLanes), n - key);
    const T *first = k + key * head_dim;
    if (!direct)
      pack_rows<Pairs, T>(copy, block, head_dim, head.stride, [&](int64_t r) { return first + r * head_dim; });
    const float *words = direct ? reinterpret_cast<const float *>(first) : copy;
    if (head.stride == 32)
      block_scores<Pairs, 32>(scores + key, queries, rows, head.stride, words, block);
    else if (head.stride == 64)
      block_scores<Pairs, 64>(scores + key, queries, rows, head.stride, words, block);
    else
      block_scores<Pairs, 0>(scores + key, queries, rows, head.stride, words, block);
  }
}

// Pairs over two keys, [⌈n / 2⌉, columns], of the values of n keys; a missing last one counts as zeros. `packed` has room
// for the n rows.
template <typename T>
void pair_values(float *words, float *packed, const T *v, int64_t n, int64_t head_dim, const HeadSize &head) {
#ifdef __AVX512BF16__
  if (head_dim % 32 == 0) {
    for (int64_t r = 0; r < n; r += 2, words += head_dim)
      for (int64_t i = 0; i < head_dim; i += 32) {
        const T *row = v + r * head_dim + i;
        const __m512i next = r + 1 < n ? _mm512_loadu_si512(row + head_dim) : _mm512_setzero_si512();
        store_pairs(words + i, _mm512_loadu_si512(row), next);
      }
    return;
  }
#endif
  pack_rows<true, T>(packed, n, head_dim, head.stride, [&](int64_t r) { return v + r * head_dim; });
  pack_row_pairs(words, packed, n, head.stride, head.columns);
}

// out[r · ldo + i] = Σ p[r · kPiece …]·v[n, head_dim], p in words; `copies` has room for two packed chunks.
template <bool Pairs, typename T>
void weigh(float *out, int64_t ldo, const float *p, int64_t rows, const HeadSize &head, const T *v, int64_t n,
           int64_t head_dim, float *copies) {
  constexpr int64_t pair = Pairs ? 2 : 1;
  for (int64_t key = 0; key < n; key += kChunk) {
    int64_t keys = std::min(kChunk, n - key);
    const T *first = v + key * head_dim;
    const float *words = copies;
    if constexpr (Pairs) {
      pair_values(copies, copies + kChunk * head.columns, first, keys, head_dim, head);
    } else if (sizeof(T) == 4 && head_dim == head.columns) {
      words = reinterpret_cast<const float *>(first);
    } else {
      pack_rows<false, T>(copies, keys, head_dim, head.columns, [&](int64_t r) { return first + r * head_dim; });
    }
    multiply<Pairs, false>(rows, head.columns / kLanes, p + key / pair, kPiece, words, head.columns, out, ldo, key > 0,
                           [&](int64_t, int64_t) { return Part{0, 0, (keys + pair - 1) / pair}; });
  }
}

// p = exp2(factor · score − top) in place, as words; returns Σ p. Scores are written up to the next whole vector.
template <bool Pairs>
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
    store_words<Pairs>(scores + (Pairs ? key / 2 : key), p);  // behind what is still to be read
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
  CachedSize size;

  // How many pieces sequence s reads.
  int64_t pieces(int64_t s) const { return (size.count(s) + kPiece - 1) / kPiece; }
};

template <typename T>
int32_t decode(int threads, const Decode<T> &call) {
  constexpr bool Pairs = kPairs<T>;
  const CachedSize &size = call.size;
  const HeadSize head = head_size<Pairs>(size.head_dim);
  const int64_t group = size.heads / size.kv_heads, columns = head.columns;
  const int64_t partial = columns + kLanes;  // Σ p·v, then the maximum and Σ p

  int64_t pieces = 0;
  for (int64_t s = 0; s < size.sequences; s++) pieces += call.pieces(s);
  const int64_t count = pieces * size.kv_heads;
  Work *items = work_list(count);
  static thread_local Scratch memory_of_partials;
  auto *partials = static_cast<float *>(memory_of_partials.at_least(count * group * partial * 4));
  if (count > 0 && (items == nullptr || partials == nullptr))
    return fail(NT_OUT_OF_MEMORY, "attention_decode: no memory for %lld pieces", (long long)count);
  int64_t n = 0;
  for (int64_t s = 0; s < size.sequences; s++)
    for (int64_t h = 0; h < size.kv_heads; h++)
      for (int64_t begin = size.begin(s); begin < size.lengths[s]; begin += kPiece, n++) {
        int64_t end = std::min(begin + kPiece, int64_t(size.lengths[s]));
        items[n] = {end - begin, int32_t(s), int32_t(h), int32_t(begin), int32_t(end), int32_t(n)};
      }

  const int64_t floats = group * (head.stride + kPiece) + 2 * kChunk * columns;
  bool done = run_longest_first(threads, items, count, floats, [&](const Work &item, float *memory) {
    float *scores = memory, *copies = scores + group * kPiece, *queries = copies + 2 * kChunk * columns;
    const T *q = call.q + item.sequence * call.ldq + item.kv_head * group * size.head_dim;
    pack_rows<Pairs, T>(queries, group, size.head_dim, head.stride, [&](int64_t r) { return q + r * size.head_dim; });
    int64_t start = (size.slots[item.sequence] * size.kv_heads + item.kv_head) * size.capacity + item.begin;
    const T *k = call.k_cache + start * size.head_dim, *v = call.v_cache + start * size.head_dim;
    int64_t keys = item.end - item.begin;
    scores_of<Pairs>(scores, queries, group, head, k, v, keys, size.head_dim, copies);
    float *out = partials + item.kind * group * partial;
    for (int64_t r = 0; r < group; r++)
      out[r * partial + columns + 1] =
          probabilities<Pairs>(scores + r * kPiece, keys, size.scale, out + r * partial + columns);
    weigh<Pairs>(out, partial, scores, group, head, v, keys, size.head_dim, copies);
  });
  if (!done)
    return fail(NT_OUT_OF_MEMORY, "attention_decode: no memory for %lld floats a thread", (long long)floats);

  // The pieces of a head lie `group` partial results apart.
  const float *head_partials = partials;
  for (int64_t s = 0; s < size.sequences; s++) {
    int64_t cuts = call.pieces(s);
    for (int64_t h = 0; h < size.heads; h++) {
      T *o = call.o + s * call.ldo + h * size.head_dim;
      const float *first = head_partials + (h / group * cuts * group + h % group) * partial;
      if (cuts == 0) {
        for (int64_t i = 0; i < size.head_dim; i++) set(o[i], 0.0f);
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
      store_row(o, out, 1.0f / total, size.head_dim);
    }
    head_partials += cuts * size.kv_heads * group * partial;
  }
  return NT_OK;
}

template <typename T>
int32_t attention_decode(nt_context *context, const CachedSize &size, T *o, int64_t ldo, const T *q, int64_t ldq,
                         const T *k_cache, const T *v_cache) {
  return decode<T>(context->threads, {o, ldo, q, ldq, k_cache, v_cache, size});
}

int32_t kv_append(nt_context *context, int32_t dtype, void *k_cache, void *v_cache, const void *k, const void *v,
                  int64_t ldkv, const int32_t *borders, const int32_t *slots, const int32_t *starts, int64_t sequences,
                  int64_t capacity, int64_t kv_heads, int64_t head_dim) {
  const int64_t tokens = borders[sequences], bytes = head_dim * size_of(dtype), row_bytes = ldkv * size_of(dtype);
  parallel_for(context->threads, tokens, 1 + (1 << 18) / (kv_heads * bytes), [&](int64_t begin, int64_t end) {
    int64_t s = 0;
    for (int64_t t = begin; t < end; t++) {
      while (t >= borders[s + 1]) s++;
      int64_t position = starts[s] + t - borders[s];
      for (int64_t h = 0; h < kv_heads; h++) {
        int64_t to = ((slots[s] * kv_heads + h) * capacity + position) * bytes, from = t * row_bytes + h * bytes;
        memcpy(static_cast<char *>(k_cache) + to, static_cast<const char *>(k) + from, size_t(bytes));
        memcpy(static_cast<char *>(v_cache) + to, static_cast<const char *>(v) + from, size_t(bytes));
      }
    }
  });
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/attention_decode.h"
#include "../entry/kv_append.h"
