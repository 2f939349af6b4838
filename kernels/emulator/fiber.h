// Stacks that take turns on one OS thread. A switch saves the six registers that calls preserve and swaps the stack
// pointer: 15 ns where swapcontext, which makes a system call, takes 200.
#pragma once
#include <stddef.h>

#if defined(NT_EMULATED_TSAN)
extern "C" {
void __tsan_acquire(void *);
void __tsan_release(void *);
}
// What happened before a release has happened for whoever acquires the same token later: all that ThreadSanitizer is
// told of the order of CUDA threads, so that it reports what only the emulator's own order made safe.
#define NT_RELEASE(token) __tsan_release(token)
#define NT_ACQUIRE(token) __tsan_acquire(token)
#else
#define NT_RELEASE(token) (void)(token)
#define NT_ACQUIRE(token) (void)(token)
#endif

#pragma GCC visibility push(hidden)
namespace nt::emulator {

constexpr size_t kStackBytes = 256 * 1024;
constexpr size_t kStackGuard = 64 * 1024;

struct Fiber {
  void *stack_pointer;
  char *stack;        // its lowest address; below it lie kStackGuard bytes that fault
  size_t offset;      // of its first frame below the highest: not the same cache sets for all
  bool leaving;       // its frames are never returned to (AddressSanitizer frees its fake stack)
  void *fake_stack;   // AddressSanitizer's
  void *tsan_fiber;   // ThreadSanitizer's
};

// A fiber on a stack of its own that will call entry() when first switched to. entry never returns.
Fiber *fiber_create(void (*entry)());
// Makes a fiber, whatever it was doing, start from entry() again.
void fiber_restart(Fiber *fiber, void (*entry)());
// The fiber that stands for the calling OS thread's own stack.
void fiber_adopt_thread(Fiber *fiber);
#if defined(NT_EMULATED_ASAN) || defined(NT_EMULATED_TSAN)
void fiber_switch(Fiber *from, Fiber *to);
#else
extern "C" void nt_emulator_switch(void **save, void *stack_pointer);
inline void fiber_switch(Fiber *from, Fiber *to) { nt_emulator_switch(&from->stack_pointer, to->stack_pointer); }
#endif
// The first thing entry() calls.
void fiber_entered();

}  // namespace nt::emulator
#pragma GCC visibility pop
