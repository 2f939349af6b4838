// Whether products of pairs of bf16 are faster than those of floats.
#pragma once

namespace nt {

// On some CPUs the instruction for pairs (vdpbf16ps) does twice the work of one for floats (vfmadd231ps) in more than twice
// the time: four times on Intel's Sapphire Rapids, whose fast way is AMX. Both are timed, for some 50 µs.
bool pairs_are_faster();

}  // namespace nt
