// Where products of few rows write their results.
#pragma once
#include "vec.h"

namespace nt {

// What a product writes to: c[T, out] of c_dtype.
struct ProductResult {
  void *c;
  int32_t c_dtype;
  int64_t ldc;
  const float *bias;
  bool accumulate;

  template <typename C>
  void put(C *to, Vec value, int64_t column, int64_t n) const {
    if (n == kLanes) {
      if (bias != nullptr) value += load(bias + column);
      if (accumulate) value += load(to);
      store(to, value);
      return;
    }
    if (bias != nullptr) value += load_part(bias + column, n);
    if (accumulate) value += load_part(to, n);
    store_part(to, value, n);
  }
  // The first n lanes, from `column` of row t on.
  void put(int64_t t, int64_t column, Vec value, int64_t n) const {
    const int64_t at = t * ldc + column;
    if (c_dtype == NT_F32)
      put(static_cast<float *>(c) + at, value, column, n);
    else
      put(static_cast<bf16 *>(c) + at, value, column, n);
  }
};

}  // namespace nt
