// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC'11) and the
// distributions made from it, written once for every backend. Counter-based: any word can be computed alone, so
// noise does not depend on batch layout, threads or resumption.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "shared_fn.h"

// The stream, in bits 16–31 of counter word 3: what the numbers are for.
enum { NT_STREAM_NOISE = 0, NT_STREAM_DROPOUT = 1, NT_STREAM_SHUFFLE = 2, NT_STREAM_INIT = 3, NT_STREAM_SAMPLE = 4 };

typedef struct {
  uint32_t x[4];
} nt_philox_block;

NT_SHARED_FN nt_philox_block nt_philox(uint32_t key0, uint32_t key1, uint32_t c0, uint32_t c1, uint32_t c2,
                                       uint32_t c3) {
  for (int round = 0; round < 10; round++) {
    uint64_t p0 = (uint64_t)0xD2511F53u * c0;
    uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
    c0 = (uint32_t)(p1 >> 32) ^ c1 ^ key0;
    c1 = (uint32_t)p1;
    c2 = (uint32_t)(p0 >> 32) ^ c3 ^ key1;
    c3 = (uint32_t)p0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  nt_philox_block block = {{c0, c1, c2, c3}};
  return block;
}

// U(−1, 1), exact in float32, symmetric, never 0 or ±1.
NT_SHARED_FN float nt_philox_uniform(uint32_t word) {
  return ((float)((int32_t)word >> 8) + 0.5f) * 0x1p-23f;
}

// +1 or −1.
NT_SHARED_FN float nt_philox_bernoulli(uint32_t word) { return word >> 31 ? -1.0f : 1.0f; }

// Two N(0, 1) values from two words (Box–Muller).
NT_SHARED_FN void nt_philox_gaussian(uint32_t a, uint32_t b, float *first, float *second) {
  float u = (float)((a >> 8) + 1) * 0x1p-24f;
  float v = (float)(b >> 8) * 0x1p-24f;
  float r = sqrtf(-2.0f * logf(u));
  *first = r * cosf(6.28318530717958647692f * v);
  *second = r * sinf(6.28318530717958647692f * v);
}
