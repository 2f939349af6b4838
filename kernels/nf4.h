// NF4, the 4-bit NormalFloat of QLoRA (Dettmers et al., arXiv 2305.14314, appendix E), in bitsandbytes' layout: its
// tables and its scalar formulas, for every backend.
//
// n values are cut into blocks of 64 in the order of memory, whatever their rows; the last block may be short.
//   absmax = max |x|, s = x · (1/absmax), code = how many bounds lie below s; two codes a byte, the first one high.
//   x' = codebook[code] · absmax, rounded to the dtype that was quantized.
// Double quantization, in blocks of 256 absmax, offset = mean(absmax), r = absmax − offset:
//   absmax2 = max |r|, code = the entry of the dynamic map nearest to r · (1/absmax2).
//   absmax' = map[code] · absmax2 + offset.
// Every product and every sum above is a float32, rounded by itself: none is fused.
#pragma once
#include <stdint.h>

#include "dynamic_map.h"
#include "shared_fn.h"

enum { NT_NF4_BLOCK = 64, NT_NF4_NESTED_BLOCK = 256, NT_NF4_ZERO = 7 /* the code of 0 */ };

// Sixteen values; the bounds are the middles between them.
#define NT_NF4_CODEBOOK \
  -1.0f, -0.6961928f, -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f, -0.091050036f, 0.0f, 0.0795803f, \
  0.1609302f, 0.2461123f, 0.33791524f, 0.44070983f, 0.562617f, 0.72295684f, 1.0f
#define NT_NF4_BOUNDS \
  -0.8480964f, -0.6106329f, -0.45999527f, -0.33967942f, -0.2346074f, -0.13791174f, -0.045525018f, 0.03979015f, \
  0.12025525f, 0.20352125f, 0.29201376f, 0.38931254f, 0.50166345f, 0.6427869f, 0.86147845f

// What a block's values are multiplied by. 0 for a block of zeros, which then has the code of 0 throughout.
NT_SHARED_FN float nt_nf4_inverse(float absmax) { return absmax > 0.0f ? 1.0f / absmax : 0.0f; }

// How many of the 15 bounds lie below s, by halving; 0 for NaN.
NT_SHARED_FN int nt_nf4_code(const float *bounds, float s) {
  int code = 0;
  for (int step = 8; step > 0; step /= 2) code += step & -(int)(s > bounds[code + step - 1]);
  return code;
}

// The entry of the dynamic map nearest to s, the lower one in the middle; 0 for NaN. The sum of two float32 is exact
// in float64.
NT_SHARED_FN int nt_nf4_nested_code(const float *map, float s) {
  int code = 0;
  for (int step = 128; step > 0; step /= 2) code += step & -(int)(s >= map[code + step]);  // no jump to predict
  const int next = code < 255 ? code + 1 : code;
  return 2.0 * s > (double)map[code] + map[next] ? next : code;
}

// A block's absmax from its own code.
NT_SHARED_FN float nt_nf4_absmax(float entry, float absmax2, float offset) {
#ifdef __CUDA_ARCH__
  return __fadd_rn(__fmul_rn(entry, absmax2), offset);
#else
  const float product = entry * absmax2;
  return product + offset;
#endif
}
