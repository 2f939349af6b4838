// Products c = a·Wᵀ of few rows a, as in generation: they cost the reading of the weight, so kernels read it as it is stored,
// once for all rows that a block takes. A row of c has the same bits whatever rows are beside it, and however many: the order
// of its sums follows from W's width alone. Here float32, by multiplications in order; bf16 in few_rows_mma.h.
#pragma once
#include "context.h"
#include "rows.h"

namespace nt {

constexpr int kFewThreads = 128, kFewWarps = kFewThreads / 32;
constexpr int kFewWord = 8;     // weights that a thread takes at once
constexpr int kMostFewRows = 4;  // of a block in float32

// Up to so many rows, these products are the faster ones in any case.
constexpr int64_t kFewRows = 8;

struct FewRows {
  void *c;
  int64_t ldc;
  const void *a;
  int64_t lda;
  const float *bias;
  int64_t out, in;
  int64_t rows;
  bool c_is_f32, accumulate;
  // Blocks are numbered tile of W · groups + group of rows: those that read the same part of W run side by side, so that it
  // comes from memory once.
  uint32_t groups;
};

// c[t, j] from its sum: + bias[j] (+ c).
__device__ __forceinline__ void finish_few_rows(const FewRows &p, int64_t t, int64_t j, float x) {
  if (p.bias != nullptr) x += p.bias[j];
  const int64_t at = t * p.ldc + j;
  if (p.c_is_f32) {
    float *c = static_cast<float *>(p.c) + at;
    *c = p.accumulate ? x + *c : x;
  } else {
    bf16 *c = static_cast<bf16 *>(p.c) + at;
    *c = from_float<bf16>(p.accumulate ? x + to_float(*c) : x);
  }
}

// c[t, j] = Σ_k a[t, k] · w[j, k] + bias[j] (+ c). A block has Source::kOutputs rows j of W, which share what is read of
// a, and up to ROWS rows t; its threads share k, eight weights each at a time, so that a warp reads whole lines. Lanes are
// summed by shuffles, warps in order through shared memory.
//
// Source::kBlocks is how many blocks share a multiprocessor. Source::begin(table) fills a table of 16 floats in shared
// memory; Source::load(w, table, i) sets w[8] to the weights from 8·i on, counted over all of W.
template <int ROWS, class Source>
__global__ __launch_bounds__(kFewThreads, Source::kBlocks) void few_rows_kernel(FewRows p, Source source) {
  constexpr int kOutputs = Source::kOutputs;
  static_assert(kFewThreads >= kOutputs * ROWS, "a thread writes one value");
  NT_SHARED(float, table, [16]);
  NT_SHARED(float, sums, [kFewWarps][kOutputs * ROWS]);
  source.begin(table);
  const int64_t j = int64_t(blockIdx.x / p.groups) * kOutputs, words = p.in / kFewWord;
  const int64_t first = int64_t(blockIdx.x % p.groups) * ROWS;
  int64_t row[kOutputs];  // the first one again where there is no other
  NT_UNROLL
  for (int o = 0; o < kOutputs; o++) row[o] = (j + o < p.out ? j + o : j) * words;
  const float *a[ROWS];
  NT_UNROLL
  for (int t = 0; t < ROWS; t++)
    a[t] = static_cast<const float *>(p.a) + (first + t < p.rows ? first + t : first) * p.lda;
  float sum[kOutputs][ROWS] = {};
  for (int64_t w = threadIdx.x; w < words; w += kFewThreads) {
    float weight[kOutputs][kFewWord];
    NT_UNROLL
    for (int o = 0; o < kOutputs; o++) source.load(weight[o], table, row[o] + w);
    NT_UNROLL
    for (int t = 0; t < ROWS; t++) {
      float x[kFewWord];
      load_columns<true>(x, a[t] + w * kFewWord, kFewWord);
      NT_UNROLL
      for (int o = 0; o < kOutputs; o++) {
        NT_UNROLL
        for (int k = 0; k < kFewWord; k++) sum[o][t] = fmaf(weight[o][k], x[k], sum[o][t]);
      }
    }
  }
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  NT_UNROLL
  for (int o = 0; o < kOutputs; o++) {
    NT_UNROLL
    for (int t = 0; t < ROWS; t++) {
      const float x = warp_sum(sum[o][t]);
      if (lane == 0) sums[warp][o * ROWS + t] = x;
    }
  }
  __syncthreads();
  if (threadIdx.x >= kOutputs * ROWS) return;
  const int o = threadIdx.x / ROWS, t = threadIdx.x % ROWS;
  if (j + o >= p.out || first + t >= p.rows) return;
  float x = sums[0][threadIdx.x];
  NT_UNROLL
  for (int w = 1; w < kFewWarps; w++) x += sums[w][threadIdx.x];
  finish_few_rows(p, first + t, j + o, x);
}

// What a launch is to the observer: a product, and the bytes that it moves with the weight as it is stored, `weight_bytes`
// an element.
inline Enqueued as_enqueued(const FewRows &p, int64_t blocks, int32_t bytes, double weight_bytes) {
  const int32_t result_bytes = p.c_is_f32 ? 4 : 2;
  const int64_t moved = int64_t(double(p.out * p.in) * weight_bytes) + p.rows * p.in * bytes +
                        p.rows * p.out * result_bytes * (p.accumulate ? 2 : 1);
  return {nullptr, "few_rows", blocks, moved, p.rows, p.out, p.in, bytes, result_bytes, p.accumulate};
}

// Whether rows of a weight and of a can be read in words of eight values, 16 bytes at a time.
inline bool few_rows_aligned(int64_t in, const void *a, int64_t lda, int32_t dtype) {
  return in % kFewWord == 0 && aligned16(a) && lda * size_of(dtype) % 16 == 0;
}

// All rows, in float32. Source::kBytes are those of a weight.
template <class Source>
cudaError_t few_rows(nt_context *context, FewRows p, const Source &source) {
  const int most = p.rows == 1 ? 1 : kMostFewRows;
  auto *kernel = p.rows == 1 ? few_rows_kernel<1, Source> : few_rows_kernel<kMostFewRows, Source>;
  p.groups = uint32_t(ceil_div(p.rows, most));
  const int64_t blocks = ceil_div(p.out, Source::kOutputs) * p.groups;
  const Watched watched(context->stream, as_enqueued(p, blocks, 4, Source::kBytes));
  return enqueue(kernel, dim3(unsigned(blocks)), dim3(kFewThreads), 0, context->stream, p, source);
}

}  // namespace nt
