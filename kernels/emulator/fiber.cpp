#include "fiber.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(NT_EMULATED_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(NT_EMULATED_TSAN)
extern "C" {
void *__tsan_get_current_fiber(void);
void *__tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
}
#endif

asm(R"(
.text
.globl nt_emulator_switch
.hidden nt_emulator_switch
.type nt_emulator_switch,@function
nt_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size nt_emulator_switch,.-nt_emulator_switch
)");

namespace nt::emulator {

void fiber_restart(Fiber *fiber, void (*entry)()) {
  void **top = reinterpret_cast<void **>(fiber->stack + kStackBytes - fiber->offset);
  *--top = nullptr;  // where entry would return to; also keeps the stack 16-byte aligned as after a call
  *--top = reinterpret_cast<void *>(entry);
  top -= 6;
  memset(top, 0, 6 * sizeof(void *));
  fiber->stack_pointer = top;
  fiber->leaving = false;
  fiber->fake_stack = nullptr;
#if defined(NT_EMULATED_ASAN)
  __asan_unpoison_memory_region(fiber->stack, kStackBytes);
#endif
}

Fiber *fiber_create(void (*entry)()) {
  void *memory = mmap(nullptr, kStackGuard + kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  Fiber *fiber = static_cast<Fiber *>(calloc(1, sizeof(Fiber)));
  if (memory == MAP_FAILED || fiber == nullptr) abort();
  mprotect(memory, kStackGuard, PROT_NONE);
  fiber->stack = static_cast<char *>(memory) + kStackGuard;
  static size_t created;
  fiber->offset = created++ % 64 * 320;
#if defined(NT_EMULATED_TSAN)
  fiber->tsan_fiber = __tsan_create_fiber(0);
#endif
  fiber_restart(fiber, entry);
  return fiber;
}

void fiber_adopt_thread(Fiber *fiber) {
  memset(fiber, 0, sizeof *fiber);
#if defined(NT_EMULATED_TSAN)
  fiber->tsan_fiber = __tsan_get_current_fiber();
#endif
#if defined(NT_EMULATED_ASAN)
  // A stack that AddressSanitizer accepts as the one switched to: it need not be exact.
  char here;
  fiber->stack = reinterpret_cast<char *>(reinterpret_cast<uintptr_t>(&here) & ~uintptr_t(4095)) - kStackBytes / 2;
#endif
}

#if defined(NT_EMULATED_ASAN) || defined(NT_EMULATED_TSAN)
extern "C" void nt_emulator_switch(void **save, void *stack_pointer);

void fiber_switch(Fiber *from, Fiber *to) {
#if defined(NT_EMULATED_ASAN)
  __sanitizer_start_switch_fiber(from->leaving ? nullptr : &from->fake_stack, to->stack, kStackBytes);
#endif
#if defined(NT_EMULATED_TSAN)
  constexpr unsigned kNoSynchronization = 1;
  __tsan_switch_to_fiber(to->tsan_fiber, kNoSynchronization);
#endif
  nt_emulator_switch(&from->stack_pointer, to->stack_pointer);
#if defined(NT_EMULATED_ASAN)
  __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}
#endif

void fiber_entered() {
#if defined(NT_EMULATED_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

}  // namespace nt::emulator
