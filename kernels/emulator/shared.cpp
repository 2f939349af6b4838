// Shared memory of the running block. Every block finds it filled with 0xFF (NaN in either type), and every variable
// followed by bytes that nobody may touch. Variables stand no better aligned than their type asks for.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "scheduler.h"

#if defined(NT_EMULATED_ASAN)
#include <sanitizer/asan_interface.h>
#define NT_FORBID(p, bytes) __asan_poison_memory_region(p, bytes)
#define NT_ALLOW(p, bytes) __asan_unpoison_memory_region(p, bytes)
#else
#define NT_FORBID(p, bytes) (void)0
#define NT_ALLOW(p, bytes) (void)0
#endif

namespace nt::emulator {
namespace {

constexpr size_t kStaticLimit = 48 * 1024;       // CUDA's, for the variables of one kernel
constexpr size_t kPlainLimit = 48 * 1024;        // CUDA's, with dynamic memory, of a kernel that has not been allowed more
constexpr size_t kStaticRoom = 4 * kStaticLimit;  // with what stands between them
constexpr size_t kRedZone = 128;
constexpr size_t kPage = 4096;
constexpr int kMaxVariables = 64;

struct Variable {
  const void *key;
  char *start;
  size_t bytes;
};
Variable variables[kMaxVariables];
int variable_count;
size_t static_used, static_bytes;  // of static_memory, with red zones; of the variables alone
char *static_memory;
char *dynamic_memory;  // ends at a page that faults, or fewer than 128 bytes before
size_t dynamic_bytes, dynamic_slack;
int limit;  // bytes a block may have

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

char *map(size_t bytes) {
  void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) abort();
  return static_cast<char *>(p);
}

struct Mapping {
  char *start;
  size_t bytes;  // without the page that faults
} dynamic_mapping;

void map_dynamic(size_t bytes) {
  const size_t room = round_up(bytes, kPage);
  if (dynamic_mapping.bytes < room) {
    if (dynamic_mapping.start != nullptr) munmap(dynamic_mapping.start, dynamic_mapping.bytes + kPage);
    dynamic_mapping = {map(room + kPage), room};
    mprotect(dynamic_mapping.start + room, kPage, PROT_NONE);
  }
  dynamic_bytes = bytes;
  dynamic_slack = round_up(bytes, 128) - bytes;
  dynamic_memory = bytes == 0 ? nullptr : dynamic_mapping.start + dynamic_mapping.bytes - bytes - dynamic_slack;
}

#if !defined(NT_EMULATED_ASAN)
// The first byte of [p, p + bytes) that is no longer 0xFF, or null.
const char *changed(const char *p, size_t bytes) {
  for (size_t i = 0; i < bytes; i++)
    if (p[i] != char(0xFF)) return p + i;
  return nullptr;
}
#endif

}  // namespace

cudaError_t shared_check(size_t bytes) {
  if (limit == 0) cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
  if (bytes <= size_t(limit)) return cudaSuccess;
  return fail_host("%zu bytes of dynamic shared memory, the device has %d a block", bytes, limit);
}

void shared_begin_grid(size_t bytes) {
  if (static_memory == nullptr) static_memory = map(kStaticRoom);
  NT_ALLOW(dynamic_mapping.start, dynamic_mapping.bytes);
  map_dynamic(bytes);
}

void shared_begin_block() {
#if defined(NT_EMULATED_TSAN)
  // Fresh pages: blocks follow each other in the same memory only here. Filled by the host, as a fill by the thread
  // that comes first to a variable would look like a race.
  munmap(static_memory, kStaticRoom);
  static_memory = map(kStaticRoom);
  memset(static_memory, 0xFF, kStaticRoom);
  if (dynamic_mapping.start != nullptr) munmap(dynamic_mapping.start, dynamic_mapping.bytes + kPage);
  dynamic_mapping = {};
  map_dynamic(dynamic_bytes);
#endif
  if (dynamic_memory != nullptr) {
    NT_ALLOW(dynamic_memory, dynamic_bytes + dynamic_slack);
    memset(dynamic_memory, 0xFF, dynamic_bytes + dynamic_slack);
    NT_FORBID(dynamic_memory + dynamic_bytes, dynamic_slack);
  }
  NT_FORBID(static_memory, kStaticRoom);
  variable_count = 0;
  static_used = static_bytes = 0;
}

