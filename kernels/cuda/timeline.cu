// The timeline: an event before and after everything that host code enqueues on one stream. There is one a process,
// as there is one observer (gpu.h); events are made as they are needed and used again.
#include "timeline.h"

#include <ctype.h>
#include <stdlib.h>

#include "append.h"

namespace nt {
namespace {

struct Item {
  int64_t call;
  Enqueued what;
};

struct Timeline {
  nt_context *context;
  int64_t call;
  Item *items;
  cudaEvent_t *events;  // two an item
  int64_t count, room, events_made;
  cudaError_t failure;  // the first
};
Timeline timeline;

void keep(cudaError_t status) {
  if (timeline.failure == cudaSuccess) timeline.failure = status;
  cudaGetLastError();  // a launch that comes next must not report it
}

bool make_room() {
  if (timeline.count < timeline.room) return true;
  const int64_t larger = timeline.room > 0 ? 2 * timeline.room : 4096;
  auto *items = static_cast<Item *>(realloc(timeline.items, size_t(larger) * sizeof(Item)));
  if (items != nullptr) timeline.items = items;
  auto *events = static_cast<cudaEvent_t *>(realloc(timeline.events, size_t(2 * larger) * sizeof(cudaEvent_t)));
  if (events != nullptr) timeline.events = events;
  if (items == nullptr || events == nullptr) return false;
  timeline.room = larger;
  return true;
}

void record(int64_t event) {
  while (timeline.events_made <= event && timeline.failure == cudaSuccess) {
    const cudaError_t status = cudaEventCreate(&timeline.events[timeline.events_made]);
    if (status == cudaSuccess) timeline.events_made++;
    else keep(status);
  }
  if (timeline.failure != cudaSuccess) return;
  const cudaError_t status = cudaEventRecord(timeline.events[event], timeline.context->stream);
  if (status != cudaSuccess) keep(status);
}

void begin(const Enqueued &what) {
  if (!make_room()) keep(cudaErrorMemoryAllocation);
  if (timeline.failure != cudaSuccess) return;
  timeline.items[timeline.count] = {timeline.call, what};
  record(2 * timeline.count);
}

void end() {
  if (timeline.failure != cudaSuccess) return;
  record(2 * timeline.count + 1);
  timeline.count++;
}

Observer listener = {nullptr, begin, end};

// _ZN2nt12_GLOBAL__N_120swiglu_forward_kernelIfEEv… and swiglu_forward_kernel<float> → swiglu_forward_kernel
void base_name(char *to, size_t size, const char *name) {
  const char *start = name;
  size_t length = strcspn(name, "<(");
  if (strncmp(name, "_Z", 2) == 0) {
    const char *p = name + 2;
    while (*p == 'N' || *p == 'L') p++;
    while (isdigit(static_cast<unsigned char>(*p))) {
      char *identifier;
      const size_t characters = size_t(strtol(p, &identifier, 10));
      if (characters > strlen(identifier)) break;
      start = identifier;
      length = characters;
      p = identifier + characters;
      if (*p == 'L') p++;
    }
  }
  snprintf(to, size, "%.*s", int(length), start);
}

// The index of an item's name in the list of all, in the order in which they first came.
struct Names {
  const void **keys;  // a kernel's address, or a name's
  int64_t count;
};

int64_t name_of(Names *names, const Enqueued &what) {
  const void *key = what.kernel != nullptr ? what.kernel : what.name;
  int64_t i = 0;
  while (i < names->count && names->keys[i] != key) i++;
  if (i == names->count) names->keys[names->count++] = key;
  return i;
}

void append_names(Names *names, char *json, int64_t size, int64_t *length) {
  for (int64_t i = 0, known = 0; i < timeline.count; i++) {
    const Enqueued &what = timeline.items[i].what;
    if (name_of(names, what) < known) continue;
    char base[128];
    const char *name = what.name;
    if (what.kernel != nullptr) {
      if (cudaFuncGetName(&name, what.kernel) != cudaSuccess) name = "kernel";
      base_name(base, sizeof base, name);
      name = base;
    }
    append(json, size, length, "%s\"%s\"", known == 0 ? "" : ",", name);
    known = names->count;
  }
}

int32_t timeline_mark(nt_context *context, int64_t call) {
  if (call < 0) {
    observer = nullptr;
    return NT_OK;
  }
  if (observer == nullptr || timeline.context != context) {
    timeline.context = context;
    timeline.count = 0;
    timeline.failure = cudaSuccess;
    listener.stream = context->stream;
    observer = &listener;
  }
  timeline.call = call;
  return NT_OK;
}

int32_t timeline_read(nt_context *context, char *json, int64_t size, int64_t *length) {
  if (timeline.context != context) timeline.count = 0;
  NT_CUDA(timeline.failure, "timeline");
  NT_CUDA(cudaStreamSynchronize(context->stream), "timeline");
  Names names = {static_cast<const void **>(calloc(size_t(timeline.count) + 1, sizeof(void *))), 0};
  if (names.keys == nullptr) return fail(NT_OUT_OF_MEMORY, "out of memory");
  append(json, size, length, "{\"names\":[");
  append_names(&names, json, size, length);
  append(json, size, length, "],\"items\":[");
  cudaError_t status = cudaSuccess;
  for (int64_t i = 0; i < timeline.count && status == cudaSuccess; i++) {
    const auto &[call, what] = timeline.items[i];
    float milliseconds = 0;
    status = cudaEventElapsedTime(&milliseconds, timeline.events[2 * i], timeline.events[2 * i + 1]);
    append(json, size, length, "%s[%lld,%lld,%.6f,%lld,%lld", i == 0 ? "" : ",", (long long)call,
           (long long)name_of(&names, what), double(milliseconds), (long long)what.blocks, (long long)what.bytes);
    if (what.k > 0)
      append(json, size, length, ",%lld,%lld,%lld,%d,%d,%d", (long long)what.m, (long long)what.n, (long long)what.k,
             int(what.operand_bytes), int(what.result_bytes), int(what.accumulate));
    append(json, size, length, "]");
  }
  append(json, size, length, "]}");
  free(names.keys);
  return check_cuda(status, "timeline");
}

}  // namespace

void timeline_forget(nt_context *context) {
  if (timeline.context != context) return;
  observer = nullptr;
  for (int64_t i = 0; i < timeline.events_made; i++) cudaEventDestroy(timeline.events[i]);
  free(timeline.items);
  free(timeline.events);
  timeline = {};
}

}  // namespace nt

#include "../entry/timeline.h"
