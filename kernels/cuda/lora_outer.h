// LoRA's gradients, bf16 on tensor cores: dB[N,R] += dyᵀ·u and dA[R,N] += gᵀ·x, sums over the T tokens. The wide
// operand is read once, 2N bytes a token, the narrow one out of L2 once for every 128 columns. T is cut into parts, so
// that a few wide tiles fill the machine; each part's float32 sums go to the workspace (4NR bytes a part, written and
// read) and are added in order.
#pragma once
#include "context.h"
#include "rows.h"

namespace nt {
namespace {

constexpr int kOuterThreads = 128, kOuterStages = 4, kOuterT = 32, kOuterWide = 128, kOuterNarrow = 64;
constexpr int64_t kOuterParts = 32, kOuterPartRows = 256;  // at most, at least

// Shared memory of a stage: 32 rows of 128 bf16, 16-byte chunk c of row t at c ^ (t mod 8); 32 rows of 8·tiles bf16, an
// odd number of chunks apart.
constexpr int kOuterWideBytes = kOuterT * kOuterWide * 2;
__host__ __device__ constexpr int outer_stage_bytes(int tiles) { return kOuterWideBytes + kOuterT * (tiles + 1) * 16; }

// Part p's sum[n, r] = Σ_t wide[t, n]·narrow[t, r] over its rows, for 128 n (32 a warp) and 8·tiles r. The sum goes to
// to[p · N·R + n · step_n + r · step_r], or, with one part, is added to what stands there.
template <int tiles>
__global__ __launch_bounds__(kOuterThreads, 3)
    void lora_outer_kernel(float *to, int64_t step_n, int64_t step_r, const bf16 *wide, int64_t ld_wide,
                           const bf16 *narrow, int64_t ld_narrow, int64_t T, int64_t N, int64_t R,
                           int64_t rows_a_part) {
  NT_DYNAMIC_SHARED(memory);
  constexpr int kStage = outer_stage_bytes(tiles);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int64_t n0 = int64_t(blockIdx.x) * kOuterWide, r0 = int64_t(blockIdx.y) * tiles * 8;
  const int64_t begin = int64_t(blockIdx.z) * rows_a_part;
  const int64_t end = begin + rows_a_part < T ? begin + rows_a_part : T;
  const int64_t stages = (end - begin + kOuterT - 1) / kOuterT;

  const auto load = [&](int64_t stage) {
    unsigned char *into = memory + int(stage % kOuterStages) * kStage;
    const int64_t t0 = begin + stage * kOuterT;
    NT_UNROLL
    for (int i = 0; i < kOuterT * 16 / kOuterThreads; i++) {
      const int at = i * kOuterThreads + int(threadIdx.x), row = at >> 4, chunk = at & 15;
      const bool valid = t0 + row < end && n0 + chunk * 8 < N;
      copy_async(into + row * 256 + ((chunk ^ (row & 7)) << 4),
                 valid ? wide + (t0 + row) * ld_wide + n0 + chunk * 8 : wide, valid);
    }
    into += kOuterWideBytes;
    NT_UNROLL
    for (int i = 0; i < (kOuterT * tiles + kOuterThreads - 1) / kOuterThreads; i++) {
      const int at = i * kOuterThreads + int(threadIdx.x), row = at / tiles, chunk = at % tiles;
      if (at >= kOuterT * tiles) break;
      const bool valid = t0 + row < end && r0 + chunk * 8 < R;
      copy_async(into + (row * (tiles + 1) + chunk) * 16,
                 valid ? narrow + (t0 + row) * ld_narrow + r0 + chunk * 8 : narrow, valid);
    }
  };

  for (int stage = 0; stage < kOuterStages - 1; stage++) {
    if (stage < stages) load(stage);
    copy_async_commit();
  }
  const int low = lane & 7, middle = lane >> 3 & 1, high = lane >> 4;
  float sums[2][tiles][4] = {};
  for (int64_t stage = 0; stage < stages; stage++) {
    copy_async_wait<kOuterStages - 2>();
    __syncthreads();
    if (stage + kOuterStages - 1 < stages) load(stage + kOuterStages - 1);
    copy_async_commit();
    const unsigned char *left = memory + int(stage % kOuterStages) * kStage, *right = left + kOuterWideBytes;
    NT_UNROLL
    for (int step = 0; step < kOuterT / 16; step++) {
      uint32_t a[2][4];  // both operands lie along t, their sum's k: transposed on the way to registers
      NT_UNROLL
      for (int i = 0; i < 2; i++) {
        const int t = step * 16 + low + high * 8, chunk = warp * 4 + i * 2 + middle;
        load_matrix_transposed(a[i], left + t * 256 + ((chunk ^ low) << 4));
      }
      NT_UNROLL
      for (int pair = 0; pair < tiles / 2; pair++) {
        const int t = step * 16 + low + middle * 8;
        uint32_t b[4];
        load_matrix_transposed(b, right + (t * (tiles + 1) + pair * 2 + high) * 16);
        NT_UNROLL
        for (int i = 0; i < 2; i++) {
          mma(sums[i][2 * pair], a[i], b[0], b[1]);
          mma(sums[i][2 * pair + 1], a[i], b[2], b[3]);
        }
      }
    }
  }

  const bool add = gridDim.z == 1;
  to += int64_t(blockIdx.z) * N * R;
  NT_UNROLL
  for (int i = 0; i < 2; i++) {
    NT_UNROLL
    for (int tile = 0; tile < tiles; tile++) {
      NT_UNROLL
      for (int e = 0; e < 4; e++) {
        const int64_t n = n0 + warp * 32 + i * 16 + (lane >> 2) + 8 * (e >> 1);
        const int64_t r = r0 + tile * 8 + 2 * (lane & 3) + (e & 1);
        if (n >= N || r >= R) continue;
        float *at = to + n * step_n + r * step_r;
        *at = add ? *at + sums[i][tile][e] : sums[i][tile][e];
      }
    }
  }
}

// c[i] += Σ_part partial[part, i], in order.
__global__ __launch_bounds__(256, 4) void lora_outer_sum_kernel(float *c, const float *partial, int64_t n,
                                                                int64_t parts) {
  const int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (i >= n) return;
  float sum = partial[i];
  for (int64_t part = 1; part < parts; part++) sum += partial[part * n + i];
  c[i] += sum;
}

template <int tiles>
cudaError_t launch_outer(nt_context *context, dim3 grid, float *to, int64_t step_n, int64_t step_r, const bf16 *wide,
                         int64_t ld_wide, const bf16 *narrow, int64_t ld_narrow, int64_t T, int64_t N, int64_t R,
                         int64_t rows_a_part) {
  return launch(lora_outer_kernel<tiles>, grid, dim3(kOuterThreads), size_t(kOuterStages * outer_stage_bytes(tiles)),
                context->stream, to, step_n, step_r, wide, ld_wide, narrow, ld_narrow, T, N, R, rows_a_part);
}

inline bool can_lora_outer(const void *wide, int64_t ld_wide, const void *narrow, int64_t ld_narrow, int64_t N,
                           int64_t R) {
  return N % 8 == 0 && R % 8 == 0 && ld_wide % 8 == 0 && ld_narrow % 8 == 0 &&
         aligned16(wide, narrow) &&
         ceil_div(R, kOuterNarrow) <= 65535;
}

// c += wideᵀ·narrow, c float32, dense: [N,R], or [R,N] when transposed. Three blocks a multiprocessor are aimed at.
inline cudaError_t lora_outer(nt_context *context, float *c, bool c_transposed, const void *wide, int64_t ld_wide,
                              const void *narrow, int64_t ld_narrow, int64_t T, int64_t N, int64_t R) {
  const int64_t narrow_tiles = ceil_div(R, kOuterNarrow), width = ceil_div(R, narrow_tiles);
  const int64_t blocks = ceil_div(N, kOuterWide) * narrow_tiles;
  const auto smaller = [](int64_t a, int64_t b) { return a < b ? a : b; };
  int64_t parts = smaller(ceil_div(3 * context->multiprocessors, blocks), ceil_div(T, kOuterPartRows));
  parts = smaller(smaller(parts, kOuterParts), context->workspace_bytes / (N * R * 4));
  if (parts < 1) parts = 1;
  const int64_t rows_a_part = ceil_div(ceil_div(T, parts), kOuterT) * kOuterT;
  parts = ceil_div(T, rows_a_part);

  auto *partial = static_cast<float *>(context->workspace);
  const auto run = width <= 16   ? launch_outer<2>
                   : width <= 32 ? launch_outer<4>
                   : width <= 48 ? launch_outer<6>
                                 : launch_outer<8>;
  const int64_t tile_columns = ceil_div(width, 16) * 16;
  const dim3 grid(unsigned(ceil_div(N, kOuterWide)), unsigned(ceil_div(R, tile_columns)), unsigned(parts));
  const cudaError_t status =
      run(context, grid, parts > 1 ? partial : c, c_transposed ? 1 : R, c_transposed ? N : 1,
          static_cast<const bf16 *>(wide), ld_wide, static_cast<const bf16 *>(narrow), ld_narrow, T, N, R, rows_a_part);
  if (status != cudaSuccess || parts == 1) return status;
  return launch(lora_outer_sum_kernel, dim3(unsigned(ceil_div(N * R, 256))), dim3(256), 0, context->stream, c, partial,
                N * R, parts);
}

}  // namespace
}  // namespace nt
