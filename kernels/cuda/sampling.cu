// Generation: the next token from the logits, by Transformers' chain of processors: repetition penalty → temperature →
// top-k → top-p → min-p → draw. A block a row, and no sum whose order could matter: probabilities relative to the greatest are
// taken as integers.
#include "../entry/arguments.h"
#include "../philox.h"
#include "context.h"

namespace nt {
namespace {

constexpr int kMostThreads = 1024;
constexpr int kMostWarps = kMostThreads / 32;

// What a block shares: words for the sums of each warp.
struct Scratch {
  uint64_t sums[3][kMostWarps];
};

// Bits that compare as unsigned integers the way the floats do.
__device__ __forceinline__ uint32_t order_of(float x) {
  const uint32_t bits = __float_as_uint(x);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// Not negative, so that the bits themselves have the order.
__device__ __forceinline__ uint32_t order_of_probability(float p) { return __float_as_uint(p); }

__device__ __forceinline__ uint64_t warp_total(uint64_t x) {
  NT_UNROLL
  for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

// The block's sums in every thread; a barrier stands before the scratch is used.
template <int n>
__device__ __forceinline__ void block_totals(uint64_t (&x)[n], Scratch &scratch) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  __syncthreads();
  NT_UNROLL
  for (int i = 0; i < n; i++) {
    x[i] = warp_total(x[i]);
    if (lane == 0) scratch.sums[i][warp] = x[i];
  }
  __syncthreads();
  NT_UNROLL
  for (int i = 0; i < n; i++) x[i] = warp_total(lane < warps ? scratch.sums[i][lane] : 0);
}

__device__ __forceinline__ uint32_t block_max(uint32_t x, Scratch &scratch) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  __syncthreads();
  x = __reduce_max_sync(kAllLanes, x);
  if (lane == 0) scratch.sums[0][warp] = x;
  __syncthreads();
  return __reduce_max_sync(kAllLanes, lane < warps ? uint32_t(scratch.sums[0][lane]) : 0u);
}

// Each distinct token once, however often it stands in the history: all its places read the logit before any of them
// writes, and all write the same.
__device__ void penalize(float *logits, const int32_t *history, int64_t n, float *originals, float penalty) {
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) originals[i] = logits[history[i]];
  __syncthreads();
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const float logit = originals[i], changed = logit > 0 ? logit / penalty : logit * penalty;
    atomicExch(reinterpret_cast<int *>(logits + history[i]), __float_as_int(changed));
  }
  __syncthreads();
}

// NaN comes before everything, even before −∞.
__device__ __forceinline__ uint32_t order_but_nan(float x) { return x == x ? order_of(x) : 0; }

// The lowest index of the greatest value (0 and −0 are equal); 0 where there is none.
__device__ int32_t greatest_index(const float *x, uint32_t V, Scratch &scratch) {
  uint32_t best = 0;
#pragma unroll 4
  for (uint32_t i = threadIdx.x; i < V; i += blockDim.x) best = max(best, order_but_nan(x[i] + 0.0f));
  best = block_max(best, scratch);
  uint32_t last = 0;  // V − the lowest index
  if (best != 0)
    for (uint32_t i = threadIdx.x; i < V; i += blockDim.x)
      if (order_but_nan(x[i] + 0.0f) == best) last = max(last, V - i);
  last = block_max(last, scratch);
  return last == 0 ? 0 : int32_t(V - last);
}

// The greatest order τ such that the masses of the values of order ≥ τ reach `target` (1 ≤ target ≤ their sum); `above`
// becomes the mass beyond τ. Two bits a pass, from bit `bits` − 1 down: each thread adds up its values at or beyond
// three thresholds. A pass reads the row once, from L2.
template <class Order, class Mass>
__device__ uint32_t cut_at(const float *x, uint32_t V, int bits, uint64_t target, const Order &order, const Mass &mass,
                           uint64_t &above, Scratch &scratch) {
  uint32_t low = 0;
  above = 0;
  for (int shift = bits - 2; shift >= 0; shift -= 2) {
    const uint32_t first = low + (1u << shift), second = low + (2u << shift), third = low + (3u << shift);
    uint64_t sums[3] = {};
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < V; i += blockDim.x) {
      const uint32_t place = order(x[i]);
      const uint64_t m = mass(x[i]);
      sums[0] += place >= first ? m : 0;
      sums[1] += place >= second ? m : 0;
      sums[2] += place >= third ? m : 0;
    }
    block_totals(sums, scratch);
    const int reached = (sums[0] >= target) + (sums[1] >= target) + (sums[2] >= target);
    low += uint32_t(reached) << shift;
    if (reached == 0) above = sums[0];
    if (reached == 1) above = sums[1];
    if (reached == 2) above = sums[2];
  }
  return low;
}

