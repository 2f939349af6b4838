#include "pairs.h"

#ifdef __AVX512BF16__

#include <stdint.h>
#include <time.h>

#include "word_tiles.h"

namespace nt {
namespace {

double seconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

// The shortest time of some rounds: what else runs on the core can only lengthen one.
template <bool Pairs>
double time_of_products() {
  constexpr int kRounds = 8, kTimes = 500, kChains = 12;  // more than are on their way at once
  Vec factor = splat(1.0f), sums[kChains] = {};
  double shortest = 1;
  for (int round = 0; round < kRounds; round++) {
    const double begin = seconds();
    for (int i = 0; i < kTimes; i++) {
      asm volatile("" : "+v"(factor));  // not known to be what it was before
#pragma unroll
      for (int j = 0; j < kChains; j++) sums[j] = multiply_add<Pairs>(factor, factor, sums[j]);
    }
#pragma unroll
    for (int j = 0; j < kChains; j++) asm volatile("" : "+v"(sums[j]));
    const double took = seconds() - begin;
    if (took < shortest) shortest = took;
  }
  return shortest;
}

}  // namespace

bool pairs_are_faster() { return time_of_products<true>() < 2 * time_of_products<false>(); }

}  // namespace nt

#else

namespace nt {

bool pairs_are_faster() { return false; }

}  // namespace nt

#endif
