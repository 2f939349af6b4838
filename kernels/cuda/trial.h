// What cuBLASLt's algorithms are tried by before one is kept (NEFTUNE_TUNE_MATMUL=1): how long they take, and whether one that
// splits k can be trusted. `run(product, bias)` makes a product and tells whether that went well; a null bias leaves the one
// that is set.
#pragma once
#include "../bf16.h"
#include "blas.h"

namespace nt {
namespace {

constexpr int kTrialThreads = 256;

// What a matrix takes in memory.
inline int64_t elements_of(const Matrix &x, int64_t rows, int64_t columns) {
  return (rows - 1) * x.row + (columns - 1) * x.column + 1;
}
inline int64_t result_elements(const Product &p) { return (p.m - 1) * p.ldc + p.n; }

// Device memory for as long as a trial takes; null where there is none.
class TrialMemory {
 public:
  explicit TrialMemory(int64_t bytes) {
    if (cudaMalloc(&data_, size_t(bytes)) != cudaSuccess) data_ = nullptr;
  }
  ~TrialMemory() {
    if (data_ != nullptr) cudaFree(data_);
    cudaGetLastError();  // what failed here was a trial: the next launch must not report it
  }
  TrialMemory(const TrialMemory &) = delete;
  TrialMemory &operator=(const TrialMemory &) = delete;
  char *data() const { return static_cast<char *>(data_); }

 private:
  void *data_ = nullptr;
};

// The fastest of several ways to make a product, each into memory of its own.
class Trial {
 public:
  Trial(nt_context *context, const Product &p)
      : context_(context), product_(p), memory_(result_elements(p) * size_of(p.c_dtype)) {
    product_.c = memory_.data();
    ready_ = product_.c != nullptr && cudaEventCreate(&begin_) == cudaSuccess && cudaEventCreate(&end_) == cudaSuccess &&
             cudaMemsetAsync(product_.c, 0, size_t(result_elements(p) * size_of(p.c_dtype)), context->stream) ==
                 cudaSuccess;
  }
  ~Trial() {
    if (begin_ != nullptr) cudaEventDestroy(begin_);
    if (end_ != nullptr) cudaEventDestroy(end_);
  }
  Trial(const Trial &) = delete;
  Trial &operator=(const Trial &) = delete;

  template <class Run>
  void time(int number, const void *bias, const Run &run) {
    constexpr int kRepeats = 3;
    const auto once = [&] { return run(product_, bias); };
    float milliseconds = 0;
    if (!ready_ || !once()) return;  // the first run loads the kernel
    bool ran = cudaEventRecord(begin_, context_->stream) == cudaSuccess;
    for (int repeat = 0; repeat < kRepeats && ran; repeat++) ran = once();
    ran = ran && cudaEventRecord(end_, context_->stream) == cudaSuccess && cudaEventSynchronize(end_) == cudaSuccess &&
          cudaEventElapsedTime(&milliseconds, begin_, end_) == cudaSuccess;
    if (!ran || (fastest_ >= 0 && milliseconds >= 0.98f * best_)) return;
    best_ = milliseconds;
    fastest_ = number;
  }

  // An earlier one where a later one wins less than 2 %; −1 where none could be timed, as without memory to try in.
  int fastest() const { return fastest_; }