// What is left of a row to draw from: probabilities of order > `border`, and the first `equals` of those at it.
struct Nucleus {
  uint32_t border;
  uint64_t equals, weight;  // weight: of one at the border
};

__device__ __forceinline__ uint64_t weight_of(float p, float unit) { return uint64_t(p * unit); }

// The first id at which the running sum of the kept weights passes `goal`. Each warp adds up a part of the row; all
// find the part in which the sum passes; again within it, until one warp walks through what is left.
__device__ int32_t find(const float *p, uint32_t V, const Nucleus &nucleus, uint64_t goal, float unit,
                        Scratch &scratch) {
  const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  uint32_t begin = 0, end = V;
  uint64_t passed = 0, equals = 0;
  while (end - begin > 256) {
    const uint32_t part = (end - begin + warps * 32 - 1) / (warps * 32) * 32;
    const uint32_t from = begin + warp * part, to = from + part < end ? from + part : end;
    uint64_t weight = 0, at_border = 0;
#pragma unroll 4
    for (uint32_t i = from + lane; i < to; i += 32) {
      const uint32_t order = order_of_probability(p[i]);
      weight += order > nucleus.border ? weight_of(p[i], unit) : 0;
      at_border += order == nucleus.border;
    }
    weight = warp_total(weight);
    at_border = warp_total(at_border);
    __syncthreads();
    if (lane == 0) {
      scratch.sums[0][warp] = weight;
      scratch.sums[1][warp] = at_border;
    }
    __syncthreads();
    for (uint32_t w = 0; w < warps; w++) {
      const uint64_t left = nucleus.equals > equals ? nucleus.equals - equals : 0, found = scratch.sums[1][w];
      const uint64_t kept = scratch.sums[0][w] + (found < left ? found : left) * nucleus.weight;
      if (passed + kept > goal) {
        begin += w * part;
        break;
      }
      passed += kept;
      equals += found;
    }
    if (begin + part < end) end = begin + part;
  }
  int32_t token = 0;
  for (uint32_t base = begin; base < end; base += 32) {
    const bool inside = base + lane < end;
    const float value = inside ? p[base + lane] : 0.0f;
    const uint32_t order = order_of_probability(value);
    const bool at_border = inside && order == nucleus.border;
    const uint32_t mask = __ballot_sync(kAllLanes, at_border);
    const uint64_t rank = equals + __popc(mask & ((1u << lane) - 1));
    uint64_t sum = order > nucleus.border || (at_border && rank < nucleus.equals) ? weight_of(value, unit) : 0;
    NT_UNROLL
    for (int step = 1; step < 32; step <<= 1) {
      const uint64_t before = __shfl_up_sync(kAllLanes, sum, step);
      if (int(lane) >= step) sum += before;
    }
    const uint32_t beyond = __ballot_sync(kAllLanes, passed + sum > goal);
    if (beyond != 0) {
      token = int32_t(base) + __ffs(int(beyond)) - 1;
      break;
    }
    passed += __shfl_sync(kAllLanes, sum, 31);
    equals += __popc(mask);
  }
  return token;
}

