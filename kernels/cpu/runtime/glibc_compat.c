// What a static libstdc++ or libgcc from a recent compiler expects of a recent glibc, defined here so that the library
// also loads on glibc 2.28. Weak: a definition that is really there wins at link time.
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WEAK __attribute__((weak, visibility("hidden")))

// glibc 2.32: "this process has one thread". Never claimed: reference counts stay atomic.
WEAK char __libc_single_threaded = 0;

// glibc 2.35: a fast way to unwind tables; −1 makes libgcc fall back to dl_iterate_phdr.
WEAK int _dl_find_object(void *address, void *result) {
  (void)address;
  (void)result;
  return -1;
}

// glibc 2.36, behind std::random_device.
WEAK uint32_t arc4random(void) {
  uint32_t word = 0;
  while (syscall(SYS_getrandom, &word, sizeof word, 0) != (long)sizeof word && errno == EINTR) {
  }
  return word;
}

// libstdc++ up to GCC 4.8 had a polymorphic std::__future_base::_State_base; oneDNN's binary was built against it. Newer
// libstdc++ keeps its vtable only in the shared library, so it is put together here: {vptr, result, …}, where the
// result's first virtual function destroys it (Itanium C++ ABI).
typedef struct {
  void *vtable;
  void (***result)(void *);
} FutureState;

static void future_state_destroy(FutureState *state) {
  if (state->result) (**state->result)(state->result);
  state->result = NULL;
}

extern void _ZdlPv(void *);  // operator delete
static void future_state_delete(FutureState *state) {
  future_state_destroy(state);
  _ZdlPv(state);
}

__attribute__((visibility("default"))) void *const _ZTVNSt13__future_base11_State_baseE[4] = {
    NULL, NULL, (void *)future_state_destroy, (void *)future_state_delete};

// The static unwinder's symbols are hidden; libgcc_s.c hands this one on to oneDNN. A bare jump, because the unwinder
// starts from its caller's frame, which must be oneDNN's.
__attribute__((naked, visibility("default"))) void nt_unwind_resume(void) { __asm__("jmp _Unwind_Resume"); }
