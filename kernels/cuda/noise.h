// Philox's distributions (../philox.h) on the device. Uniform and Bernoulli are ../philox.h's own, equal to the bit;
// the Gaussian turns by sine and cosine of an exactly reduced angle, as kernels/cpu/random.h does: sinf and cosf would
// carry a slow path for huge arguments, with a stack frame.
#pragma once
#include "../neftune.h"
#include "../philox.h"
#include "gpu.h"

namespace nt {

// sin and cos of 2πv, 0 ≤ v < 1 a multiple of 2⁻²⁴, within 1 ulp: the turn is reduced to ±1/8 without error.
__device__ __forceinline__ void sincos_turn(float v, float &sine, float &cosine) {
  const float quarters = v * 4.0f;
  const int q = int(quarters + 0.5f);
  const float x = (quarters - float(q)) * 1.57079632679489662f, z = x * x;
  float s = fmaf(2.7557319e-6f, z, -1.9841270e-4f);
  s = fmaf(s, z, 8.3333333e-3f);
  s = fmaf(s, z, -1.6666667e-1f);
  s = fmaf(s * z, x, x);
  float c = fmaf(2.4801587e-5f, z, -1.3888889e-3f);
  c = fmaf(c, z, 4.1666667e-2f);
  c = fmaf(c, z, -0.5f);
  c = fmaf(c, z, 1.0f);
  sine = q & 1 ? c : s;
  cosine = q & 1 ? s : c;
  if (q & 2) sine = -sine;
  if ((q + 1) & 2) cosine = -cosine;
}

// nt_philox_gaussian: Box–Muller.
__device__ __forceinline__ void gaussian_pair(uint32_t a, uint32_t b, float &first, float &second) {
  const float u = float((a >> 8) + 1) * 0x1p-24f, v = float(b >> 8) * 0x1p-24f;
  const float r = sqrtf(-2.0f * logf(u));
  float sine, cosine;
  sincos_turn(v, sine, cosine);
  first = r * cosine;
  second = r * sine;
}

// The four values of one block; `kind` is an nt_noise other than NT_NOISE_NONE.
__device__ __forceinline__ void noise_of(float (&x)[4], int32_t kind, const nt_philox_block &block) {
  if (kind == NT_NOISE_GAUSSIAN) {
    gaussian_pair(block.x[0], block.x[1], x[0], x[1]);
    gaussian_pair(block.x[2], block.x[3], x[2], x[3]);
    return;
  }
  NT_UNROLL
  for (int i = 0; i < 4; i++)
    x[i] = kind == NT_NOISE_UNIFORM ? nt_philox_uniform(block.x[i]) : nt_philox_bernoulli(block.x[i]);
}

}  // namespace nt
