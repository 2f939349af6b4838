// Context, memory, files and conversions of the CPU backend.
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>

#include "context.h"
#include "matmul.h"
#include "pairs.h"
#include "parallel.h"
#include "vec.h"

namespace {

constexpr int64_t kAlignment = 256;
constexpr int64_t kHugePage = 2 << 20;

// Sits in front of every allocation.
struct Header {
  void *base;
  int64_t mapped;  // 0: from aligned_alloc
};

void read_cpu_name(char *name, size_t size) {
  snprintf(name, size, "CPU");
  FILE *file = fopen("/proc/cpuinfo", "r");
  if (file == nullptr) return;
  char line[512];
  while (fgets(line, sizeof line, file) != nullptr) {
    char *colon = strchr(line, ':');
    if (strncmp(line, "model name", 10) != 0 || colon == nullptr) continue;
    size_t used = 0;
    for (char *p = colon + 1; *p != '\0' && *p != '\n' && used + 1 < size; p++) {
      if (*p == '"' || *p == '\\' || (used == 0 && *p == ' ')) continue;
      name[used++] = *p;
    }
    name[used] = '\0';
    break;
  }
  fclose(file);
}

// A number in a one-line file, or -1 ("max", or no such file).
int64_t read_number(const char *path) {
  FILE *file = fopen(path, "r");
  if (file == nullptr) return -1;
  long long value = -1;
  if (fscanf(file, "%lld", &value) != 1) value = -1;
  fclose(file);
  return int64_t(value);
}

// What this process's control group may still take, as a container's own mount shows it (cgroup v2, then v1). Page
// cache counts as used there although it can be dropped, so mapped weights make this an underestimate.
int64_t container_memory() {
  int64_t limit = read_number("/sys/fs/cgroup/memory.max"), used = read_number("/sys/fs/cgroup/memory.current");
  if (limit < 0) {
    limit = read_number("/sys/fs/cgroup/memory/memory.limit_in_bytes");
    used = read_number("/sys/fs/cgroup/memory/memory.usage_in_bytes");
  }
  if (limit < 0 || used < 0) return INT64_MAX;
  return limit > used ? limit - used : 0;
}

int64_t available_memory() {
  FILE *file = fopen("/proc/meminfo", "r");
  char line[256];
  long long kib = -1;
  while (file != nullptr && fgets(line, sizeof line, file) != nullptr)
    if (sscanf(line, "MemAvailable: %lld kB", &kib) == 1) break;
  if (file != nullptr) fclose(file);
  struct sysinfo info;
  int64_t available = 0;
  if (kib >= 0) {
    available = int64_t(kib) * 1024;
  } else if (sysinfo(&info) == 0) {
    available = int64_t(info.freeram) * info.mem_unit;
  }
  int64_t allowed = container_memory();
  return available < allowed ? available : allowed;
}

int64_t total_memory() {
  struct sysinfo info;
  return sysinfo(&info) == 0 ? int64_t(info.totalram) * info.mem_unit : 0;
}

// y[n] = source[n], whose address may have any alignment: nothing but unaligned vector loads and memcpy reads it.
template <typename From, typename To>
void convert(int threads, To *y, const void *source, int64_t n) {
  const char *bytes = static_cast<const char *>(source);
  auto at = [bytes](int64_t i) { return reinterpret_cast<const From *>(bytes + i * int64_t(sizeof(From))); };
  nt::parallel_for(threads, n, 1 << 15, [&](int64_t begin, int64_t end) {
    int64_t i = begin;
    for (; i + nt::kLanes <= end; i += nt::kLanes) nt::store(y + i, nt::load(at(i)));
    if (i == end) return;
    From rest[nt::kLanes] = {};
    memcpy(rest, at(i), size_t(end - i) * sizeof(From));
    nt::store_part(y + i, nt::load(rest), end - i);
  });
}

template <typename To>
void convert_from(int threads, To *y, const void *source, int32_t source_dtype, int64_t n) {
  if (source_dtype == NT_F32)
    convert<float>(threads, y, source, n);
  else if (source_dtype == NT_BF16)
    convert<nt::bf16>(threads, y, source, n);
  else
    convert<nt::f16>(threads, y, source, n);
}

}  // namespace