// One row. The row of logits becomes its probabilities relative to the greatest: e^(x − greatest), 0 for what top-k
// leaves out, for −inf and NaN. Passes over the row: 2, 16 for top-k, 15 for top-p, 1 for min-p, 1 for the draw.
// `unit`: the weight of the greatest.
__device__ int32_t draw_from(float *x, uint32_t V, const nt_sampling &s, float unit, Scratch &scratch) {
  uint32_t best = 0;
#pragma unroll 4
  for (uint32_t i = threadIdx.x; i < V; i += blockDim.x) {
    const float value = x[i] == x[i] ? x[i] / s.temperature : -INFINITY;
    x[i] = value;
    best = max(best, order_of(value));
  }
  best = block_max(best, scratch);
  const float top = __uint_as_float(best >> 31 ? best & 0x7FFFFFFFu : ~best);
  uint32_t least = 0;
  uint64_t above;
  if (s.top_k > 0 && s.top_k < V)
    least = cut_at(
        x, V, 32, uint64_t(s.top_k), [](float v) { return order_of(v); }, [](float) { return uint64_t(1); }, above,
        scratch);
  uint64_t total[1] = {};
#pragma unroll 4
  for (uint32_t i = threadIdx.x; i < V; i += blockDim.x) {
    float p = x[i] > -INFINITY && order_of(x[i]) >= least ? expf(x[i] - top) : 0.0f;
    if (!(p > 0.0f)) p = 0.0f;  // inf − inf
    x[i] = p;
    total[0] += weight_of(p, unit);
  }
  block_totals(total, scratch);
  if (total[0] == 0) return 0;
  Nucleus nucleus = {0, 0, 0};
  uint64_t kept = total[0];
  if (s.top_p < 1.0f) {
    uint64_t target = uint64_t(ceil(double(s.top_p) * double(total[0])));
    if (target == 0) target = 1;
    nucleus.border = cut_at(
        x, V, 30, target, [](float p) { return order_of_probability(p); },
        [unit](float p) { return weight_of(p, unit); }, above, scratch);
    nucleus.weight = weight_of(__uint_as_float(nucleus.border), unit);
    nucleus.equals = (target - above + nucleus.weight - 1) / nucleus.weight;
    kept = above + nucleus.equals * nucleus.weight;
  }
  if (s.min_p > 0 && order_of_probability(s.min_p) > nucleus.border) {
    nucleus = {order_of_probability(s.min_p) - 1, 0, 0};
    uint64_t left[1] = {};
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < V; i += blockDim.x)
      left[0] += order_of_probability(x[i]) > nucleus.border ? weight_of(x[i], unit) : 0;
    block_totals(left, scratch);
    kept = left[0];
  }
  const uint32_t word = nt_philox(uint32_t(s.seed), uint32_t(s.seed >> 32), uint32_t(s.step), 0, uint32_t(s.draw),
                                  uint32_t(s.draw >> 32) | uint32_t(NT_STREAM_SAMPLE) << 16)
                            .x[0];
  const uint64_t goal = word * (kept >> 32) + (word * (kept & 0xFFFFFFFFu) >> 32);  // ⌊kept · word / 2³²⌋
  return find(x, V, nucleus, goal, unit, scratch);
}

// tokens[first_row + block] from its row. `history` begins with the first row's; `originals`: as many words of scratch.
__global__ void __launch_bounds__(kMostThreads, 1)
    sample_kernel(int32_t *tokens, float *logits, int64_t first_row, uint32_t V, const nt_sampling *rows, float unit,
                  const int32_t *history, const int64_t *offsets, float *originals) {
  NT_SHARED(Scratch, scratches, [1]);
  Scratch &scratch = scratches[0];
  const int64_t b = first_row + blockIdx.x;
  float *row = logits + b * V;
  const nt_sampling s = rows[b];
  if (s.repetition_penalty != 1.0f) {
    const int64_t start = offsets[b] - offsets[first_row];
    penalize(row, history + start, offsets[b + 1] - offsets[b], originals + start, s.repetition_penalty);
  }
  const int32_t token =
      s.temperature == 0.0f ? greatest_index(row, V, scratch) : draw_from(row, V, s, unit, scratch);
  if (threadIdx.x == 0) tokens[b] = token;
}

// Rows that have more history together than one table and the workspace take go in several launches.
int32_t sample(nt_context *context, int32_t *tokens, float *logits, int64_t B, int64_t V, const nt_sampling *rows,
               const int32_t *history, const int64_t *offsets) {
  const bool penalized = history != nullptr;
  int bits = 62;  // the weight of the greatest logit is a power of two, small enough that V of them reach 2⁶² at most
  while (bits > 0 && V > int64_t(1) << (62 - bits)) bits--;
  const int64_t wanted = ceil_div(V, 8 * 32) * 32;
  const int threads = int(wanted < kMostThreads ? wanted : kMostThreads);
  auto *originals = static_cast<float *>(context->workspace);
  for (int64_t first = 0, last; first < B; first = last) {
    // Taken for each launch, as a table lasts only until a few others have been.
    const nt_sampling *const row_table = device_table(context, rows, B);
    const int64_t *const offset_table = penalized ? device_table(context, offsets, B + 1) : nullptr;
    if (row_table == nullptr || (penalized && offset_table == nullptr)) return NT_DEVICE;
    const int32_t *history_table = nullptr;
    last = B;
    if (penalized) {
      for (last = first + 1; last < B && offsets[last + 1] - offsets[first] <= kHistoryTokens;) last++;
      history_table = device_table(context, history + offsets[first], offsets[last] - offsets[first]);
      if (history_table == nullptr) return NT_DEVICE;
    }
    NT_CUDA(launch(sample_kernel, dim3(unsigned(last - first)), dim3(threads), 0, context->stream, tokens, logits,
                   first, uint32_t(V), row_table, float(uint64_t(1) << bits), history_table, offset_table, originals),
            "sample");
  }
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/sample.h"