 private:
  nt_context *context_;
  Product product_;
  TrialMemory memory_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  bool ready_ = false;
  float best_ = 0;
  int fastest_ = -1;
};

template <class T>
__global__ __launch_bounds__(kTrialThreads, 4) void fill_kernel(T *x, float value, int64_t n) {
  const int64_t i = int64_t(blockIdx.x) * kTrialThreads + threadIdx.x;
  if (i < n) x[i] = from_float<T>(value);
}

// *count += how many words of x[m,n] are not those of y.
template <class Word>
__global__ __launch_bounds__(kTrialThreads, 4) void count_differences_kernel(unsigned *count, const Word *x, const Word *y,
                                                                             int64_t m, int64_t n, int64_t ld) {
  const int64_t index = int64_t(blockIdx.x) * kTrialThreads + threadIdx.x;
  if (index >= m * n) return;
  const int64_t at = index / n * ld + index % n;
  if (x[at] != y[at]) atomicAdd(count, 1u);
}

inline bool fill(nt_context *context, void *x, int32_t dtype, float value, int64_t n) {
  const dim3 grid(unsigned(ceil_div(n, kTrialThreads)));
  if (dtype == NT_F32)
    return launch(fill_kernel<float>, grid, dim3(kTrialThreads), 0, context->stream, static_cast<float *>(x), value, n) ==
           cudaSuccess;
  return launch(fill_kernel<bf16>, grid, dim3(kTrialThreads), 0, context->stream, static_cast<bf16 *>(x), value, n) ==
         cudaSuccess;
}

inline bool count_differences(nt_context *context, unsigned *count, const void *x, const void *y, const Product &p) {
  const auto run = [&](auto word) {
    using Word = decltype(word);
    return launch(count_differences_kernel<Word>, dim3(unsigned(ceil_div(p.m * p.n, kTrialThreads))),
                  dim3(kTrialThreads), 0, context->stream, count, static_cast<const Word *>(x),
                  static_cast<const Word *>(y), p.m, p.n, p.ldc) == cudaSuccess;
  };
  return p.c_dtype == NT_F32 ? run(uint32_t(0)) : run(uint16_t(0));
}

// What a trial of an algorithm that splits k has shown; kUnknown: there was no memory for one.
enum class Trust { kUnknown, kRefused, kGiven };

// Whether `run` has every k in its sums, and gives the same bits each time, also with products by `other` in between.
// Ones times ones are k: added to −k, as c's type has it, every element that is left out shows.
template <class Run, class Other>
Trust trust_by_trial(nt_context *context, const Product &p, const void *bias, const Run &run, const Other &other) {
  constexpr int kRepeats = 4;
  const auto padded = [](int64_t bytes) { return ceil_div(bytes, 256) * 256; };
  const int64_t a = elements_of(p.a, p.m, p.k), b = elements_of(p.b, p.k, p.n), c = result_elements(p);
  const int64_t operand = a > b ? a : b, c_bytes = padded(c * size_of(p.c_dtype));
  const int64_t bias_bytes = padded(p.n * 4), operand_bytes = padded(operand * size_of(p.a.dtype));
  const TrialMemory memory(2 * c_bytes + bias_bytes + operand_bytes + 256);
  if (memory.data() == nullptr) return Trust::kUnknown;
  char *const first = memory.data(), *const again = first + c_bytes, *const no_bias = again + c_bytes;
  char *const ones = no_bias + bias_bytes;
  auto *const count = reinterpret_cast<unsigned *>(ones + operand_bytes);
  const auto clear = [&](void *x, int64_t bytes) {
    return cudaMemsetAsync(x, 0, size_t(bytes), context->stream) == cudaSuccess;
  };
  const auto made = [&](const auto &how, char *into) {
    Product product = p;
    product.c = into;
    return clear(into, c_bytes) && how(product, bias);
  };

  Product product = p;
  product.a.data = product.b.data = ones;
  product.c = first;
  product.alpha = 1;
  product.accumulate = true;
  const float k = float(p.k), kept = p.c_dtype == NT_F32 ? k : nt_bf16_to_float(nt_float_to_bf16(k));
  bool good = clear(count, 4) && clear(no_bias, bias_bytes) && fill(context, ones, p.a.dtype, 1, operand) &&
              fill(context, first, p.c_dtype, -kept, c) && fill(context, again, p.c_dtype, k - kept, c) &&
              run(product, bias == nullptr ? nullptr : no_bias) && count_differences(context, count, first, again, p);
  good = good && made(run, first);
  for (int i = 0; i < kRepeats && good; i++)
    good = made(other, again) && made(run, again) && count_differences(context, count, first, again, p);
  unsigned different = 1;
  good = good &&
         cudaMemcpyAsync(&different, count, sizeof different, cudaMemcpyDeviceToHost, context->stream) == cudaSuccess &&
         cudaStreamSynchronize(context->stream) == cudaSuccess && different == 0;
  return good ? Trust::kGiven : Trust::kRefused;
}

}  // namespace
}  // namespace nt