namespace nt {

void *allocate(int64_t bytes) {
  if (bytes < 0 || bytes > INT64_MAX - 2 * kHugePage) return nullptr;
  if (bytes < kHuge) {
    int64_t size = (bytes + 2 * kAlignment - 1) / kAlignment * kAlignment;
    char *base = static_cast<char *>(aligned_alloc(kAlignment, size_t(size)));
    if (base == nullptr) return nullptr;
    Header header = {base, 0};
    memcpy(base + kAlignment - sizeof header, &header, sizeof header);
    return base + kAlignment;
  }
  int64_t size = bytes + kHugePage + kAlignment;
  void *base = mmap(nullptr, size_t(size), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return nullptr;
  uintptr_t start = (uintptr_t(base) + kAlignment + kHugePage - 1) / kHugePage * kHugePage;
  madvise((void *)start, size_t(bytes), MADV_HUGEPAGE);
  Header header = {base, size};
  memcpy((void *)(start - sizeof header), &header, sizeof header);
  return (void *)start;
}

void release(void *address) {
  if (address == nullptr) return;
  Header header;
  memcpy(&header, static_cast<char *>(address) - sizeof header, sizeof header);
  if (header.mapped > 0) {
    munmap(header.base, size_t(header.mapped));
  } else {
    free(header.base);
  }
}

namespace {

int64_t probe(char *json, int64_t size) {
  return snprintf(json, size_t(size), "{\"backend\":\"cpu\",\"problem\":null,\"pairs_are_faster\":%s}",
                  pairs_are_faster() ? "true" : "false");
}

int32_t create(int32_t device, int32_t threads, nt_context **context) {
  NT_CHECK(device == 0, "the CPU backend has one device, 0; got %d", int(device));
  auto *created = static_cast<nt_context *>(calloc(1, sizeof(nt_context)));
  if (created == nullptr) return fail(NT_OUT_OF_MEMORY, "out of memory");
  cpu_set_t usable;
  int all = sched_getaffinity(0, sizeof usable, &usable) == 0 ? CPU_COUNT(&usable) : 1;
  created->threads = threads > 0 ? threads : all < 256 ? all : 256;
  omp_set_num_threads(created->threads);
  *context = created;
  return NT_OK;
}

void destroy(nt_context *context) {
  matmul_destroy(context);
  free(context);
}

int32_t describe(nt_context *context, char *json, int64_t size, int64_t *length) {
  char name[256];
  read_cpu_name(name, sizeof name);
  *length = snprintf(json, size_t(size),
                     "{\"backend\":\"cpu\",\"name\":\"%s\",\"isa\":\"%s\",\"threads\":%d,"
                     "\"total_memory\":%lld,\"free_memory\":%lld}",
                     name, NT_ISA_NAME, context->threads, (long long)total_memory(), (long long)available_memory());
  return NT_OK;
}

int32_t synchronize(nt_context *) { return NT_OK; }
int32_t select_device(nt_context *) { return NT_OK; }
int64_t matmul_choices(nt_context *, char *, int64_t) { return 0; }
int32_t use_matmul_choices(nt_context *, const char *) { return NT_OK; }

int32_t device_malloc(int64_t bytes, void **address) {
  *address = allocate(bytes);
  if (*address == nullptr)
    return fail(NT_OUT_OF_MEMORY, "out of memory: %lld bytes asked for, %lld free", (long long)bytes,
                (long long)available_memory());
  return NT_OK;
}

int32_t device_free(void *address) {
  release(address);
  return NT_OK;
}

int32_t host_malloc(int64_t bytes, void **address) { return device_malloc(bytes, address); }
int32_t host_free(void *address) { return device_free(address); }

int32_t fill_bytes(nt_context *context, void *destination, int32_t byte, int64_t bytes) {
  parallel_for(context->threads, bytes, 1 << 20, [&](int64_t begin, int64_t end) {
    memset(static_cast<char *>(destination) + begin, byte, size_t(end - begin));
  });
  return NT_OK;
}

int32_t copy(nt_context *context, void *destination, const void *source, int64_t bytes) {
  parallel_for(context->threads, bytes, 1 << 20, [&](int64_t begin, int64_t end) {
    memcpy(static_cast<char *>(destination) + begin, static_cast<const char *>(source) + begin, size_t(end - begin));
  });
  return NT_OK;
}

int32_t copy_to_device(nt_context *context, void *destination, const void *source, int64_t bytes) {
  return copy(context, destination, source, bytes);
}

int32_t copy_to_host(nt_context *context, void *destination, const void *source, int64_t bytes) {
  return copy(context, destination, source, bytes);
}

int32_t cast(nt_context *context, void *destination, int32_t destination_dtype, const void *source,
             int32_t source_dtype, int64_t n) {
  if (destination_dtype == source_dtype) return copy(context, destination, source, n * size_of(source_dtype));
  if (destination_dtype == NT_F32)
    convert_from(context->threads, static_cast<float *>(destination), source, source_dtype, n);
  else
    convert_from(context->threads, static_cast<bf16 *>(destination), source, source_dtype, n);
  return NT_OK;
}

int32_t upload(nt_context *context, void *destination, int32_t destination_dtype, const void *source,
               int32_t source_dtype, int64_t n) {
  return cast(context, destination, destination_dtype, source, source_dtype, n);
}

}  // namespace
}  // namespace nt

#include "../entry/device.h"
