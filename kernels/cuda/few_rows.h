// Products c = a·Wᵀ of at most eight rows a, as in generation: they cost the reading of the weight, so a kernel reads it
// once, as it is stored, and the rows of a come from L1.
#pragma once
#include "context.h"
#include "rows.h"

namespace nt {

constexpr int kFewThreads = 128, kFewWarps = kFewThreads / 32;
constexpr int kFewWord = 8;      // weights that a thread takes at once
constexpr int64_t kFewRows = 8;

struct FewRows {
  void *c;
  int64_t ldc;
  const void *a;
  int64_t lda;
  const float *bias;
  int64_t out, in;
  int rows;
  bool c_is_f32, accumulate;
};

// c[t, j] = Σ_k a[t, k] · w[j, k] + bias[j] (+ c). A block has Source::kOutputs rows j of W, which share what is read of
// a, and up to ROWS rows t; its threads share k, eight weights each at a time, so that a warp reads whole lines. Lanes are
// summed by shuffles, warps in order through shared memory: a row's sums do not depend on how many rows there are.
//
// Source::blocks(rows) is how many blocks share a multiprocessor. Source::begin(table) fills a table of 16 floats in shared
// memory; Source::load(w, table, i) sets w[8] to the weights from 8·i on, counted over all of W. Source::kBytes are
// those of a weight.
template <int ROWS, class T, class Source>
__global__ __launch_bounds__(kFewThreads, Source::blocks(ROWS)) void few_rows_kernel(FewRows p, Source source) {
  constexpr int kOutputs = Source::kOutputs;
  NT_SHARED(float, table, [16]);
  NT_SHARED(float, sums, [kFewWarps][kOutputs * ROWS]);
  source.begin(table);
  const int64_t j = int64_t(blockIdx.x) * kOutputs, words = p.in / kFewWord;
  int64_t row[kOutputs];  // the first one again where there is no other
  NT_UNROLL
  for (int o = 0; o < kOutputs; o++) row[o] = (j + o < p.out ? j + o : j) * words;
  const T *a[ROWS];
  NT_UNROLL
  for (int t = 0; t < ROWS; t++) a[t] = static_cast<const T *>(p.a) + int64_t(t < p.rows ? t : 0) * p.lda;
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
  if (j + o >= p.out || t >= p.rows) return;
  float x = sums[0][threadIdx.x];
  NT_UNROLL
  for (int w = 1; w < kFewWarps; w++) x += sums[w][threadIdx.x];
  if (p.bias != nullptr) x += p.bias[j + o];
  const int64_t at = t * p.ldc + j + o;
  if (p.c_is_f32) {
    float *c = static_cast<float *>(p.c) + at;
    *c = p.accumulate ? x + *c : x;
  } else {
    bf16 *c = static_cast<bf16 *>(p.c) + at;
    *c = from_float<bf16>(p.accumulate ? x + to_float(*c) : x);
  }
}

// What a launch is to the observer: a product, and the bytes that it moves with the weight as it is stored.
template <class T, class Source>
Enqueued as_enqueued(const FewRows &p, int64_t blocks) {
  const int32_t result_bytes = p.c_is_f32 ? 4 : 2;
  const int64_t moved = int64_t(double(p.out * p.in) * Source::kBytes) + p.rows * p.in * int64_t(sizeof(T)) +
                        p.rows * p.out * result_bytes * (p.accumulate ? 2 : 1);
  return {nullptr, "few_rows", blocks, moved, p.rows, p.out, p.in, int32_t(sizeof(T)), result_bytes, p.accumulate};
}

// All rows, Source::kMostRows at a time.
template <class T, class Source>
cudaError_t few_rows(nt_context *context, FewRows p, const Source &source) {
  static_assert(kFewThreads >= Source::kOutputs * Source::kMostRows, "a thread writes one value");
  const int64_t rows = p.rows;
  for (int64_t t = 0; t < rows; t += Source::kMostRows) {
    p.rows = int(rows - t < Source::kMostRows ? rows - t : Source::kMostRows);
    auto *kernel = p.rows == 1   ? few_rows_kernel<1, T, Source>
                   : p.rows == 2 ? few_rows_kernel<2, T, Source>
                   : p.rows <= 4 ? few_rows_kernel<4, T, Source>
                                 : few_rows_kernel<Source::kMostRows, T, Source>;
    const int64_t blocks = ceil_div(p.out, Source::kOutputs);
    const Watched watched(context->stream, as_enqueued<T, Source>(p, blocks));
    const cudaError_t status =
        enqueue(kernel, dim3(unsigned(blocks)), dim3(kFewThreads), 0, context->stream, p, source);
    if (status != cudaSuccess) return status;
    p.c = static_cast<char *>(p.c) + p.rows * p.ldc * (p.c_is_f32 ? 4 : 2);
    p.a = static_cast<const T *>(p.a) + p.rows * p.lda;
  }
  return cudaSuccess;
}

}  // namespace nt
