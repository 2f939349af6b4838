// Device memory: each allocation has pages of its own, ends at a page that faults (or fewer than 256 bytes before one,
// as it starts 256-byte aligned), and is filled with 0xFF, NaN in either type. The bytes around it, up to the pages'
// borders, are looked at when it is freed.
#include "device_memory.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "scheduler.h"
#include "stream.h"

#if defined(NT_EMULATED_ASAN)
#include <sanitizer/asan_interface.h>
#endif

namespace nt::emulator {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kAlignment = 256;
constexpr size_t kFilled = size_t(256) << 20;  // of very large allocations only the beginning is filled

struct Allocation {
  char *start;
  size_t bytes;
  char *pages;  // a page that faults, the pages, another that faults
  size_t mapped;
};

pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
Allocation *allocations;  // ascending
size_t count, capacity, in_use;

// What the emulated device has: 16 GiB, or as many MiB as NEFTUNE_EMULATOR_MEMORY says.
size_t total_bytes() {
  static const size_t total = [] {
    const char *chosen = getenv("NEFTUNE_EMULATOR_MEMORY");
    return chosen != nullptr ? size_t(atoll(chosen)) << 20 : size_t(16) << 30;
  }();
  return total;
}

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

// How many allocations start at or before p.
size_t count_before(const char *p) {
  size_t low = 0, high = count;
  while (low < high) {
    const size_t middle = (low + high) / 2;
    if (allocations[middle].start <= p) low = middle + 1;
    else high = middle;
  }
  return low;
}

bool changed(const char *from, const char *to) {
  for (; from < to; from++)
    if (*from != char(0xFF)) return true;
  return false;
}

bool insert(const Allocation &added) {
  if (count == capacity) {
    const size_t larger = capacity > 0 ? 2 * capacity : 1024;
    void *grown = realloc(allocations, larger * sizeof(Allocation));
    if (grown == nullptr) return false;
    allocations = static_cast<Allocation *>(grown);
    capacity = larger;
  }
  const size_t at = count_before(added.start);
  memmove(allocations + at + 1, allocations + at, (count - at) * sizeof(Allocation));
  allocations[at] = added;
  count++;
  in_use += added.bytes;
  return true;
}

}  // namespace

void memory_info(size_t *free_bytes, size_t *all_bytes) {
  *all_bytes = total_bytes();
  *free_bytes = in_use < *all_bytes ? *all_bytes - in_use : 0;
}

cudaError_t memory_allocate(void **address, size_t bytes) {
  *address = nullptr;
  if (in_use + bytes > total_bytes()) return cudaErrorMemoryAllocation;
  const size_t room = round_up(bytes, kPage), mapped = room + 2 * kPage;
  void *pages = mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) return cudaErrorMemoryAllocation;
  char *first = static_cast<char *>(pages) + kPage;
  if (mprotect(first, room, PROT_READ | PROT_WRITE) != 0) {
    munmap(pages, mapped);
    return cudaErrorMemoryAllocation;
  }
  char *start = first + room - round_up(bytes, kAlignment);
  if (!dry()) {
    memset(first, 0xFF, room < kFilled ? room : kFilled);
    memset(start + bytes, 0xFF, size_t(first + room - (start + bytes)));
  }
#if defined(NT_EMULATED_ASAN)
  __asan_poison_memory_region(first, size_t(start - first));
  __asan_poison_memory_region(start + bytes, size_t(first + room - (start + bytes)));
#endif
  pthread_mutex_lock(&lock);
  const bool inserted = insert({start, bytes, static_cast<char *>(pages), mapped});
  pthread_mutex_unlock(&lock);
  if (!inserted) {
    munmap(pages, mapped);
    return cudaErrorMemoryAllocation;
  }
  *address = start;
  return cudaSuccess;
}

cudaError_t memory_free(void *address) {
  if (address == nullptr) return cudaSuccess;
  char *start = static_cast<char *>(address);
  pthread_mutex_lock(&lock);
  const size_t after = count_before(start);
  if (after == 0 || allocations[after - 1].start != start) {
    pthread_mutex_unlock(&lock);
    fail_host("cudaFree of %p, which cudaMalloc did not give", address);
    return cudaErrorInvalidValue;
  }
  const Allocation freed = allocations[after - 1];
  memmove(allocations + after - 1, allocations + after, (count - after) * sizeof(Allocation));
  count--;
  in_use -= freed.bytes;
  pthread_mutex_unlock(&lock);
  const char *first = freed.pages + kPage, *last = freed.pages + freed.mapped - kPage;
#if defined(NT_EMULATED_ASAN)
  __asan_unpoison_memory_region(first, size_t(last - first));
#endif
  const bool before = !dry() && changed(first, start), behind = !dry() && changed(start + freed.bytes, last);
  munmap(freed.pages, freed.mapped);
  if (before) return fail_host("some kernel wrote before the start of an allocation of %zu bytes", freed.bytes);
  if (behind) return fail_host("some kernel wrote past the end of an allocation of %zu bytes", freed.bytes);
  return cudaSuccess;
}

bool memory_holds(const void *address, size_t bytes) {
  const char *p = static_cast<const char *>(address);
  pthread_mutex_lock(&lock);
  const size_t after = count_before(p);
  const bool holds = after > 0 && p + bytes <= allocations[after - 1].start + allocations[after - 1].bytes;
  pthread_mutex_unlock(&lock);
  return holds;
}

// Addresses that lie nowhere are let pass: an empty tensor may end anywhere.
bool is_host_memory(const void *p) {
  char text[8];
  unsigned char resident;
  if (p == nullptr || describe_memory(p, text, sizeof text) || is_pinned(p)) return false;
  void *page = reinterpret_cast<void *>(reinterpret_cast<uintptr_t>(p) & ~uintptr_t(kPage - 1));
  return mincore(page, kPage, &resident) == 0;
}

// From a fault: takes no lock, as the faulting thread may hold none while a kernel runs.
bool describe_memory(const void *p, char *text, size_t size) {
  const char *c = static_cast<const char *>(p);
  for (size_t i = 0; i < count; i++) {
    const Allocation &a = allocations[i];
    if (c < a.pages || c >= a.pages + a.mapped) continue;
    snprintf(text, size, "byte %td of a device allocation of %zu bytes", c - a.start, a.bytes);
    return true;
  }
  return false;
}

}  // namespace nt::emulator
