// Keys and values of new tokens go to the caches [slots, kv_heads, capacity, head_dim] that decoding reads.
#include <stdlib.h>

#include "../entry/attention_checks.h"
#include "context.h"

namespace nt {
namespace {

constexpr int kThreads = 128;

// In words of 2, 4 or 16 bytes.
template <class Word>
struct Arguments {
  Word *k_cache, *v_cache;
  const Word *k, *v;
  int64_t ldkv;
  // [sequences + 1] borders, [sequences] slots, [sequences] first positions
  const int32_t *samples;
  int sequences, kv_heads, head_words;
  int64_t capacity;
};

// One block a token; copies 2 · kv_heads · head_dim values, each read and written once.
template <class Word>
__global__ void __launch_bounds__(kThreads, 8) kv_append_kernel(const Arguments<Word> a) {
  const int32_t token = int32_t(blockIdx.x);
  // The token's sample is the last that starts at it or before, and is not empty.
  int sample = 0;
  for (int end = a.sequences; end - sample > 1;) {
    const int middle = (sample + end) / 2;
    if (a.samples[middle] <= token)
      sample = middle;
    else
      end = middle;
  }
  const int32_t *const slots = a.samples + a.sequences + 1, *const starts = slots + a.sequences;
  const int64_t slot = slots[sample], position = starts[sample] + (token - a.samples[sample]);
  for (int i = threadIdx.x; i < a.kv_heads * a.head_words; i += kThreads) {
    const int head = i / a.head_words, word = i % a.head_words;
    const int64_t to = ((slot * a.kv_heads + head) * a.capacity + position) * a.head_words + word;
    a.k_cache[to] = a.k[token * a.ldkv + i];
    a.v_cache[to] = a.v[token * a.ldkv + i];
  }
}

template <class Word>
int32_t append(nt_context *context, int64_t value_bytes, void *k_cache, void *v_cache, const void *k, const void *v,
               int64_t ldkv, const int32_t *samples, int64_t tokens, int64_t sequences, int64_t capacity,
               int64_t kv_heads, int64_t head_dim) {
  auto words = [&](int64_t values) { return values * value_bytes / int64_t(sizeof(Word)); };
  const Arguments<Word> arguments = {static_cast<Word *>(k_cache),
                                     static_cast<Word *>(v_cache),
                                     static_cast<const Word *>(k),
                                     static_cast<const Word *>(v),
                                     words(ldkv),
                                     samples,
                                     int(sequences),
                                     int(kv_heads),
                                     int(words(head_dim)),
                                     capacity};
  NT_CUDA(launch(kv_append_kernel<Word>, dim3(unsigned(tokens)), dim3(kThreads), 0, context->stream, arguments),
          "kv_append");
  return NT_OK;
}

int32_t kv_append(nt_context *context, int32_t dtype, void *k_cache, void *v_cache, const void *k, const void *v,
                  int64_t ldkv, const int32_t *borders, const int32_t *slots, const int32_t *starts, int64_t sequences,
                  int64_t capacity, int64_t kv_heads, int64_t head_dim) {
  const int64_t tokens = borders[sequences], value = size_of(dtype);
  const size_t count = size_t(sequences);
  auto *host = static_cast<int32_t *>(malloc((3 * count + 1) * sizeof(int32_t)));
  if (host == nullptr)
    return fail(NT_OUT_OF_MEMORY, "kv_append: no host memory for a table of %lld samples", (long long)sequences);
  memcpy(host, borders, (count + 1) * sizeof(int32_t));
  memcpy(host + count + 1, slots, count * sizeof(int32_t));
  memcpy(host + 2 * count + 1, starts, count * sizeof(int32_t));
  const int32_t *const samples = device_table(context, host, int64_t(3 * count + 1));
  free(host);
  if (samples == nullptr) return NT_DEVICE;

  auto aligned = [](const void *p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  const bool wide = aligned(k_cache) && aligned(v_cache) && aligned(k) && aligned(v) && ldkv * value % 16 == 0 &&
                    head_dim * value % 16 == 0;
  auto *run = wide ? append<uint4> : dtype == NT_F32 ? append<uint32_t> : append<uint16_t>;
  return run(context, value, k_cache, v_cache, k, v, ldkv, samples, tokens, sequences, capacity, kv_heads, head_dim);
}

}  // namespace
}  // namespace nt

#include "../entry/kv_append.h"
