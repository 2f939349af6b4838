#pragma once
#include "entry.h"

namespace nt {

inline int32_t check_nf4(const char *op, const nt_nf4 *nf4, int64_t n) {
  NT_CHECK(nf4 != nullptr, "%s: no NF4 tensor", op);
  NT_CHECK(is_stored_dtype(nf4->dtype), "%s: unknown dtype %lld of the NF4 tensor", op, (long long)nf4->dtype);
  NT_CHECK(n == 0 || (nf4->codes != nullptr && nf4->absmax != nullptr), "%s: codes and absmax must not be null", op);
  return NT_OK;
}

}  // namespace nt
