// CUDA's built-in functions: barriers, warp collectives, cached loads, intrinsics.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>

#include "runtime.h"

// ---- barriers

inline void __syncthreads(NT_CALLER) { nt::emulator::block_barrier(nt::emulator::kBlockCount, 0, file, line); }
inline int __syncthreads_count(int predicate, NT_CALLER) {
  return nt::emulator::block_barrier(nt::emulator::kBlockCount, predicate, file, line);
}
inline int __syncthreads_and(int predicate, NT_CALLER) {
  return nt::emulator::block_barrier(nt::emulator::kBlockAnd, predicate, file, line);
}
inline int __syncthreads_or(int predicate, NT_CALLER) {
  return nt::emulator::block_barrier(nt::emulator::kBlockOr, predicate, file, line);
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, NT_CALLER) {
  char nothing;
  nt::emulator::warp_collective(nt::emulator::warp_nothing, mask, &nothing, true, file, line);
}

// ---- warp collectives

namespace nt::emulator {

template <class T>
inline T shuffle(unsigned mask, T value, int source, const char *file, int line) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "what a shuffle can move");
  Shuffle exchange{0, 0, source};
  memcpy(&exchange.value, &value, sizeof value);
  warp_collective(warp_shuffle, mask, &exchange, false, file, line);
  memcpy(&value, &exchange.result, sizeof value);
  return value;
}

inline unsigned reduce(Reduction reduction, unsigned mask, unsigned value, const char *file, int line) {
  WarpReduction arguments{reduction, value, 0};
  warp_collective(warp_reduction, mask, &arguments, false, file, line);
  return arguments.result;
}

}  // namespace nt::emulator

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, NT_CALLER) {
  const int first = nt::emulator::current->lane & ~(width - 1);
  return nt::emulator::shuffle(mask, value, first | (source & (width - 1)), file, line);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, NT_CALLER) {
  const int lane = nt::emulator::current->lane, source = lane ^ bits, end = (lane & ~(width - 1)) + width;
  return nt::emulator::shuffle(mask, value, source < end ? source : lane, file, line);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32, NT_CALLER) {
  const int lane = nt::emulator::current->lane, source = lane + int(distance), last = lane | (width - 1);
  return nt::emulator::shuffle(mask, value, source <= last ? source : lane, file, line);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32, NT_CALLER) {
  const int lane = nt::emulator::current->lane, source = lane - int(distance), first = lane & ~(width - 1);
  return nt::emulator::shuffle(mask, value, source >= first ? source : lane, file, line);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, NT_CALLER) {
  nt::emulator::Ballot ballot{predicate, 0};
  nt::emulator::warp_collective(nt::emulator::warp_ballot, mask, &ballot, false, file, line);
  return ballot.result;
}
inline int __any_sync(unsigned mask, int predicate, NT_CALLER) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, NT_CALLER) {
  return __ballot_sync(mask, !predicate, file, line) == 0;
}
template <class T>
inline unsigned __match_any_sync(unsigned mask, T value, NT_CALLER) {
  nt::emulator::Match match{0, 0};
  memcpy(&match.value, &value, sizeof value);
  nt::emulator::warp_collective(nt::emulator::warp_match, mask, &match, false, file, line);
  return match.result;
}

inline unsigned __reduce_add_sync(unsigned mask, unsigned value, NT_CALLER) {
  return nt::emulator::reduce(nt::emulator::kReduceAdd, mask, value, file, line);
}
inline int __reduce_add_sync(unsigned mask, int value, NT_CALLER) {
  return int(nt::emulator::reduce(nt::emulator::kReduceAdd, mask, unsigned(value), file, line));
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value, NT_CALLER) {
  return nt::emulator::reduce(nt::emulator::kReduceMin, mask, value, file, line);
}
inline int __reduce_min_sync(unsigned mask, int value, NT_CALLER) {
  return int(nt::emulator::reduce(nt::emulator::kReduceMinSigned, mask, unsigned(value), file, line));
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value, NT_CALLER) {
  return nt::emulator::reduce(nt::emulator::kReduceMax, mask, value, file, line);
}
inline int __reduce_max_sync(unsigned mask, int value, NT_CALLER) {
  return int(nt::emulator::reduce(nt::emulator::kReduceMaxSigned, mask, unsigned(value), file, line));
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value, NT_CALLER) {
  return nt::emulator::reduce(nt::emulator::kReduceAnd, mask, value, file, line);
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value, NT_CALLER) {
  return nt::emulator::reduce(nt::emulator::kReduceOr, mask, value, file, line);
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned value, NT_CALLER) {
  return nt::emulator::reduce(nt::emulator::kReduceXor, mask, value, file, line);
}

