// A file that is cut short while it is mapped, or cannot be read any more, makes whoever touches it die of SIGBUS. Here
// such a fault in a watched range is survived: the rest of the range becomes zeros, and a flag says which range it was,
// for the caller to look at before it believes a result. All other faults go where they went before.
//
// Everything that the handler does is safe in a signal handler: atomics and the mmap system call.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))

enum { kRanges = 4096, kStackBytes = 1 << 17 };

static struct {
  _Atomic uintptr_t begin, end;  // end 0: free
} ranges[kRanges];
static _Atomic int32_t used;     // slots that may be in use lie below
static _Atomic int32_t faulted;  // the slot of the first fault, counted from 1; 0: none
static struct sigaction before;
static uintptr_t page_bytes;

// The fault goes to the handler that was there before us; where there was none, it happens again and ends the process.
static void pass_on(int signal, siginfo_t *info, void *context) {
  if ((before.sa_flags & SA_SIGINFO) != 0) {
    before.sa_sigaction(signal, info, context);
  } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
    before.sa_handler(signal);
  } else {
    sigaction(signal, &before, NULL);
  }
}

static void on_fault(int signal, siginfo_t *info, void *context) {
  const int error = errno;
  const uintptr_t at = (uintptr_t)info->si_addr;
  for (int32_t i = 0, count = atomic_load(&used); i < count; i++) {
    const uintptr_t end = atomic_load(&ranges[i].end);
    if (at < atomic_load(&ranges[i].begin) || at >= end) continue;
    const uintptr_t page = at / page_bytes * page_bytes;
    void *zeros = mmap((void *)page, end - page, PROT_READ, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (zeros == MAP_FAILED) break;
    int32_t none = 0;
    atomic_compare_exchange_strong(&faulted, &none, i + 1);
    errno = error;
    return;
  }
  errno = error;
  pass_on(signal, info, context);
}

// Takes over SIGBUS, once. Returns 0, or errno.
API int32_t nt_faults_install(void) {
  static int32_t installed;
  // A handler's frame below the stack pointer may overwrite what oneDNN's code keeps there: it gets a stack of its own.
  static char stack[kStackBytes];
  if (installed) return 0;
  page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
  stack_t own = {.ss_sp = stack, .ss_size = sizeof stack, .ss_flags = 0}, present;
  if (sigaltstack(NULL, &present) == 0 && (present.ss_flags & SS_DISABLE) != 0) sigaltstack(&own, NULL);
  struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  sigemptyset(&action.sa_mask);
  if (sigaction(SIGBUS, &action, &before) != 0) return errno;
  installed = 1;
  return 0;
}

// Watches a mapped range; returns its slot, or -1 where there are too many. Called by one thread at a time.
API int32_t nt_faults_watch(void *address, int64_t bytes) {
  for (int32_t i = 0; i < kRanges; i++) {
    if (atomic_load(&ranges[i].end) != 0) continue;
    atomic_store(&ranges[i].begin, (uintptr_t)address);
    atomic_store(&ranges[i].end, (uintptr_t)address + (uintptr_t)bytes);
    if (i >= atomic_load(&used)) atomic_store(&used, i + 1);
    return i;
  }
  return -1;
}

// To call before the range is unmapped. What was said of it is forgotten.
API void nt_faults_forget(int32_t slot) {
  if (slot < 0 || slot >= kRanges) return;
  atomic_store(&ranges[slot].end, 0);
  int32_t own = slot + 1;
  atomic_compare_exchange_strong(&faulted, &own, 0);
}

// Where `faulted` lies, which costs less to look at than a call.
API const void *nt_faults_flag(void) { return (const void *)&faulted; }
