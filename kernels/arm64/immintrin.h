// What the CPU kernels know as <immintrin.h>, for arm64: SIMDe writes AVX2's functions with NEON's. The kernels see a CPU
// with AVX2 (8 lanes).
#pragma once
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx2.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>
#define _MM_FROUND_NO_EXC SIMDE_MM_FROUND_NO_EXC

// SIMDe's own multiplies and adds where it has no 256-bit instruction, and so rounds twice.
#undef _mm256_fmadd_ps
#define _mm256_fmadd_ps(a, b, c) \
  ((simde__m256)__builtin_elementwise_fma((simde__m256)(a), (simde__m256)(b), (simde__m256)(c)))
