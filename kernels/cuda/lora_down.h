// The narrow side of LoRA, bf16 on tensor cores: u[T,R] = s·x[T,K]·Aᵀ and g[T,R] = s·dy[T,K]·B. x is read once, 2K
// bytes a token, and is what the time goes to; A or B (2RK bytes) comes out of L2 once for every 64 rows, the result
// is 2R bytes a token. R beyond 64 takes column tiles, each of which reads x again (out of L2: neighbors in the grid).
#pragma once
#include "context.h"
#include "rows.h"

namespace nt {
namespace {

constexpr int kDownThreads = 128, kDownK = 64, kDownColumns = 64;

// Shared memory of a stage, bytes. x: rows of 64 bf16, 16-byte chunk c of row r at c ^ (r mod 8). The other operand:
// stored like x where its rows lie along k; else (k_outside) rows of one k, an odd number of chunks apart. Either way
// the eight rows of an ldmatrix lie in different banks.
__host__ __device__ constexpr int down_w_bytes(int tiles, bool k_outside) {
  return k_outside ? kDownK * (tiles + 1) * 16 : tiles * 8 * kDownK * 2;
}
__host__ __device__ constexpr int down_stage_bytes(int rows, int tiles, bool k_outside) {
  return rows * kDownK * 2 + down_w_bytes(tiles, k_outside);
}

// Blocks of 32 rows are for grids of about one block a multiprocessor, which need more bytes under way each: 28 KB of x
// in eight stages (20 KB in six, where eight pass the 99 KB of the smaller cards).
__host__ __device__ constexpr int down_stages(int rows, int tiles, bool k_outside) {
  return rows == 64 ? 4 : 8 * down_stage_bytes(rows, tiles, k_outside) <= 96 * 1024 ? 8 : 6;
}
__host__ __device__ constexpr int down_bytes(int rows, int tiles, bool k_outside) {
  return down_stages(rows, tiles, k_outside) * down_stage_bytes(rows, tiles, k_outside);
}

// c[t, n] = scale · Σ_k x[t, k]·w(k, n) for the block's `rows` (64 or 32) rows from first_row on and 8·tiles columns from
// first_column on, and so in c2 unless it is null; w is w[n, k], or w[k, n] when k_outside, rows ldw apart. k advances by 64
// through the stages of cp.async. With 64 rows each of the four warps has 16 of them; with 32 two warps share 16 rows, each taking half of
// every stage's k, and the second adds its sums to the first's at the end.
template <int rows, int tiles, bool k_outside>
__device__ __forceinline__ void lora_down_block(unsigned char *memory, bf16 *c, int64_t ldc, bf16 *c2, int64_t ldc2,
                                                const bf16 *x, int64_t ldx, const bf16 *w, int64_t ldw, float scale,
                                                int64_t T, int64_t K, int columns, int64_t first_row,
                                                int first_column) {
  constexpr int kDownStages = down_stages(rows, tiles, k_outside);
  constexpr int kStage = down_stage_bytes(rows, tiles, k_outside), kX = rows * kDownK * 2;
  constexpr int kRowGroups = rows / 16, kSteps = kRowGroups;  // k16 steps a warp takes of a stage's four
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int stages = int((K + kDownK - 1) / kDownK);

  const auto load = [&](int stage) {
    unsigned char *to = memory + stage % kDownStages * kStage;
    const int64_t k0 = int64_t(stage) * kDownK;
    NT_UNROLL
    for (int i = 0; i < rows * 8 / kDownThreads; i++) {
      const int at = i * kDownThreads + int(threadIdx.x), row = at >> 3, chunk = at & 7;
      const bool valid = first_row + row < T && k0 + chunk * 8 < K;
      copy_async(to + row * 128 + ((chunk ^ (row & 7)) << 4),
                 valid ? x + (first_row + row) * ldx + k0 + chunk * 8 : x, valid);
    }
    to += kX;
    NT_UNROLL
    for (int i = 0; i < tiles * 64 / kDownThreads; i++) {
      const int at = i * kDownThreads + int(threadIdx.x);
      if (k_outside) {
        const int k = at / tiles, chunk = at % tiles;
        const bool valid = k0 + k < K && first_column + chunk * 8 < columns;
        copy_async(to + (k * (tiles + 1) + chunk) * 16, valid ? w + (k0 + k) * ldw + first_column + chunk * 8 : w,
                   valid);
      } else {
        const int n = at >> 3, chunk = at & 7;
        const bool valid = first_column + n < columns && k0 + chunk * 8 < K;
        copy_async(to + n * 128 + ((chunk ^ (n & 7)) << 4),
                   valid ? w + (first_column + n) * ldw + k0 + chunk * 8 : w, valid);
      }
    }
  };

  for (int stage = 0; stage < kDownStages - 1; stage++) {
    if (stage < stages) load(stage);
    copy_async_commit();
  }
  const int group = warp % kRowGroups, first_step = warp / kRowGroups * kSteps;
  const int low = lane & 7, middle = lane >> 3 & 1, high = lane >> 4;
  float sums[tiles][4] = {};
  for (int stage = 0; stage < stages; stage++) {
    copy_async_wait<kDownStages - 2>();
    __syncthreads();
    if (stage + kDownStages - 1 < stages) load(stage + kDownStages - 1);
    copy_async_commit();
    const unsigned char *xs = memory + stage % kDownStages * kStage, *ws = xs + kX;
    NT_UNROLL
    for (int i = 0; i < kSteps; i++) {
      const int step = first_step + i, row = group * 16 + low + middle * 8;
      uint32_t a[4];
      load_matrix(a, xs + row * 128 + (((step * 2 + high) ^ low) << 4));
      NT_UNROLL
      for (int pair = 0; pair < tiles / 2; pair++) {
        uint32_t b[4];
        if (k_outside) {
          const int k = step * 16 + low + middle * 8;
          load_matrix_transposed(b, ws + (k * (tiles + 1) + pair * 2 + high) * 16);
        } else {
          const int n = pair * 16 + low + high * 8;
          load_matrix(b, ws + n * 128 + (((step * 2 + middle) ^ low) << 4));
        }
        mma(sums[2 * pair], a, b[0], b[1]);
        mma(sums[2 * pair + 1], a, b[2], b[3]);
      }
    }
  }

  if (kRowGroups == 2) {
    copy_async_wait<0>();
    __syncthreads();
    float *others = reinterpret_cast<float *>(memory) + (group * 32 + lane);  // [value][64 lanes]
    NT_UNROLL
    for (int i = 0; i < tiles * 4; i++)
      if (warp >= 2) others[i * 64] = sums[i / 4][i % 4];
    __syncthreads();
    if (warp >= 2) return;
    NT_UNROLL
    for (int i = 0; i < tiles * 4; i++) sums[i / 4][i % 4] += others[i * 64];
  }
  NT_UNROLL
  for (int half = 0; half < 2; half++) {
    const int64_t t = first_row + group * 16 + (lane >> 2) + 8 * half;
    if (t >= T) continue;
    NT_UNROLL
    for (int tile = 0; tile < tiles; tile++) {
      const int n = first_column + tile * 8 + 2 * (lane & 3);
      if (n >= columns) continue;
      const uint32_t pair = pack_bf16(scale * sums[tile][2 * half], scale * sums[tile][2 * half + 1]);
      *reinterpret_cast<uint32_t *>(c + t * ldc + n) = pair;
      if (c2 != nullptr) *reinterpret_cast<uint32_t *>(c2 + t * ldc2 + n) = pair;
    }
  }
}

template <int rows, int tiles>
__global__ __launch_bounds__(kDownThreads, 3)
    void lora_down_kernel(bf16 *c, bf16 *c2, int64_t ldc2, const bf16 *x, int64_t ldx, const bf16 *w, int64_t ldw,
                          float scale, int64_t T, int64_t K, int columns) {
  NT_DYNAMIC_SHARED(memory);
  lora_down_block<rows, tiles, false>(memory, c, columns, c2, ldc2, x, ldx, w, ldw, scale, T, K, columns,
                                      int64_t(blockIdx.y) * rows, int(blockIdx.x) * tiles * 8);
}

template <int rows, int tiles>
cudaError_t launch_down(nt_context *context, bf16 *c, bf16 *c2, int64_t ldc2, const bf16 *x, int64_t ldx, const bf16 *w,
                        int64_t ldw, float scale, int64_t T, int64_t K, int64_t columns) {
  const dim3 grid(unsigned(ceil_div(columns, tiles * 8)), unsigned(ceil_div(T, rows)));
  return launch(lora_down_kernel<rows, tiles>, grid, dim3(kDownThreads), size_t(down_bytes(rows, tiles, false)),
                context->stream, c, c2, ldc2, x, ldx, w, ldw, scale, T, K, int(columns));
}

// cp.async moves 16 bytes at a time; results go four bytes at a time.
inline bool can_lora_down(const void *c, int64_t ldc, const void *x, int64_t ldx, const void *w, int64_t ldw,
                          int64_t T, int64_t K, int64_t columns) {
  return columns % 8 == 0 && K % 8 == 0 && ldx % 8 == 0 && ldw % 8 == 0 && aligned16(x, w) &&
         reinterpret_cast<uintptr_t>(c) % 4 == 0 && ldc % 2 == 0 && ceil_div(T, 32) <= 65535 && columns <= INT32_MAX &&
         K <= INT32_MAX;
}

// c[T,columns] and c2 (null: not wanted) = scale · x[T,K]·w[columns,K]ᵀ; 32 rows a block where 64 would leave
// multiprocessors without work, or where `rows` has the order of a row's sums not depend on T.
inline cudaError_t lora_down(nt_context *context, void *c, void *c2, int64_t ldc2, const void *x, int64_t ldx,
                             const void *w, int64_t ldw, float scale, int64_t T, int64_t K, int64_t columns,
                             int32_t rows) {
  const int64_t column_tiles = ceil_div(columns, kDownColumns);
  const bool many = rows == NT_ROWS_TOGETHER && ceil_div(T, 64) * column_tiles >= context->multiprocessors;
  const int64_t width = ceil_div(columns, column_tiles);
  const auto run = width <= 16   ? (many ? launch_down<64, 2> : launch_down<32, 2>)
                   : width <= 32 ? (many ? launch_down<64, 4> : launch_down<32, 4>)
                   : width <= 48 ? (many ? launch_down<64, 6> : launch_down<32, 6>)
                                 : (many ? launch_down<64, 8> : launch_down<32, 8>);
  return run(context, static_cast<bf16 *>(c), static_cast<bf16 *>(c2), ldc2, static_cast<const bf16 *>(x), ldx,
             static_cast<const bf16 *>(w), ldw, scale, T, K, columns);
}

}  // namespace
}  // namespace nt
