// Atomics on integers. On floats they are refused: their order, and so a sum's last bits, would differ from run to run.
#pragma once
#include <stdint.h>

#include <type_traits>

#include "runtime.h"

#define NT_EMULATED_ATOMIC(name, expression)                                                                \
  template <class T, class U>                                                                               \
  inline T name(T *address, U operand) {                                                                    \
    static_assert(std::is_integral<T>::value, #name ": float atomics have no fixed order");                 \
    const T value = static_cast<T>(operand);                                                                \
    T old = __atomic_load_n(address, __ATOMIC_RELAXED), next;                                               \
    do {                                                                                                    \
      next = (expression);                                                                                  \
    } while (!__atomic_compare_exchange_n(address, &old, next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)); \
    return old;                                                                                             \
  }
NT_EMULATED_ATOMIC(atomicAdd, static_cast<T>(old + value))
NT_EMULATED_ATOMIC(atomicSub, static_cast<T>(old - value))
NT_EMULATED_ATOMIC(atomicMin, value < old ? value : old)
NT_EMULATED_ATOMIC(atomicMax, value > old ? value : old)
NT_EMULATED_ATOMIC(atomicAnd, static_cast<T>(old & value))
NT_EMULATED_ATOMIC(atomicOr, static_cast<T>(old | value))
NT_EMULATED_ATOMIC(atomicXor, static_cast<T>(old ^ value))
NT_EMULATED_ATOMIC(atomicExch, value)
NT_EMULATED_ATOMIC(atomicInc, old >= value ? T(0) : static_cast<T>(old + 1))
NT_EMULATED_ATOMIC(atomicDec, old == 0 || old > value ? value : static_cast<T>(old - 1))
#undef NT_EMULATED_ATOMIC

template <class T>
inline T atomicCAS(T *address, T expected, T desired) {
  static_assert(std::is_integral<T>::value, "atomicCAS is for integers");
  __atomic_compare_exchange_n(address, &expected, desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}

inline void __threadfence() { nt::emulator::memory_fence(); }
inline void __threadfence_block() { nt::emulator::memory_fence(); }
inline void __threadfence_system() { nt::emulator::memory_fence(); }
