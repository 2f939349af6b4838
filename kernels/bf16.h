// bfloat16 and float16 as their bits, and the rounding all backends share: to nearest, ties to even, NaN kept quiet.
#pragma once
#include <stdint.h>
#include <string.h>

#include "shared_fn.h"

typedef uint16_t nt_bf16;

NT_SHARED_FN float nt_bf16_to_float(nt_bf16 value) {
  uint32_t bits = (uint32_t)value << 16;
  float result;
  memcpy(&result, &bits, 4);
  return result;
}

NT_SHARED_FN nt_bf16 nt_float_to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return (nt_bf16)(bits >> 16 | 0x40u);
  return (nt_bf16)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

NT_SHARED_FN float nt_f16_to_float(uint16_t value) {
  uint32_t sign = (uint32_t)(value & 0x8000u) << 16;
  uint32_t exponent = value >> 10 & 0x1Fu, fraction = value & 0x3FFu, bits;
  float result;
  if (exponent == 0) {  // zero and subnormals: fraction · 2⁻²⁴ is exact
    result = (float)fraction * 0x1p-24f;
    memcpy(&bits, &result, 4);
    bits |= sign;
  } else if (exponent == 31) {
    bits = sign | 0x7F800000u | fraction << 13;
  } else {
    bits = sign | (exponent + 112) << 23 | fraction << 13;
  }
  memcpy(&result, &bits, 4);
  return result;
}
