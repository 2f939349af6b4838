// Attention of one query token a sequence over its key/value cache: o = Σ p·v / Σ p, p = exp(scale · q·k − m). The
// cache is read once for all the query heads of a key/value head (once for every 8 of them): memory bounds the speed,
// with 2 · kv_heads · head_dim values a cached token.
//
// A block owns a piece of a sequence's keys and one key/value head; its 4 warps take tiles of 32 keys in turn and keep
// a maximum, a sum and Σ p·v each, which are put together in order at the end. Long sequences are cut into several pieces,
// and a second kernel puts these together in order.
#include "attention.h"

namespace nt {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps, kTile = 32;

struct alignas(16) Piece {
  int32_t sequence, slot, begin, end;  // keys begin … end − 1 of the slot
};

template <class T>
struct Arguments {
  T *o;
  const T *q, *k_cache, *v_cache;
  int64_t ldo, ldq, capacity;
  const Piece *pieces;
  // Where a piece's results go when sequences have several: Σ p·v [pieces, heads, head_dim], maximum and Σ p
  // [pieces, heads, 2]. Null: straight to o.
  float *sums, *statistics;
  int heads, kv_heads, group, head_dim;
  float scale_log2;
};

// m as what scores are relative to: −∞ where there was no key.
__device__ __forceinline__ float reference(float m) { return m == -INFINITY ? 0.0f : m; }

// Sums over `lanes` neighboring lanes of n values each (a power of 2, at most `lanes`): value i arrives in x[0] of
// lanes i · lanes / n … of the neighbors. Halves are exchanged, so that n = 8 over 16 lanes costs 8 shuffles, not 32.
template <int n, int lanes>
__device__ __forceinline__ void reduce(float (&x)[n], int lane) {
  int left = n;
  NT_UNROLL
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
    if (left == 1) {
      x[0] += __shfl_xor_sync(kAllLanes, x[0], offset);
      continue;
    }
    left /= 2;
    const bool upper = (lane & offset) != 0;
    NT_UNROLL
    for (int i = 0; i < left; i++) {
      const float other = __shfl_xor_sync(kAllLanes, upper ? x[i] : x[i + left], offset);
      x[i] = (upper ? x[i + left] : x[i]) + other;
    }
  }
}

// `accesses` reads of `elements` values by each of `lanes` lanes make a row of the cache; 32 / lanes rows are read at
// once.
template <class T, int elements, int lanes, int accesses>
struct Row {
  static constexpr int kRows = 32 / lanes, kValues = elements * accesses;

  __device__ __forceinline__ static int column(int lane, int value) {
    return (value / elements * lanes + lane % lanes) * elements + value % elements;
  }
  __device__ __forceinline__ static void load(T (&x)[kValues], const T *row, bool exists, int lane, int head_dim) {
    NT_UNROLL
    for (int i = 0; i < accesses; i++) {
      const int first = column(lane, i * elements);
      const bool reads = exists && first < head_dim;
      if constexpr (elements == 1) {
        x[i] = reads ? row[first] : from_float<T>(0.0f);
      } else {
        uint4 bits = make_uint4(0, 0, 0, 0);
        if (reads) bits = __ldcs(reinterpret_cast<const uint4 *>(row + first));
        Pack<T> pack;
        memcpy(&pack, &bits, 16);
        NT_UNROLL
        for (int e = 0; e < elements; e++) x[i * elements + e] = pack.x[e];
      }
    }
  }
};

