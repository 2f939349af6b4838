// Says what a kernel did wrong: which kernel, block and thread, and for a fault, whose memory the address lies behind.
#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <ucontext.h>
#include <unistd.h>

#include "scheduler.h"

namespace nt::emulator {
namespace {

const void *kernel_function;
char report[2048] = "no report";

#if defined(NT_EMULATED_ASAN) || defined(NT_EMULATED_TSAN)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

void write_report(const char *text) {
  int length = snprintf(report, sizeof report, "%s: %s", kernel_name(kernel_function), text);
  if (current != nullptr && length < int(sizeof report)) {
    const uint3 block = block_index, thread = current->index;
    snprintf(report + length, sizeof report - size_t(length), "\n  in block (%u, %u, %u), thread (%u, %u, %u)", block.x,
             block.y, block.z, thread.x, thread.y, thread.z);
  }
  fprintf(stderr, "neftune emulator: %s\n", report);
  fflush(stderr);
  if (kSanitized) _exit(86);
}

// The mangled name of the function that starts at `address`, from its file's symbol table: kernels are not exported.
bool find_symbol(const void *address, char *name, size_t size) {
  Dl_info info;
  if (dladdr(address, &info) == 0 || info.dli_fname == nullptr) return false;
  const int file = open(info.dli_fname, O_RDONLY | O_CLOEXEC);
  struct stat status;
  if (file < 0) return false;
  const bool known = fstat(file, &status) == 0;
  const size_t bytes = known ? size_t(status.st_size) : 0;
  void *mapped = bytes > sizeof(ElfW(Ehdr)) ? mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file, 0) : MAP_FAILED;
  close(file);
  if (mapped == MAP_FAILED) return false;
  const char *image = static_cast<const char *>(mapped);
  const auto *header = reinterpret_cast<const ElfW(Ehdr) *>(image);
  const auto *sections = reinterpret_cast<const ElfW(Shdr) *>(image + header->e_shoff);
  // A shared library's addresses count from where it was loaded, an executable's too if it is position-independent.
  const uintptr_t base = header->e_type == ET_DYN ? reinterpret_cast<uintptr_t>(info.dli_fbase) : 0;
  const uintptr_t wanted = reinterpret_cast<uintptr_t>(address) - base;
  bool found = false;
  for (int i = 0; i < header->e_shnum && !found; i++) {
    if (sections[i].sh_type != SHT_SYMTAB) continue;
    const auto *symbols = reinterpret_cast<const ElfW(Sym) *>(image + sections[i].sh_offset);
    const char *names = image + sections[sections[i].sh_link].sh_offset;
    for (size_t j = 0; j < sections[i].sh_size / sizeof *symbols && !found; j++) {
      if (symbols[j].st_value != wanted || ELF64_ST_TYPE(symbols[j].st_info) != STT_FUNC) continue;
      snprintf(name, size, "%s", names + symbols[j].st_name);
      found = true;
    }
  }
  munmap(mapped, bytes);
  return found;
}

void remove_all(char *text, const char *part) {
  const size_t length = strlen(part);
  for (char *at = strstr(text, part); at != nullptr; at = strstr(at, part))
    memmove(at, at + length, strlen(at + length) + 1);
}

// ---- faults

constexpr int kFaults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
constexpr int kFaultCount = sizeof kFaults / sizeof *kFaults;
struct sigaction actions_before[kFaultCount];
stack_t stack_before;
char handler_stack[64 * 1024];
pthread_t launching;

void forward(int number, siginfo_t *info, void *context) {
  for (int i = 0; i < kFaultCount; i++) {
    if (kFaults[i] != number) continue;
    const struct sigaction &before = actions_before[i];
    if (before.sa_flags & SA_SIGINFO) return before.sa_sigaction(number, info, context);
    if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) return before.sa_handler(number);
    sigaction(number, &before, nullptr);  // and the instruction faults again
  }
}

void on_fault(int number, siginfo_t *info, void *context) {
  if (current == nullptr || !pthread_equal(pthread_self(), launching)) return forward(number, info, context);
  const char *address = static_cast<const char *>(info->si_addr);
  auto *registers = static_cast<ucontext_t *>(context)->uc_mcontext.gregs;
  char place[256], text[1024];
  if (number == SIGFPE) {
    snprintf(place, sizeof place, "an integer division by zero");
  } else if (number == SIGILL) {
    snprintf(place, sizeof place, "an illegal instruction");
  } else if (address < running_stack() && address >= running_stack() - kStackGuard) {
    snprintf(place, sizeof place, "over %zu KiB of local memory", kStackBytes / 1024);
  } else {
    char owner[192];
    if (describe_shared(address, owner, sizeof owner) || describe_memory(address, owner, sizeof owner)) {
      snprintf(place, sizeof place, "an access outside: %s", owner);
    } else {
      snprintf(place, sizeof place, "an access to %p, which is no device memory", info->si_addr);
    }
  }
  Dl_info library = {};
  void *instruction = reinterpret_cast<void *>(registers[REG_RIP]);
  dladdr(instruction, &library);
  snprintf(text, sizeof text, "%s\n  (addr2line -Cife %s %#zx)", place, library.dli_fname ? library.dli_fname : "?",
           size_t(static_cast<char *>(instruction) - static_cast<char *>(library.dli_fbase)));
  write_report(text);
  // Go on in abandon_block, on the top of the broken thread's stack.
  registers[REG_RSP] = greg_t((reinterpret_cast<uintptr_t>(running_stack()) + kStackBytes) & ~uintptr_t(15)) - 8;
  registers[REG_RIP] = greg_t(reinterpret_cast<uintptr_t>(&abandon_block));
}

}  // namespace

void report_begin_grid(const void *kernel) { kernel_function = kernel; }

const char *last_report() { return report; }

const char *kernel_name(const void *kernel) {
  static char name[1024];
  char mangled[512];
  if (kernel == nullptr) return "host code";
  if (!find_symbol(kernel, mangled, sizeof mangled)) {
    snprintf(name, sizeof name, "kernel at %p", kernel);
    return name;
  }
  int status = 0;
  char *readable = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  snprintf(name, sizeof name, "%.1000s", status == 0 ? readable : mangled);
  free(readable);
  // void nt::(anonymous namespace)::x_kernel<float>(float*, …) → x_kernel<float>
  remove_all(name, "(anonymous namespace)::");
  remove_all(name, "nt::");
  if (strncmp(name, "void ", 5) == 0) memmove(name, name + 5, strlen(name + 5) + 1);
  char *parameters = strchr(name, '(');
  if (parameters != nullptr) *parameters = '\0';
  return name;
}

void fail(const char *format, ...) {
  char text[1536];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  write_report(text);
  if (current == nullptr) abort();
  abandon_block();
}

cudaError_t fail_host(const char *format, ...) {
  char text[1536];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  write_report(text);
  return cudaErrorLaunchFailure;
}

void catch_faults() {
  if (kSanitized) return;  // they catch faults themselves
  launching = pthread_self();
  stack_t stack = {};
  stack.ss_sp = handler_stack;
  stack.ss_size = sizeof handler_stack;
  sigaltstack(&stack, &stack_before);
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  for (int i = 0; i < kFaultCount; i++) sigaction(kFaults[i], &action, &actions_before[i]);
}

void release_faults() {
  if (kSanitized) return;
  for (int i = 0; i < kFaultCount; i++) sigaction(kFaults[i], &actions_before[i], nullptr);
  sigaltstack(&stack_before, nullptr);
}

}  // namespace nt::emulator
