// JSON texts for the caller.
#pragma once
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

namespace nt {

// Appends to a JSON text; `used` grows past `size` where it does not fit.
__attribute__((format(printf, 4, 5))) inline void append(char *json, int64_t size, int64_t *used, const char *format,
                                                         ...) {
  va_list arguments;
  va_start(arguments, format);
  const int64_t room = *used < size ? size - *used : 0;
  const int written = vsnprintf(room > 0 ? json + *used : nullptr, size_t(room), format, arguments);
  va_end(arguments);
  if (written > 0) *used += written;
}

}  // namespace nt