// Shared memory: weights[4 warps][32 keys][size], scores and then p; at the end, in their place, sums[4 warps][size]
// [head_dim] and statistics[4 warps][size][2]. `size`: query heads that a block works on, all of one key/value head.
template <class T, int elements, int lanes, int accesses, int size>
__global__ void __launch_bounds__(kThreads, 2) attention_decode_kernel(const Arguments<T> a) {
  typedef Row<T, elements, lanes, accesses> R;
  constexpr int batch = elements == 1 ? 2 : 4;  // reads of a row on their way to a lane at once
  NT_DYNAMIC_SHARED(memory);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  float *const weights = reinterpret_cast<float *>(memory) + warp * kTile * size;

  const int parts = (a.group + size - 1) / size;  // blocks for a key/value head
  const int part = int(blockIdx.x % unsigned(parts));
  const int kv_head = int(blockIdx.x / unsigned(parts) % unsigned(a.kv_heads));
  const unsigned number = blockIdx.x / unsigned(parts) / unsigned(a.kv_heads);
  const Piece piece = a.pieces[number];
  const int head = kv_head * a.group + part * size, heads = min(size, a.group - part * size);
  const int64_t cache = (int64_t(piece.slot) * a.kv_heads + kv_head) * a.capacity * a.head_dim;
  const T *const keys = a.k_cache + cache, *const values = a.v_cache + cache;

  float q[size][R::kValues], sums[size][R::kValues], top[size], total[size];
  NT_UNROLL
  for (int h = 0; h < size; h++) {
    NT_UNROLL
    for (int i = 0; i < R::kValues; i++) {
      const int column = R::column(lane, i);
      const bool exists = h < heads && column < a.head_dim;
      q[h][i] = exists ? to_float(a.q[piece.sequence * a.ldq + int64_t(head + h) * a.head_dim + column]) * a.scale_log2
                       : 0.0f;
      sums[h][i] = 0.0f;
    }
    top[h] = -INFINITY;
    total[h] = 0.0f;
  }

  // All warps go round as often: the last tiles may have no keys.
  for (int four = piece.begin; four < piece.end; four += kWarps * kTile) {
    const int first = four + warp * kTile;
    // Scores: the lanes of a row share its columns.
    NT_NO_UNROLL
    for (int step = 0; step < lanes; step += batch) {
      T k[batch][R::kValues];
      NT_UNROLL
      for (int b = 0; b < batch; b++) {
        const int key = first + (step + b) * R::kRows + lane / lanes;
        R::load(k[b], keys + int64_t(key) * a.head_dim, key < piece.end, lane, a.head_dim);
      }
      NT_UNROLL
      for (int b = 0; b < batch; b++) {
        float score[size];
        NT_UNROLL
        for (int h = 0; h < size; h++) {
          score[h] = 0.0f;
          NT_UNROLL
          for (int i = 0; i < R::kValues; i++) score[h] = fmaf(to_float(k[b][i]), q[h][i], score[h]);
        }
        reduce<size, lanes>(score, lane);
        const int shared_by = lanes / size;
        if (lane % shared_by == 0)
          weights[((step + b) * R::kRows + lane / lanes) * size + lane % lanes / shared_by] = score[0];
      }
    }
    __syncwarp();

    // Probabilities: a lane has a key.
    NT_UNROLL
    for (int h = 0; h < size; h++) {
      const float score = first + lane < piece.end ? weights[lane * size + h] : -INFINITY, old = top[h];
      top[h] = fmaxf(old, warp_max(score));
      const float m = reference(top[h]), shrink = exp2_fast(old - m), p = exp2_fast(score - m);
      total[h] = total[h] * shrink + p;
      weights[lane * size + h] = p;
      NT_UNROLL
      for (int i = 0; i < R::kValues; i++) sums[h][i] *= shrink;
    }
    __syncwarp();

    // Sums: each lane over the rows that it reads.
    NT_NO_UNROLL
    for (int step = 0; step < lanes; step += batch) {
      T v[batch][R::kValues];
      NT_UNROLL
      for (int b = 0; b < batch; b++) {
        const int key = first + (step + b) * R::kRows + lane / lanes;
        R::load(v[b], values + int64_t(key) * a.head_dim, key < piece.end, lane, a.head_dim);
      }
      NT_UNROLL
      for (int b = 0; b < batch; b++) {
        const float *p = weights + ((step + b) * R::kRows + lane / lanes) * size;
        NT_UNROLL
        for (int h = 0; h < size; h++) NT_UNROLL
          for (int i = 0; i < R::kValues; i++) sums[h][i] = fmaf(p[h], to_float(v[b][i]), sums[h][i]);
      }
    }
    __syncwarp();
  }

  // The lanes that read other rows, then the warps.
  NT_UNROLL
  for (int h = 0; h < size; h++) {
    total[h] = warp_sum(total[h]);
    NT_UNROLL
    for (int i = 0; i < R::kValues; i++) NT_UNROLL
      for (int offset = lanes; offset < 32; offset *= 2)
        sums[h][i] += __shfl_xor_sync(kAllLanes, sums[h][i], offset);
  }
  __syncthreads();
  float *const all_sums = reinterpret_cast<float *>(memory);
  float *const all_statistics = all_sums + kWarps * size * a.head_dim;
  NT_UNROLL
  for (int h = 0; h < size; h++) {
    if (lane == 0) {
      all_statistics[(warp * size + h) * 2] = top[h];
      all_statistics[(warp * size + h) * 2 + 1] = total[h];
    }
    NT_UNROLL
    for (int i = 0; i < R::kValues; i++) {
      const int column = R::column(lane, i);
      if (lane < lanes && column < a.head_dim) all_sums[(warp * size + h) * a.head_dim + column] = sums[h][i];
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < heads * a.head_dim; i += kThreads) {
    const int h = i / a.head_dim, column = i % a.head_dim;
    float most = -INFINITY, sum = 0.0f, all = 0.0f;
    for (int w = 0; w < kWarps; w++) most = fmaxf(most, all_statistics[(w * size + h) * 2]);
    for (int w = 0; w < kWarps; w++) {
      const float weight = exp2_fast(all_statistics[(w * size + h) * 2] - reference(most));
      sum = fmaf(weight, all_sums[(w * size + h) * a.head_dim + column], sum);
      all = fmaf(weight, all_statistics[(w * size + h) * 2 + 1], all);
    }
    if (a.sums == nullptr) {
      a.o[piece.sequence * a.ldo + int64_t(head + h) * a.head_dim + column] =
          from_float<T>(all == 0.0f ? 0.0f : sum / all);
    } else {
      const int64_t row = int64_t(number) * a.heads + head + h;
      a.sums[row * a.head_dim + column] = sum;
      if (column == 0) {
        a.statistics[row * 2] = most;
        a.statistics[row * 2 + 1] = all;
      }
    }
  }
}

// o of the i-th sequence from `first` on and a head from its pieces, starts[i] … starts[i + 1] − 1. A block each.
template <class T>
__global__ void __launch_bounds__(kThreads, 8) attention_decode_combine_kernel(const Arguments<T> a,
                                                                               const int32_t *starts, int64_t first) {
  const int64_t number = blockIdx.x / unsigned(a.heads), head = blockIdx.x % unsigned(a.heads);
  const int64_t sequence = first + number, begin = starts[number], end = starts[number + 1];
  float most = -INFINITY, all = 0.0f;
  for (int64_t i = begin; i < end; i++) most = fmaxf(most, a.statistics[(i * a.heads + head) * 2]);
  float sums[2] = {0.0f, 0.0f};  // head_dim ≤ 256 = 2 · kThreads
  for (int64_t i = begin; i < end; i++) {
    const int64_t row = i * a.heads + head;
    const float weight = exp2_fast(a.statistics[row * 2] - reference(most));
    all = fmaf(weight, a.statistics[row * 2 + 1], all);
    NT_UNROLL
    for (int part = 0; part < 2; part++) {
      const int column = int(threadIdx.x) + part * kThreads;
      if (column < a.head_dim) sums[part] = fmaf(weight, a.sums[row * a.head_dim + column], sums[part]);
    }
  }
  NT_UNROLL
  for (int part = 0; part < 2; part++) {
    const int column = int(threadIdx.x) + part * kThreads;
    if (column < a.head_dim)
      a.o[sequence * a.ldo + head * a.head_dim + column] = from_float<T>(all == 0.0f ? 0.0f : sums[part] / all);
  }
}

// The keys of a piece: long enough to give the device 4 blocks a multiprocessor, two tiles for each warp at least, and no
// more partial results than the workspace holds. What else the call computes has no say: a sequence's sums are the same in
// any company.
int64_t choose_piece(const nt_context *context, int64_t keys, int64_t blocks_per_piece, int64_t row_bytes) {
  constexpr int64_t least = 2 * kWarps * kTile;
  const int64_t wanted = ceil_div(4 * int64_t(context->multiprocessors), blocks_per_piece);
  int64_t piece = ceil_div(ceil_div(keys, wanted) + 1, least) * least;
  while (piece < keys && ceil_div(keys, piece) * row_bytes > context->workspace_bytes) piece *= 2;
  return piece;
}

// The pieces of some of a call's sequences, in host memory.
struct Plan {
  Piece *pieces;
  int32_t *starts;  // [sequences + 1]
  int64_t count;
  bool cut;  // some sequence has several

  ~Plan() {
    free(pieces);
    free(starts);
  }
};

// Those of the sequences from `first` on whose partial results the workspace holds, at least one: `next` is the first that
// is left. A sequence without keys has one piece all the same, which writes zeros.
int32_t make_plan(const nt_context *context, Plan *plan, const CachedSize &cached, int64_t first, int64_t *next,
                  int64_t blocks_per_piece) {
  const int64_t row_bytes = cached.heads * (cached.head_dim + 2) * int64_t(sizeof(float));
  const int64_t most = context->workspace_bytes / row_bytes;
  const auto piece_of = [&](int64_t s) { return choose_piece(context, cached.count(s), blocks_per_piece, row_bytes); };
  const auto pieces_of = [&](int64_t s) { return cached.count(s) > 0 ? ceil_div(cached.count(s), piece_of(s)) : 1; };
  int64_t count = pieces_of(first);
  *next = first + 1;
  for (; *next < cached.sequences && count + pieces_of(*next) <= most; ++*next) count += pieces_of(*next);
  plan->pieces = static_cast<Piece *>(malloc(size_t(count) * sizeof(Piece)));
  plan->starts = static_cast<int32_t *>(malloc(size_t(*next - first + 1) * sizeof(int32_t)));
  if (plan->pieces == nullptr || plan->starts == nullptr)
    return fail(NT_OUT_OF_MEMORY, "attention_decode: no host memory for %lld pieces", (long long)count);
  for (int64_t s = first; s < *next; s++) {
    plan->starts[s - first] = int32_t(plan->count);
    const int64_t length = cached.lengths[s], piece = piece_of(s);
    int64_t begin = cached.begin(s);
    do {
      const int64_t end = begin + piece < length ? begin + piece : length;
      plan->pieces[plan->count++] = {int32_t(s), cached.slots[s], int32_t(begin), int32_t(end)};
      begin = end;
    } while (begin < length);
    plan->cut = plan->cut || cached.count(s) > piece;
  }
  plan->starts[*next - first] = int32_t(plan->count);
  return NT_OK;
}

template <class T, int elements, int lanes, int accesses, int size>
int32_t run(nt_context *context, Arguments<T> &arguments, const CachedSize &cached) {
  const int64_t blocks_per_piece = arguments.kv_heads * ceil_div(arguments.group, size);
  const size_t at_the_end = size_t(kWarps * size) * size_t(arguments.head_dim + 2) * sizeof(float);
  const size_t weights = size_t(kWarps * kTile * size) * sizeof(float);
  for (int64_t first = 0, next; first < cached.sequences; first = next) {
    Plan plan = {};
    NT_TRY(make_plan(context, &plan, cached, first, &next, blocks_per_piece));
    const int32_t *starts = nullptr;
    arguments.pieces = device_table(context, plan.pieces, plan.count);
    if (plan.cut) starts = device_table(context, plan.starts, next - first + 1);
    if (arguments.pieces == nullptr || (plan.cut && starts == nullptr)) return NT_DEVICE;
    arguments.sums = plan.cut ? static_cast<float *>(context->workspace) : nullptr;
    arguments.statistics = plan.cut ? arguments.sums + plan.count * arguments.heads * arguments.head_dim : nullptr;
    NT_CUDA(launch(attention_decode_kernel<T, elements, lanes, accesses, size>,
                   dim3(unsigned(plan.count * blocks_per_piece)), dim3(kThreads),
                   at_the_end > weights ? at_the_end : weights, context->stream, arguments),
            "attention_decode");
    if (plan.cut)
      NT_CUDA(launch(attention_decode_combine_kernel<T>, dim3(unsigned((next - first) * arguments.heads)),
                     dim3(kThreads), 0, context->stream, arguments, starts, first),
              "attention_decode: combine");
  }
  return NT_OK;
}

// Kernels for what models have: bf16 and head_dim up to 128. The rest makes do with fewer.
template <class T>
int32_t decode(nt_context *context, Arguments<T> &arguments, const CachedSize &cached) {
  auto aligned = [](const void *p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  constexpr int elements = Pack<T>::size;
  auto with = [&](auto run) { return run(context, arguments, cached); };
  if (arguments.head_dim % elements != 0 || !aligned(arguments.k_cache) || !aligned(arguments.v_cache))
    return with(run<T, 1, 32, 8, 4>);
  const int reads = arguments.head_dim / elements, group = arguments.group;
  if constexpr (sizeof(T) == 2) {
    if (reads <= 8) return with(group == 1 ? run<T, 8, 8, 1, 1> : group <= 4 ? run<T, 8, 8, 1, 4> : run<T, 8, 8, 1, 8>);
    if (reads <= 16)
      return with(group == 1 ? run<T, 8, 16, 1, 1> : group <= 4 ? run<T, 8, 16, 1, 4> : run<T, 8, 16, 1, 8>);
    return with(run<T, 8, 32, 1, 4>);
  } else {
    return with(reads <= 16 ? run<T, 4, 16, 1, 4> : reads <= 32 ? run<T, 4, 32, 1, 4> : run<T, 4, 32, 2, 4>);
  }
}

template <class T>
int32_t attention_decode(nt_context *context, const CachedSize &size, T *o, int64_t ldo, const T *q, int64_t ldq,
                         const T *k_cache, const T *v_cache) {
  Arguments<T> arguments = {o,
                            q,
                            k_cache,
                            v_cache,
                            ldo,
                            ldq,
                            size.capacity,
                            nullptr,
                            nullptr,
                            nullptr,
                            int(size.heads),
                            int(size.kv_heads),
                            int(size.heads / size.kv_heads),
                            int(size.head_dim),
                            size.scale * kLog2E};
  return decode<T>(context, arguments, size);
}

}  // namespace
}  // namespace nt

#include "../entry/attention_decode.h"
