// From the dtype of a call to a type: `nt::bf16` is the backend's own.
#pragma once
#include "entry.h"

namespace nt {

// run(element), a float or a bf16 by `dtype`, which has been checked.
template <class Run>
inline int32_t with_dtype(int32_t dtype, const Run &run) {
  return dtype == NT_F32 ? run(float{}) : run(bf16{});
}

template <class T>
inline T *as(void *x) {
  return static_cast<T *>(x);
}
template <class T>
inline const T *as(const void *x) {
  return static_cast<const T *>(x);
}

}  // namespace nt
