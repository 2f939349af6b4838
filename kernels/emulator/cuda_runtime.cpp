// The part of the CUDA runtime API that host code uses. What works on a stream goes through stream.h.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "device_memory.h"
#include "scheduler.h"
#include "stream.h"

struct CUstream_st {
  unsigned flags;
  int device;
};
struct CUevent_st {
  unsigned flags;
  uint64_t position;  // in the stream's work, when it was last recorded
  double recorded;    // milliseconds; 0: never
};

namespace nt::emulator {
namespace {

// What differs between the cards kernels choose their tiles by.
struct Model {
  int major, minor;
  int shared_block, shared_multiprocessor;  // KiB
  int threads_multiprocessor, blocks_multiprocessor;
};
constexpr Model kModels[] = {
    {8, 0, 163, 164, 2048, 32},  {8, 6, 99, 100, 1536, 16},   {8, 9, 99, 100, 1536, 24},
    {9, 0, 227, 228, 2048, 32},  {10, 0, 227, 228, 2048, 32}, {12, 0, 99, 100, 1536, 24},
};
// NEFTUNE_EMULATOR_MULTIPROCESSORS=132: how many to show. By default few, so that grids sized by them are quickly run, and
// not a power of two.
int multiprocessors() {
  static const int count = [] {
    const char *chosen = getenv("NEFTUNE_EMULATOR_MULTIPROCESSORS");
    const int wanted = chosen != nullptr ? atoi(chosen) : 0;
    return wanted > 0 ? wanted : 6;
  }();
  return count;
}

// NEFTUNE_EMULATOR_DEVICE=86: the compute capability to show; 9.0 by default.
const Model &choose_model() {
  const char *chosen = getenv("NEFTUNE_EMULATOR_DEVICE");
  const int capability = chosen != nullptr ? atoi(chosen) : 90;
  for (const Model &each : kModels)
    if (10 * each.major + each.minor == capability) return each;
  fprintf(stderr, "neftune emulator: NEFTUNE_EMULATOR_DEVICE=%s is none of 80, 86, 89, 90, 100, 120\n", chosen);
  abort();
}

const Model &model() {
  static const Model &shown = choose_model();
  return shown;
}

// NEFTUNE_EMULATOR_DEVICES=4: how many such devices to show; 1 by default. They share the process's memory and queue.
int device_count() {
  static const int count = [] {
    const char *chosen = getenv("NEFTUNE_EMULATOR_DEVICES");
    const int wanted = chosen != nullptr ? atoi(chosen) : 1;
    return wanted >= 1 && wanted <= 64 ? wanted : 1;
  }();
  return count;
}

int current_device;
thread_local cudaError_t last_error;

cudaError_t keep(cudaError_t status) {
  if (status != cudaSuccess) last_error = status;
  return status;
}

cudaError_t refuse(const char *what) {
  fail_host("%s", what);
  return keep(cudaErrorInvalidValue);
}

// Pinned memory: a copy from it may happen long after the call.
struct Pinned {
  Pinned *next;
  char *start;
  size_t bytes;
};
Pinned *pinned;

struct Copy {
  void *destination;
  const void *source;  // null: what was in pageable memory at the time of the call
  size_t bytes;
};
cudaError_t run_copy(void *arguments, void *data) {
  const Copy &copy = *static_cast<const Copy *>(arguments);
  memmove(copy.destination, copy.source != nullptr ? copy.source : data, copy.bytes);
  return cudaSuccess;
}

struct Fill {
  void *destination;
  int byte;
  size_t bytes;
};
cudaError_t run_fill(void *arguments, void *) {
  const Fill &fill = *static_cast<const Fill *>(arguments);
  memset(fill.destination, fill.byte, fill.bytes);
  return cudaSuccess;
}

struct RowsCopy {
  void *destination;
  const void *source;
  size_t to_pitch, from_pitch, width, height;
};
cudaError_t run_rows_copy(void *arguments, void *) {
  const RowsCopy &rows = *static_cast<const RowsCopy *>(arguments);
  for (size_t i = 0; i < rows.height; i++)
    memcpy(static_cast<char *>(rows.destination) + i * rows.to_pitch,
           static_cast<const char *>(rows.source) + i * rows.from_pitch, rows.width);
  return cudaSuccess;
}

cudaError_t copy(void *destination, const void *source, size_t bytes, cudaMemcpyKind kind) {
  if (bytes == 0) return cudaSuccess;
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (destination == nullptr || source == nullptr) return refuse("cudaMemcpy: a null pointer");
  if (to_device && !memory_holds(destination, bytes))
    return refuse("cudaMemcpy: the destination is not in one device allocation");
  if (from_device && !memory_holds(source, bytes))
    return refuse("cudaMemcpy: the source is not in one device allocation");
  if (dry()) {
    if (!to_device) memset(destination, 0, bytes);
    return cudaSuccess;
  }
  const bool reads_later = from_device || is_pinned(source);
  const Copy enqueued = {destination, reads_later ? source : nullptr, bytes};
  const cudaError_t status =
      stream_enqueue(run_copy, &enqueued, sizeof enqueued, source, reads_later ? 0 : bytes);
  const bool waits = !to_device && !is_pinned(destination);
  return keep(status != cudaSuccess || !waits ? status : stream_wait());
}

double milliseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return double(now.tv_sec) * 1e3 + double(now.tv_nsec) * 1e-6;
}

}  // namespace