// ---- loads and stores with cache hints

#define NT_EMULATED_LOAD(name)                                                                        \
  template <class T>                                                                                  \
  __attribute__((always_inline)) inline T name(const T *p, NT_CALLER) {                               \
    nt::emulator::note_access(p, sizeof(T), alignof(T), false, file, line);                           \
    return *p;                                                                                        \
  }
#define NT_EMULATED_STORE(name)                                                                       \
  template <class T>                                                                                  \
  __attribute__((always_inline)) inline void name(T *p, typename std::common_type<T>::type value, NT_CALLER) { \
    nt::emulator::note_access(p, sizeof(T), alignof(T), true, file, line);                            \
    *p = value;                                                                                       \
  }
NT_EMULATED_LOAD(__ldg)
NT_EMULATED_LOAD(__ldca)
NT_EMULATED_LOAD(__ldcg)
NT_EMULATED_LOAD(__ldcs)
NT_EMULATED_LOAD(__ldlu)
NT_EMULATED_STORE(__stcg)
NT_EMULATED_STORE(__stcs)
NT_EMULATED_STORE(__stwb)
#undef NT_EMULATED_LOAD
#undef NT_EMULATED_STORE

// ---- bits

inline unsigned __float_as_uint(float x) {
  unsigned bits;
  memcpy(&bits, &x, 4);
  return bits;
}
inline int __float_as_int(float x) { return int(__float_as_uint(x)); }
inline float __uint_as_float(unsigned bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
inline float __int_as_float(int bits) { return __uint_as_float(unsigned(bits)); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }
inline unsigned __brev(unsigned x) {
  unsigned y = 0;
  for (int i = 0; i < 32; i++) y |= (x >> i & 1u) << (31 - i);
  return y;
}
// Byte i of the result is byte (selector's nibble i) of the eight in y:x.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = uint64_t(y) << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; i++) {
    const unsigned nibble = selector >> (4 * i) & 15u;
    unsigned byte = unsigned(bytes >> (8 * (nibble & 7u))) & 0xFFu;
    if (nibble & 8u) byte = byte & 0x80u ? 0xFFu : 0u;
    result |= byte << (8 * i);
  }
  return result;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline int __mulhi(int a, int b) { return int(int64_t(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}

// ---- arithmetic

// glibc declares functions of these names, without defining them: hence macros.
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanf(x) tanf(x)
#define __powf(x, y) powf(x, y)
#define __sincosf(x, s, c) sincosf(x, s, c)

inline float rsqrtf(float x) { return float(1.0 / sqrt(double(x))); }
inline float __frsqrt_rn(float x) { return float(1.0 / sqrt(double(x))); }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline int __float2int_rn(float x) { return int(rintf(x)); }
inline int __float2int_rz(float x) { return int(x); }
inline int __float2int_rd(float x) { return int(floorf(x)); }
inline int __float2int_ru(float x) { return int(ceilf(x)); }
inline unsigned __float2uint_rn(float x) { return unsigned(rintf(x)); }
inline unsigned __float2uint_rz(float x) { return unsigned(x); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }
inline float __ull2float_rn(unsigned long long x) { return float(x); }
inline float __double2float_rn(double x) { return float(x); }

inline void sincospif(float x, float *sine, float *cosine) {
  // x mod 2 is exact, so that π comes in only after the reduction, as in CUDA.
  const double turn = M_PI * fmod(double(x), 2.0);
  *sine = float(sin(turn));
  *cosine = float(cos(turn));
}
inline float sinpif(float x) { return float(sin(M_PI * fmod(double(x), 2.0))); }
inline float cospif(float x) { return float(cos(M_PI * fmod(double(x), 2.0))); }

#define NT_EMULATED_MIN_MAX(type)                                   \
  inline type min(type a, type b) { return b < a ? b : a; }         \
  inline type max(type a, type b) { return a < b ? b : a; }
NT_EMULATED_MIN_MAX(int)
NT_EMULATED_MIN_MAX(unsigned)
NT_EMULATED_MIN_MAX(long)
NT_EMULATED_MIN_MAX(unsigned long)
NT_EMULATED_MIN_MAX(long long)
NT_EMULATED_MIN_MAX(unsigned long long)
#undef NT_EMULATED_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

#define __trap() ::nt::emulator::fail("%s:%d: __trap", __FILE__, __LINE__)
inline void __nanosleep(unsigned) {}
