// Panels: 64 columns of an operand, their words side by side for each step of the sum, taken together by the products.
#pragma once
#include <stdint.h>

namespace nt {

constexpr int64_t kPanel = 64;

}  // namespace nt
