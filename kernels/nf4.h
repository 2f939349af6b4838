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

#include "shared_fn.h"

enum { NT_NF4_BLOCK = 64, NT_NF4_NESTED_BLOCK = 256, NT_NF4_ZERO = 7 /* the code of 0 */ };

// Sixteen values; the bounds are the middles between them.
#define NT_NF4_CODEBOOK \
  -1.0f, -0.6961928f, -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f, -0.091050036f, 0.0f, 0.0795803f, \
  0.1609302f, 0.2461123f, 0.33791524f, 0.44070983f, 0.562617f, 0.72295684f, 1.0f
#define NT_NF4_BOUNDS \
  -0.8480964f, -0.6106329f, -0.45999527f, -0.33967942f, -0.2346074f, -0.13791174f, -0.045525018f, 0.03979015f, \
  0.12025525f, 0.20352125f, 0.29201376f, 0.38931254f, 0.50166345f, 0.6427869f, 0.86147845f

// bitsandbytes' signed dynamic map: exponents 10⁻⁶ … 1 with ever more steps, and both signs but for −1.
#define NT_NF4_DYNAMIC_MAP \
  -0.99296874f, -0.9789063f, -0.96484375f, -0.9507812f, -0.93671876f, -0.92265624f, -0.9085938f, -0.89453125f, \
  -0.8804687f, -0.86640626f, -0.85234374f, -0.8382813f, -0.82421875f, -0.8101562f, -0.79609376f, -0.78203124f, \
  -0.7679688f, -0.75390625f, -0.7398437f, -0.72578126f, -0.7117188f, -0.6976563f, -0.68359375f, -0.6695312f, \
  -0.65546876f, -0.6414063f, -0.6273438f, -0.61328125f, -0.5992187f, -0.58515626f, -0.5710938f, -0.5570313f, \
  -0.54296875f, -0.5289062f, -0.5148437f, -0.50078124f, -0.4867187f, -0.47265625f, -0.45859373f, -0.44453126f, \
  -0.43046874f, -0.41640624f, -0.40234375f, -0.38828123f, -0.37421876f, -0.36015624f, -0.34609374f, -0.33203125f, \
  -0.31796873f, -0.30390626f, -0.28984374f, -0.27578127f, -0.26171875f, -0.24765624f, -0.23359375f, -0.21953125f, \
  -0.20546874f, -0.19140625f, -0.17734376f, -0.16328125f, -0.14921875f, -0.13515624f, -0.12109375f, -0.107031256f, \
  -0.09859375f, -0.09578126f, -0.092968754f, -0.09015625f, -0.08734375f, -0.08453125f, -0.08171876f, -0.07890625f, \
  -0.07609375f, -0.07328125f, -0.070468746f, -0.067656256f, -0.06484375f, -0.06203125f, -0.059218753f, -0.05640625f, \
  -0.05359375f, -0.05078125f, -0.04796875f, -0.04515625f, -0.042343747f, -0.03953125f, -0.036718752f, -0.03390625f, \
  -0.03109375f, -0.028281251f, -0.02546875f, -0.02265625f, -0.019843752f, -0.01703125f, -0.01421875f, -0.01140625f, \
  -0.00971875f, -0.009156249f, -0.00859375f, -0.00803125f, -0.00746875f, -0.00690625f, -0.00634375f, -0.00578125f, \
  -0.0052187503f, -0.0046562497f, -0.00409375f, -0.0035312497f, -0.00296875f, -0.00240625f, -0.00184375f, \
  -0.0012812499f, -0.0009437501f, -0.00083125f, -0.00071875006f, -0.0006062501f, -0.00049375003f, -0.00038125002f, \
  -0.00026875004f, -0.00015625001f, -8.875e-05f, -6.625e-05f, -4.375e-05f, -2.1249998e-05f, -7.75e-06f, \
  -3.2500002e-06f, -5.5000004e-07f, 0.0f, 5.5000004e-07f, 3.2500002e-06f, 7.75e-06f, 2.1249998e-05f, 4.375e-05f, \
  6.625e-05f, 8.875e-05f, 0.00015625001f, 0.00026875004f, 0.00038125002f, 0.00049375003f, 0.0006062501f, \
  0.00071875006f, 0.00083125f, 0.0009437501f, 0.0012812499f, 0.00184375f, 0.00240625f, 0.00296875f, 0.0035312497f, \
  0.00409375f, 0.0046562497f, 0.0052187503f, 0.00578125f, 0.00634375f, 0.00690625f, 0.00746875f, 0.00803125f, \
  0.00859375f, 0.009156249f, 0.00971875f, 0.01140625f, 0.01421875f, 0.01703125f, 0.019843752f, 0.02265625f, \
  0.02546875f, 0.028281251f, 0.03109375f, 0.03390625f, 0.036718752f, 0.03953125f, 0.042343747f, 0.04515625f, \
  0.04796875f, 0.05078125f, 0.05359375f, 0.05640625f, 0.059218753f, 0.06203125f, 0.06484375f, 0.067656256f, \
  0.070468746f, 0.07328125f, 0.07609375f, 0.07890625f, 0.08171876f, 0.08453125f, 0.08734375f, 0.09015625f, \
  0.092968754f, 0.09578126f, 0.09859375f, 0.107031256f, 0.12109375f, 0.13515624f, 0.14921875f, 0.16328125f, \
  0.17734376f, 0.19140625f, 0.20546874f, 0.21953125f, 0.23359375f, 0.24765624f, 0.26171875f, 0.27578127f, 0.28984374f, \
  0.30390626f, 0.31796873f, 0.33203125f, 0.34609374f, 0.36015624f, 0.37421876f, 0.38828123f, 0.40234375f, 0.41640624f, \
  0.43046874f, 0.44453126f, 0.45859373f, 0.47265625f, 0.4867187f, 0.50078124f, 0.5148437f, 0.5289062f, 0.54296875f, \
  0.5570313f, 0.5710938f, 0.58515626f, 0.5992187f, 0.61328125f, 0.6273438f, 0.6414063f, 0.65546876f, 0.6695312f, \
  0.68359375f, 0.6976563f, 0.7117188f, 0.72578126f, 0.7398437f, 0.75390625f, 0.7679688f, 0.78203124f, 0.79609376f, \
  0.8101562f, 0.82421875f, 0.8382813f, 0.85234374f, 0.86640626f, 0.8804687f, 0.89453125f, 0.9085938f, 0.92265624f, \
  0.93671876f, 0.9507812f, 0.96484375f, 0.9789063f, 0.99296874f, 1.0f

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