bool shared_end_block() {
#if !defined(NT_EMULATED_ASAN)
  const char *end = static_memory;
  for (int i = 0; i <= variable_count; i++) {
    const char *start = i < variable_count ? variables[i].start : static_memory + static_used;
    const char *touched = changed(end, size_t(start - end));
    if (touched != nullptr && i > 0) {
      fail_host("a write to byte %td of a shared variable of %zu bytes",
                touched - variables[i - 1].start, variables[i - 1].bytes);
      return false;
    }
    if (i < variable_count) end = variables[i].start + variables[i].bytes;
  }
  if (dynamic_memory != nullptr && changed(dynamic_memory + dynamic_bytes, dynamic_slack) != nullptr) {
    fail_host("a write past the end of %zu bytes of dynamic shared memory", dynamic_bytes);
    return false;
  }
#endif
  return true;
}

void *dynamic_shared() {
  if (dynamic_memory == nullptr) fail("the launch gives no dynamic shared memory");
  return dynamic_memory;
}

void *shared_variable(const void *key, size_t bytes, size_t alignment) {
  for (int i = 0; i < variable_count; i++)
    if (variables[i].key == key) return variables[i].start;
  static_bytes += round_up(bytes, alignment);
  if (static_bytes > kStaticLimit) fail("%zu bytes of shared variables, %zu are allowed", static_bytes, kStaticLimit);
  if (static_bytes + dynamic_bytes > size_t(limit))
    fail("%zu + %zu bytes of shared memory, %d are allowed", static_bytes, dynamic_bytes, limit);
  if (dynamic_bytes <= kPlainLimit && static_bytes + dynamic_bytes > kPlainLimit)  // launch (gpu.h) sees the dynamic part
    fail("%zu + %zu bytes of shared memory, and no more than %zu have been allowed", static_bytes, dynamic_bytes,
         kPlainLimit);
  // At an odd multiple of the alignment.
  const size_t start = round_up(static_used + kRedZone, 2 * alignment) + alignment;
  if (variable_count == kMaxVariables || start + bytes + kRedZone > kStaticRoom) fail("too many shared variables");
  const size_t used = start + bytes + kRedZone;
#if !defined(NT_EMULATED_TSAN)
  NT_ALLOW(static_memory + static_used, used - static_used);
  memset(static_memory + static_used, 0xFF, used - static_used);
  NT_FORBID(static_memory + static_used, used - static_used);
#endif
  static_used = used;
  Variable &added = variables[variable_count++];
  added = {key, static_memory + start, bytes};
  NT_ALLOW(added.start, bytes);
  return added.start;
}

bool is_shared(const void *p) {
  const char *c = static_cast<const char *>(p);
  return (c >= static_memory && c < static_memory + kStaticRoom) ||
         (dynamic_memory != nullptr && c >= dynamic_memory && c < dynamic_memory + dynamic_bytes);
}

void check_shared(const void *p, size_t bytes, const char *what, const char *file, int line) {
  const char *c = static_cast<const char *>(p);
  if (dynamic_memory != nullptr && c >= dynamic_memory && c + bytes <= dynamic_memory + dynamic_bytes) return;
  for (int i = 0; i < variable_count; i++)
    if (c >= variables[i].start && c + bytes <= variables[i].start + variables[i].bytes) return;
  fail("%s:%d: %s is outside shared memory", file, line, what);
}

bool describe_shared(const void *p, char *text, size_t size) {
  const char *c = static_cast<const char *>(p);
  const char *end = dynamic_mapping.start + dynamic_mapping.bytes;
  if (dynamic_memory == nullptr || c < dynamic_mapping.start || c >= end + kPage) return false;
  snprintf(text, size, "byte %td of %zu bytes of dynamic shared memory", c - dynamic_memory, dynamic_bytes);
  return true;
}

}  // namespace nt::emulator