bool is_pinned(const void *address) {
  const char *p = static_cast<const char *>(address);
  for (const Pinned *each = pinned; each != nullptr; each = each->next)
    if (p >= each->start && p < each->start + each->bytes) return true;
  return false;
}

bool is_of_current_device(const CUstream_st *stream) { return stream == nullptr || stream->device == current_device; }

}  // namespace nt::emulator

using namespace nt::emulator;

extern "C" {

// ---- device

cudaError_t cudaDriverGetVersion(int *version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int *count) {
  *count = device_count();
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= device_count()) return keep(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return keep(stream_wait()); }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device) {
  if (device < 0 || device >= device_count()) return keep(cudaErrorInvalidDevice);
  const Model &shown = model();
  size_t free_bytes, total_bytes;
  memory_info(&free_bytes, &total_bytes);
  memset(properties, 0, sizeof *properties);
  snprintf(properties->name, sizeof properties->name, "emulated sm_%d%d", shown.major, shown.minor);
  properties->totalGlobalMem = total_bytes;
  properties->major = shown.major;
  properties->minor = shown.minor;
  properties->multiProcessorCount = multiprocessors();
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = kMaxThreads;
  properties->maxThreadsPerMultiProcessor = shown.threads_multiprocessor;
  properties->maxBlocksPerMultiProcessor = shown.blocks_multiprocessor;
  properties->regsPerBlock = properties->regsPerMultiprocessor = 65536;
  properties->sharedMemPerBlock = 48 * 1024;
  properties->sharedMemPerBlockOptin = size_t(shown.shared_block) * 1024;
  properties->sharedMemPerMultiprocessor = size_t(shown.shared_multiprocessor) * 1024;
  properties->l2CacheSize = 50 << 20;
  properties->asyncEngineCount = 2;
  properties->unifiedAddressing = 1;
  memcpy(properties->uuid.bytes, "neftune emulator", sizeof properties->uuid.bytes);
  properties->uuid.bytes[15] = char(device);
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  const cudaError_t status = cudaGetDeviceProperties(&properties, device);
  if (status != cudaSuccess) return status;
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = properties.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = properties.minor; break;
    case cudaDevAttrMultiProcessorCount: *value = properties.multiProcessorCount; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = properties.maxThreadsPerBlock; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = properties.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = int(properties.sharedMemPerBlock); break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = int(properties.sharedMemPerBlockOptin); break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = int(properties.sharedMemPerMultiprocessor); break;
    case cudaDevAttrL2CacheSize: *value = properties.l2CacheSize; break;
    case cudaDevAttrWarpSize: *value = properties.warpSize; break;
    default: return refuse("cudaDeviceGetAttribute: an attribute that the emulator does not know");
  }
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
  memory_info(free_bytes, total_bytes);
  return cudaSuccess;
}

// ---- memory

cudaError_t cudaMalloc(void **address, size_t bytes) {
  if (bytes == 0) {
    *address = nullptr;
    return cudaSuccess;
  }
  return keep(memory_allocate(address, bytes));
}
cudaError_t cudaFree(void *address) {
  const cudaError_t status = stream_wait(), freed = memory_free(address);
  return keep(status != cudaSuccess ? status : freed);
}

cudaError_t cudaHostAlloc(void **address, size_t bytes, unsigned) {
  *address = nullptr;
  auto *added = static_cast<Pinned *>(malloc(sizeof(Pinned)));
  if (added == nullptr || posix_memalign(address, 4096, bytes > 0 ? bytes : 1) != 0) {
    free(added);
    return keep(cudaErrorMemoryAllocation);
  }
  *added = {pinned, static_cast<char *>(*address), bytes};
  pinned = added;
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void **address, size_t bytes) { return cudaHostAlloc(address, bytes, 0); }
cudaError_t cudaFreeHost(void *address) {
  const cudaError_t status = stream_wait();
  for (Pinned **each = &pinned; *each != nullptr; each = &(*each)->next) {
    if ((*each)->start != address) continue;
    Pinned *freed = *each;
    *each = freed->next;
    free(freed);
    free(address);
    return keep(status);
  }
  return address == nullptr ? keep(status) : refuse("cudaFreeHost of memory that cudaHostAlloc did not give");
}

