// Products c = a·Wᵀ of few rows a in bf16 on tensor cores: reading W bounds the speed up to 32 rows, which the matrix
// instructions take while it comes. 32 rows by multiplications in order would take 2.5 times as long on an H100.
#pragma once
#include "few_rows.h"

namespace nt {

constexpr int kRowsWarps = 8, kRowsThreads = 32 * kRowsWarps;
constexpr int kRun = 16;              // values side by side that a lane takes of a row at once
constexpr int kRowsStep = 4 * kRun;   // of k, for the four lanes of a row

// How many steps of k a warp has on their way: about 4 KB of W in bf16, as registers allow.
__host__ __device__ constexpr int steps_ahead(int tiles, int bytes_of_run) {
  return tiles > 1 ? 1 : bytes_of_run < 2 * kRun ? 4 : 2;
}

// c[t, j] = Σ_k a[t, k] · w[j, k] + bias[j] (+ c). A block has 16 · TILES rows j of W, the matrix instruction's rows, and
// 8 · GROUPS rows t of a, its columns: what one column holds does not touch another's sums, and rows that do not exist are
// zeros. Each warp takes every eighth step of 64 k; warps are summed in order through shared memory.
//
// No other shared memory: which k stands at which place of the instruction is free as long as both operands agree. Lane
// (g, q) = (lane / 4, lane mod 4) takes k = 16q … 16q + 15 of a step from rows g and g + 8 of W and row g of a: four
// instructions, the i-th of which has k = 16q + 4i … + 3 as its places 2q, 2q + 1, 2q + 8, 2q + 9.
//
// Source::Run is what a lane reads of W at once. Source::load(run, at, left) reads `kRun` weights from `at` on, counted over
// all of W, of which `left` belong to the row (eight at least where any do); Source::words(words, table, run) makes pairs of
// bf16 of them.
template <int TILES, int GROUPS, class Source>
__global__ __launch_bounds__(kRowsThreads, GROUPS == 1 ? 3 : 2) void few_rows_mma_kernel(FewRows p, Source source) {
  constexpr int kOutputs = 16 * TILES, kRows = 8 * GROUPS, kAhead = steps_ahead(TILES, int(sizeof(typename Source::Run)));
  constexpr int kDistance = kOutputs + 4;  // so that the lanes of an instruction's result write to different banks
  NT_SHARED(float, table, [16]);
  NT_SHARED(float, all, [kRowsWarps][kRows * kDistance]);
  source.begin(table);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, q = lane & 3;
  const int64_t j = int64_t(blockIdx.x / p.groups) * kOutputs, first = int64_t(blockIdx.x % p.groups) * kRows;
  const int in = int(p.in);
  int64_t outputs[2 * TILES];  // where rows of W begin; the first one again where there is no other
  NT_UNROLL
  for (int i = 0; i < 2 * TILES; i++) outputs[i] = (j + g + 8 * i < p.out ? j + g + 8 * i : j) * p.in;
  const bf16 *const a = static_cast<const bf16 *>(p.a) + (first + g) * p.lda;

  float sums[TILES][GROUPS][4] = {};
  for (int begin = warp * kRowsStep; begin < in; begin += kAhead * kRowsWarps * kRowsStep) {
    typename Source::Run runs[kAhead][2 * TILES];
    NT_UNROLL
    for (int step = 0; step < kAhead; step++) {
      const int k = begin + step * kRowsWarps * kRowsStep + q * kRun;
      NT_UNROLL
      for (int i = 0; i < 2 * TILES; i++) source.load(runs[step][i], outputs[i] + k, in - k);
    }
    NT_UNROLL
    for (int step = 0; step < kAhead; step++) {
      const int k = begin + step * kRowsWarps * kRowsStep + q * kRun;
      if (k - q * kRun >= in) break;
      uint32_t x[GROUPS][8];
      NT_UNROLL
      for (int group = 0; group < GROUPS; group++) NT_UNROLL
        for (int half = 0; half < 2; half++) {
          const bool exists = first + 8 * group + g < p.rows && k + 8 * half < in;
          Pack<bf16> pack = {};
          if (exists) pack = load_pack(a + 8 * group * p.lda + k + 8 * half);
          memcpy(&x[group][4 * half], &pack, 16);
        }
      NT_UNROLL
      for (int tile = 0; tile < TILES; tile++) {
        uint32_t upper[8], lower[8];
        source.words(upper, table, runs[step][2 * tile]);
        source.words(lower, table, runs[step][2 * tile + 1]);
        NT_UNROLL
        for (int i = 0; i < 8; i += 2) {
          const uint32_t w[4] = {upper[i], lower[i], upper[i + 1], lower[i + 1]};
          NT_UNROLL
          for (int group = 0; group < GROUPS; group++) mma(sums[tile][group], w, x[group][i], x[group][i + 1]);
        }
      }
    }
  }

  NT_UNROLL
  for (int tile = 0; tile < TILES; tile++) NT_UNROLL
    for (int group = 0; group < GROUPS; group++) NT_UNROLL
      for (int i = 0; i < 4; i++)
        all[warp][(8 * group + 2 * q + i % 2) * kDistance + 16 * tile + 8 * (i / 2) + g] = sums[tile][group][i];
  __syncthreads();
  for (int i = threadIdx.x; i < kRows * kOutputs; i += kRowsThreads) {
    const int t = i / kOutputs, o = i % kOutputs;
    if (first + t >= p.rows || j + o >= p.out) continue;
    float x = all[0][t * kDistance + o];
    NT_UNROLL
    for (int w = 1; w < kRowsWarps; w++) x += all[w][t * kDistance + o];
    finish_few_rows(p, first + t, j + o, x);
  }
}

// All rows. Source::kBytes are those of a weight.
template <class Source>
cudaError_t few_rows_mma(nt_context *context, FewRows p, const Source &source) {
  const auto run = [&](auto *kernel, int outputs, int rows) {
    p.groups = uint32_t(ceil_div(p.rows, rows));
    const int64_t blocks = ceil_div(p.out, outputs) * p.groups;
    const Watched watched(context->stream, as_enqueued(p, blocks, 2, Source::kBytes));
    return enqueue(kernel, dim3(unsigned(blocks)), dim3(kRowsThreads), 0, context->stream, p, source);
  };
  if (p.rows <= 8) return run(few_rows_mma_kernel<1, 1, Source>, 16, 8);
  if (p.rows <= 16) return run(few_rows_mma_kernel<1, 2, Source>, 16, 16);
  // What is read of a for each block is as much as what is read of W then.
  return run(few_rows_mma_kernel<2, 4, Source>, 32, 32);
}

}  // namespace nt
