// Counts rounded up.
#pragma once
#include <stdint.h>

namespace nt {

constexpr int64_t ceil_div(int64_t n, int64_t size) { return (n + size - 1) / size; }
constexpr int64_t round_up(int64_t n, int64_t multiple) { return ceil_div(n, multiple) * multiple; }

}  // namespace nt
