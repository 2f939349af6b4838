// The codes of dynamic_map.h without a search. The exponent of a value and the first seven bits of its mantissa say how
// many of the middles between neighbors of the map are smaller, but for at most one, which a comparison settles.
#pragma once
#include "../dynamic_map.h"
#include "vec.h"

namespace nt {

constexpr float kSignedMap[256] = {NT_DYNAMIC_MAP};
constexpr float kUnsignedMap[256] = {NT_DYNAMIC_MAP_UNSIGNED};

constexpr uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }
constexpr float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }

// The middles above 0 of a map whose 0 has the code `zero`, and the buckets that values fall into by their first bits.
template <int zero>
struct Middles {
  static constexpr int kCount = 255 - zero;
  static constexpr int kShift = 16;  // leaves sign, exponent and seven bits
  static constexpr int kBuckets = 3000;

  float values[kCount + 1] = {};   // ascending, and infinity
  int32_t first = 0;               // bucket of the first; all that is smaller counts to it
  uint8_t smaller[kBuckets] = {};  // middles below a bucket

  constexpr explicit Middles(const float (&map)[256]) {
    for (int i = 0; i < kCount; i++) values[i] = 0.5f * (map[zero + i] + map[zero + i + 1]);
    values[kCount] = float_of(0x7F800000);
    first = int32_t(bits_of(values[0]) >> kShift);
    int count = 0;
    for (int bucket = 0; bucket <= last(); bucket++) {
      const float least = float_of(uint32_t(first + bucket) << kShift);
      while (values[count] < least) count++;
      smaller[bucket] = uint8_t(count);
    }
  }

  constexpr int last() const { return int(bits_of(1.0f) >> kShift) - first; }

  // No bucket holds two middles, and words of bytes can be read from all.
  constexpr bool is_valid() const {
    if (last() + 4 > kBuckets) return false;
    for (int bucket = 0; bucket < last(); bucket++)
      if (smaller[bucket + 1] - smaller[bucket] > 1) return false;
    return true;
  }
};

constexpr Middles<127> kSignedMiddles(kSignedMap);
constexpr Middles<0> kUnsignedMiddles(kUnsignedMap);
static_assert(kSignedMiddles.is_valid() && kUnsignedMiddles.is_valid(), "a comparison settles the code");

// How many middles are below a, from 0 to 1, or, where `or_equal`, at most a.
template <int zero>
inline VecI count_below(const Middles<zero> &middles, Vec a, VecI or_equal) {
  VecI bucket = ((VecI)a >> Middles<zero>::kShift) - middles.first;
  bucket &= bucket > 0;
  const VecI count = lookup(middles.smaller, bucket);
  const Vec middle = lookup(middles.values, count);
  return count - (a > middle) - ((a == middle) & or_equal);
}

// nt_first_moment_code and nt_second_moment_code where |x| is at most absmax, which is finite and not 0.
inline VecI first_moment_codes(Vec x, float absmax) {
  const VecI bits = (VecI)(x / splat(absmax)), negative = bits < 0;
  VecI count = count_below(kSignedMiddles, (Vec)(bits & 0x7FFFFFFF), negative);
  count += negative & (count > 127);  // the map has 1, and no -1
  return 127 + ((count ^ negative) - negative);
}
inline VecI second_moment_codes(Vec x, float absmax) {
  const VecI count = count_below(kUnsignedMiddles, x / splat(absmax), VecI{});
  return count - ((count == 0) & (x > splat(0.0f)));
}

}  // namespace nt
