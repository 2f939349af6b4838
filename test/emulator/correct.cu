// Correct kernels: each checks itself against a plain computation, and must find what it expects with every seed.
#include "cases.h"

namespace {

using nt::bf16;
using nt::kAllLanes;

// y = x · rsqrt(mean(x²)) by rows of a block, with every kind of block-wide operation on the way.
__global__ void __launch_bounds__(256, 2) normalize_kernel(float *y, const float *x, int *positives) {
  NT_SHARED(float, scratch, [32]);
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const nt::Pack<float> in = nt::load_pack_once(x + 4 * i);
  float squares = 0;
  NT_UNROLL
  for (int j = 0; j < 4; j++) squares += in.x[j] * in.x[j];
  const float scale = rsqrtf(nt::block_sum(squares, scratch) / (4.0f * blockDim.x));
  nt::Pack<float> out;
  NT_UNROLL
  for (int j = 0; j < 4; j++) out.x[j] = in.x[j] * scale;
  nt::store_pack_once(y + 4 * i, out);
  const int count = __syncthreads_count(in.x[0] > 0.0f);
  if (threadIdx.x == 0) atomicAdd(positives, count);
}

// C[16,8] = A[16,16]·B[16,8] three times: A by ldmatrix; B[k][n] by ldmatrix transposed; stored as Bᵀ by ldmatrix.
// A row of 16 bf16 is two chunks of 16 bytes.
__global__ void __launch_bounds__(32) product_kernel(float *c, const bf16 *a, const bf16 *b, const bf16 *b_transposed) {
  NT_SHARED(__align__(16) bf16, a_tile, [16 * 16]);
  NT_SHARED(__align__(16) bf16, b_tile, [16 * 8]);
  NT_SHARED(__align__(16) bf16, bt_tile, [8 * 16]);
  const int lane = threadIdx.x;
  nt::copy_async(a_tile + 8 * lane, a + 8 * lane);
  if (lane < 16) nt::copy_async(b_tile + 8 * lane, b + 8 * lane);
  nt::copy_async_commit();
  if (lane < 16) nt::copy_async(bt_tile + 8 * lane, b_transposed + 8 * lane);
  nt::copy_async_commit();
  nt::copy_async_wait<1>();
  __syncwarp();
  uint32_t left[4], right[4];
  nt::load_matrix(left, a_tile + 16 * (lane % 16) + 8 * (lane / 16));
  nt::load_matrix_transposed(right, b_tile + 8 * (lane % 16));
  float sums[4] = {};
  nt::mma(sums, left, right[0], right[1]);
  nt::copy_async_wait<0>();
  __syncwarp();
  nt::load_matrix(right, bt_tile + 16 * (lane % 8) + 8 * (lane / 8 % 2));
  nt::mma(sums, left, right[0], right[1]);
  const int row = lane / 4, column = 2 * (lane % 4);
  NT_UNROLL
  for (int i = 0; i < 4; i++) c[8 * (row + 8 * (i / 2)) + column + i % 2] = sums[i];
}

__global__ void collectives_kernel(int *wrong) {
  const int lane = threadIdx.x % warpSize;
  int bad = 0;
  bad += __shfl_sync(kAllLanes, lane, 5) != 5;
  bad += __shfl_sync(kAllLanes, lane, 9, 8) != (lane & 24) + 1;
  bad += __shfl_xor_sync(kAllLanes, 3 * lane, 7) != 3 * (lane ^ 7);
  bad += __shfl_down_sync(kAllLanes, lane, 4) != (lane + 4 < 32 ? lane + 4 : lane);
  bad += __shfl_up_sync(kAllLanes, lane, 4, 16) != (lane % 16 >= 4 ? lane - 4 : lane);
  bad += __ballot_sync(kAllLanes, lane % 3 == 0) != 0x49249249u;
  bad += __any_sync(kAllLanes, lane == 31) != 1 || __all_sync(kAllLanes, lane < 31) != 0;
  bad += __reduce_add_sync(kAllLanes, lane) != 496 || __reduce_min_sync(kAllLanes, lane - 16) != -16;
  bad += __reduce_max_sync(kAllLanes, unsigned(lane)) != 31u || __reduce_or_sync(kAllLanes, 1u << lane) != kAllLanes;
  bad += __match_any_sync(kAllLanes, lane / 4) != 0xFu << (lane & ~3);
  // In one meeting of the warp, the bits of the shuffles that GPUs run.
  const float terms[] = {sinf(lane), 1e8f * cosf(3 * lane), -1.0f / (1 + lane), lane == 7 ? -INFINITY : -2.0f * lane};
  for (const float x : terms) {
    bad += __float_as_uint(nt::warp_sum(x)) != __float_as_uint(nt::sum_by_shuffles(x));
    bad += __float_as_uint(nt::warp_max(x)) != __float_as_uint(nt::max_by_shuffles(x));
  }
  // Parts of a warp by themselves.
  if (lane < 12) bad += __reduce_add_sync(0xFFFu, 1) != 12;
  bad += __popc(0xF0F0u) != 8 || __ffs(8) != 4 || __clz(1) != 31 || __brev(1u) != 0x80000000u;
  bad += __byte_perm(0x33221100u, 0x77665544u, 0x7250u) != 0x77225500u || __umulhi(0x80000000u, 6u) != 3u;
  float sine, cosine;
  sincospif(0.25f * (lane % 8), &sine, &cosine);
  bad += fabsf(sine - sinf(0.78539816f * (lane % 8))) > 1e-6f || fabsf(cosine * cosine + sine * sine - 1.0f) > 1e-6f;
  bad += nt::exp2_fast(-3.0f) != 0.125f || nt::exp2_fast(-140.0f) != 0.0f;
  bad += __float_as_uint(1.0f) != 0x3F800000u || min(3u, 2u) != 2u || max(-1, -2) != -1;
  bad += __syncthreads_and(lane >= 0) != 1 || __syncthreads_or(threadIdx.x == 63) != 1;
  bad += __syncthreads_and(threadIdx.x < 63) != 0 || __syncthreads_or(threadIdx.x > 63) != 0;
  atomicAdd(wrong, bad);
  atomicMax(wrong + 1, int(threadIdx.x));
  atomicExch(wrong + 2, atomicCAS(wrong + 3, 0, 1) == 0 ? 7 : 7);
}

__global__ void index_kernel(int *seen) {
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  seen[block * (blockDim.x * blockDim.y * blockDim.z) + thread] += 1;
}

// The last block to arrive sums what all wrote.
__global__ void last_block_kernel(float *sum, float *parts, unsigned *arrived) {
  NT_SHARED(bool, last, );
  if (threadIdx.x == 0) {
    parts[blockIdx.x] = float(blockIdx.x + 1);
    __threadfence();
    last = atomicAdd(arrived, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last || threadIdx.x != 0) return;
  __threadfence();
  float total = 0;
  for (unsigned i = 0; i < gridDim.x; i++) total += parts[i];
  *sum = total;
}

bool normalizes() {
  constexpr int kBlocks = 3, kColumns = 1024;
  auto *x = device<float>(kBlocks * kColumns), *y = device<float>(kBlocks * kColumns);
  auto *positives = device<int>(1);
  *positives = 0;
  for (int i = 0; i < kBlocks * kColumns; i++) x[i] = sinf(float(i));
  if (!launched(nt::launch(normalize_kernel, dim3(kBlocks), dim3(256), 0, nullptr, y, x, positives))) return false;
  bool good = true;
  int expected = 0;
  for (int block = 0; block < kBlocks; block++) {
    double squares = 0;
    for (int i = 0; i < kColumns; i++) squares += double(x[block * kColumns + i]) * x[block * kColumns + i];
    for (int i = 0; i < kColumns; i++) {
      const int at = block * kColumns + i;
      good = good && fabs(y[at] - x[at] / sqrt(squares / kColumns)) < 1e-5;
      expected += i % 4 == 0 && x[at] > 0;
    }
  }
  return good && *positives == expected;
}

bool multiplies() {
  auto *a = device<bf16>(256), *b = device<bf16>(128), *bt = device<bf16>(128);
  auto *c = device<float>(128);
  for (int i = 0; i < 256; i++) a[i] = __float2bfloat16_rn(float(i * 7 % 13 - 6));
  for (int k = 0; k < 16; k++)
    for (int n = 0; n < 8; n++) bt[16 * n + k] = b[8 * k + n] = __float2bfloat16_rn(float((k * 5 + n * 3) % 11 - 5));
  if (!launched(nt::launch(product_kernel, dim3(1), dim3(32), 0, nullptr, c, a, b, bt))) return false;
  bool good = true;
  for (int m = 0; m < 16; m++) {
    for (int n = 0; n < 8; n++) {
      float sum = 0;
      for (int k = 0; k < 16; k++) sum += __bfloat162float(a[16 * m + k]) * __bfloat162float(b[8 * k + n]);
      good = good && c[8 * m + n] == 2 * sum;
    }
  }
  return good;
}

bool collects() {
  auto *wrong = device<int>(4);
  for (int i = 0; i < 4; i++) wrong[i] = 0;
  if (!launched(nt::launch(collectives_kernel, dim3(1), dim3(64), 0, nullptr, wrong))) return false;
  return wrong[0] == 0 && wrong[1] == 63 && wrong[2] == 7 && wrong[3] == 1;
}

bool counts_every_thread() {
  const dim3 grid(3, 2, 2), block(5, 3, 2);
  auto *seen = device<int>(12 * 30);
  for (int i = 0; i < 12 * 30; i++) seen[i] = 0;
  if (!launched(nt::launch(index_kernel, grid, block, 0, nullptr, seen))) return false;
  for (int i = 0; i < 12 * 30; i++)
    if (seen[i] != 1) return false;
  return true;
}

bool last_block_sums() {
  auto *sum = device<float>(1), *parts = device<float>(20);
  auto *arrived = device<unsigned>(1);
  *arrived = 0;
  if (!launched(nt::launch(last_block_kernel, dim3(20), dim3(64), 0, nullptr, sum, parts, arrived))) return false;
  return *sum == 210.0f;
}

}  // namespace

const Case kCorrect[] = {
    {"normalizes", normalizes},
    {"multiplies", multiplies},
    {"collects", collects},
    {"counts every thread", counts_every_thread},
    {"last block sums", last_block_sums},
    {"reuses pinned memory", [] { return reuse_pinned(true); }},
};
const int kCorrectCount = sizeof kCorrect / sizeof *kCorrect;
