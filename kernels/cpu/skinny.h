// Products with one side as narrow as a LoRA rank (up to a few hundred), where oneDNN is far from its rate: its tiles
// are made for large sides, and here reading and writing the long operand once is what costs.
//
// Each takes float32 or bf16 operands, sums in float32, and is split over threads so that every output element is
// summed by one thread in one order.
#pragma once
#include <string.h>

#include "matmul.h"
#include "parallel.h"
#include "scratch.h"

namespace nt {

// c[T,N] = p[T,r] · q[r,N], added to what c holds when `accumulate`. p, q: dtype; c: c_dtype.
int32_t rank_product(nt_context *context, int32_t dtype, void *c, int32_t c_dtype, int64_t ldc, const void *p,
                     int64_t ldp, const Matrix &q, int64_t T, int64_t N, int64_t r, bool accumulate);

// c[T,R] = scale · x[T,K] · q[K,R].
int32_t narrow_product(nt_context *context, int32_t dtype, void *c, int64_t ldc, const void *x, int64_t ldx,
                       const Matrix &q, float scale, int64_t T, int64_t R, int64_t K);

// c[R,N] (float32, dense; [N,R] when c_transposed) += pᵀ[R,T] · q[T,N].
int32_t outer_product(nt_context *context, int32_t dtype, float *c, bool c_transposed, const void *p, int64_t ldp,
                      const void *q, int64_t ldq, int64_t T, int64_t R, int64_t N);
// The rows that outer_product sums between visits to c: products of so many rows each add up to the same bits as one.
int64_t outer_rows(nt_context *context, int32_t dtype);

// What the calling thread packs operands into, valid until its next product.
inline void *packed_memory(int64_t bytes) {
  static thread_local Scratch memory;
  return memory.at_least(bytes);
}

// run(first, rows, c) for rows that make up [0, T), where run does something with the rows and adds their outer product
// to c[count]. A thread does one after the other, so that what is read twice is in its cache. The same bits as run(0, T, c).
template <typename Run>
int32_t by_outer_rows(nt_context *context, int32_t dtype, int64_t T, float *c, int64_t count, const Run &run) {
  constexpr int64_t kMostElements = 16 << 20;  // in the sums of several runs together, 64 MB
  static thread_local Scratch memory;
  const int64_t some = outer_rows(context, dtype), runs = (T + some - 1) / some, threads = context->threads;
  const int64_t room = kMostElements / count, most = room < 8 * threads ? room : 8 * threads;
  if (c == nullptr || runs < 2 * threads || most < 2 * threads) return run(int64_t(0), T, c);
  auto *parts = static_cast<float *>(memory.at_least((runs < most ? runs : most) * count * int64_t(sizeof(float))));
  if (parts == nullptr) return run(int64_t(0), T, c);
  std::atomic<int32_t> status{NT_OK};
  for (int64_t first = 0; first < runs; first += most) {
    const int64_t several = runs - first < most ? runs - first : most;
    parallel_for(context->threads, several, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t t = (first + i) * some;
        float *part = parts + i * count;
        memset(part, 0, size_t(count) * sizeof(float));
        const int32_t own = run(t, T - t < some ? T - t : some, part);
        if (own != NT_OK) status.store(own);
      }
    });
    if (status.load() != NT_OK) return fail(status.load(), "lora: no memory to pack %lld rows", (long long)some);
    parallel_for(context->threads, count, 4096, [&](int64_t begin, int64_t end) {
      for (int64_t i = 0; i < several; i++)
        for (int64_t j = begin; j < end; j++) c[j] += parts[i * count + j];
    });
  }
  return NT_OK;
}

}  // namespace nt