cudaError_t cudaMemcpy(void *destination, const void *source, size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t status = copy(destination, source, bytes, kind);
  return keep(status != cudaSuccess ? status : stream_wait());
}
cudaError_t cudaMemcpyAsync(void *destination, const void *source, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  return copy(destination, source, bytes, kind);
}
cudaError_t cudaMemcpy2DAsync(void *destination, size_t to_pitch, const void *source, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t) {
  if (width == 0 || height == 0) return cudaSuccess;
  if (kind != cudaMemcpyDeviceToDevice || width > to_pitch || width > from_pitch)
    return refuse("cudaMemcpy2D: other than rows on the device that fit their distances");
  if (!memory_holds(destination, (height - 1) * to_pitch + width) ||
      !memory_holds(source, (height - 1) * from_pitch + width))
    return refuse("cudaMemcpy2D: rows that are not in one device allocation");
  const RowsCopy rows = {destination, source, to_pitch, from_pitch, width, height};
  return keep(stream_enqueue(run_rows_copy, &rows, sizeof rows));
}
cudaError_t cudaMemsetAsync(void *destination, int byte, size_t bytes, cudaStream_t) {
  if (bytes == 0) return cudaSuccess;
  if (!memory_holds(destination, bytes)) return refuse("cudaMemset: not in one device allocation");
  const Fill fill = {destination, byte, bytes};
  return keep(stream_enqueue(run_fill, &fill, sizeof fill));
}
cudaError_t cudaMemset(void *destination, int byte, size_t bytes) {
  return cudaMemsetAsync(destination, byte, bytes, nullptr);
}

// ---- streams and events

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
  *stream = static_cast<CUstream_st *>(malloc(sizeof(CUstream_st)));
  if (*stream == nullptr) return keep(cudaErrorMemoryAllocation);
  **stream = {flags, current_device};
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t *stream) { return cudaStreamCreateWithFlags(stream, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const cudaError_t status = stream_wait();
  free(stream);
  if (counting) count_write();
  return keep(status);
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return keep(stream_wait()); }
cudaError_t cudaStreamQuery(cudaStream_t) {
  return stream_passed(stream_position()) ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
  *event = static_cast<CUevent_st *>(calloc(1, sizeof(CUevent_st)));
  if (*event == nullptr) return keep(cudaErrorMemoryAllocation);
  (*event)->flags = flags;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const cudaError_t status = stream_wait(event->position);
  free(event);
  return keep(status);
}
// Work like any other: the time is that at which all before it is done.
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  const auto record = [](void *arguments, void *) {
    (*static_cast<cudaEvent_t *>(arguments))->recorded = milliseconds();
    return cudaSuccess;
  };
  event->recorded = dry() ? milliseconds() : 0;
  const cudaError_t status = stream_enqueue(record, &event, sizeof event, nullptr, 0);
  event->position = stream_position();
  return keep(status);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) { return keep(stream_wait(event->position)); }
cudaError_t cudaEventQuery(cudaEvent_t event) {
  return stream_passed(event->position) ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float *elapsed, cudaEvent_t begin, cudaEvent_t end) {
  if (!stream_passed(begin->position) || !stream_passed(end->position)) return cudaErrorNotReady;
  if (begin->recorded == 0 || end->recorded == 0 || ((begin->flags | end->flags) & cudaEventDisableTiming))
    return keep(cudaErrorInvalidResourceHandle);
  *elapsed = float(end->recorded - begin->recorded);
  return cudaSuccess;
}

// ---- kernels

cudaError_t cudaFuncSetAttribute(const void *, cudaFuncAttribute, int) { return cudaSuccess; }
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *) {
  memset(attributes, 0, sizeof *attributes);
  attributes->maxThreadsPerBlock = kMaxThreads;
  attributes->numRegs = 128;
  attributes->maxDynamicSharedSizeBytes = model().shared_block * 1024;
  attributes->binaryVersion = 10 * model().major + model().minor;
  return cudaSuccess;
}
cudaError_t cudaFuncGetName(const char **name, const void *kernel) {
  *name = kernel_name(kernel);
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *, int threads, size_t shared) {
  const Model &shown = model();
  const int by_threads = shown.threads_multiprocessor / (threads > 0 ? threads : 1);
  const int by_shared = int(size_t(shown.shared_multiprocessor) * 1024 / (shared + 1024));
  *blocks = by_threads < by_shared ? by_threads : by_shared;
  if (*blocks > shown.blocks_multiprocessor) *blocks = shown.blocks_multiprocessor;
  return cudaSuccess;
}

// ---- errors

cudaError_t cudaGetLastError() {
  const cudaError_t status = last_error;
  last_error = cudaSuccess;
  return status;
}
cudaError_t cudaPeekAtLastError() { return last_error; }

const char *cudaGetErrorName(cudaError_t status) {
  switch (status) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    case cudaErrorNotReady: return "cudaErrorNotReady";
    default: return "an error of the emulator";
  }
}
const char *cudaGetErrorString(cudaError_t status) {
  switch (status) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration: the grid or the block is empty or too large";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorLaunchFailure: return last_report();
    default: return cudaGetErrorName(status);
  }
}

}  // extern "C"
