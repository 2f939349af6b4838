// How a native function of any backend refuses its arguments: a message for nt_last_error and a status.
#pragma once
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "neftune.h"

namespace nt {

// What nt_last_error returns.
inline thread_local char last_error[1024];

// Keeps the message for nt_last_error and returns `status`, so that a check reads
// `if (bad) return fail(NT_INVALID, "rmsnorm_forward: …", …);`.
__attribute__((format(printf, 2, 3))) inline int32_t fail(int32_t status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(last_error, sizeof last_error, format, arguments);
  va_end(arguments);
  return status;
}

inline int64_t size_of(int32_t dtype) { return dtype == NT_F32 ? 4 : 2; }

}  // namespace nt

// Activations are float32 or bfloat16, nothing else.
#define NT_CHECK_DTYPE(op, dtype)                                                       \
  do {                                                                                  \
    if ((dtype) != NT_F32 && (dtype) != NT_BF16)                                        \
      return nt::fail(NT_INVALID, op ": dtype must be f32 or bf16, got %d", int(dtype)); \
  } while (0)

#define NT_CHECK(condition, ...)                                  \
  do {                                                            \
    if (!(condition)) return nt::fail(NT_INVALID, __VA_ARGS__);   \
  } while (0)
