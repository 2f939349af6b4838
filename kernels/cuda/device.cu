// Context, memory, files and copies of the CUDA backend, and what is said where no GPU can be used.
#include <stdlib.h>
#include <string.h>

#include "append.h"
#include "blas.h"
#include "cast.h"
#include "staging.h"
#include "timeline.h"

// "80,86,…": what this library holds machine code for; set by the build.
#ifndef NT_ARCHITECTURES
#define NT_ARCHITECTURES ""
#endif

#ifdef NT_EMULATED
#define NT_BACKEND "emulated"
#else
#define NT_BACKEND "cuda"
#endif

namespace nt {

int32_t check_cuda(cudaError_t status, const char *what) {
  if (status == cudaSuccess) return NT_OK;
  cudaGetLastError();  // else the next launch would report this error as its own
  if (status == cudaErrorMemoryAllocation) return fail(NT_OUT_OF_MEMORY, "%s: the GPU is out of memory", what);
  // A kernel's own failure comes out of whatever is called after it.
  const bool late = status >= cudaErrorIllegalAddress && status <= cudaErrorLaunchFailure &&
                    status != cudaErrorLaunchOutOfResources;
  return fail(NT_DEVICE, "%s: CUDA error %d (%s): %s%s", what, int(status), cudaGetErrorName(status),
              cudaGetErrorString(status),
              late ? "; an earlier call may be the cause: CUDA_LAUNCH_BLOCKING=1 shows which" : "");
}

cudaError_t allow_shared(const void *kernel, int bytes) {
  struct Allowed {
    const void *kernel;
    int device, bytes;
  };
  constexpr unsigned kSlots = 512;  // many more than kernels that ask
  static thread_local Allowed allowed[kSlots];
  int device = 0;
  cudaError_t status = cudaGetDevice(&device);
  if (status != cudaSuccess) return status;
  unsigned at = unsigned(reinterpret_cast<uintptr_t>(kernel) >> 4) + unsigned(device);
  for (unsigned tried = 0; tried < kSlots; tried++, at++) {
    Allowed &slot = allowed[at % kSlots];
    const bool is_own = slot.kernel == kernel && slot.device == device;
    if (is_own && slot.bytes >= bytes) return cudaSuccess;
    if (!is_own && slot.kernel != nullptr) continue;
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (status == cudaSuccess) slot = {kernel, device, bytes};
    return status;
  }
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

namespace {

// Ampere: bf16 matrix instructions, cp.async.
constexpr int kLeastMajor = 8;

// Why this machine can open no device, with the remedy; empty where it can. Sets the number of devices.
void find_problem(char *problem, size_t size, int *count, int *driver) {
  problem[0] = '\0';
  *count = *driver = 0;
  int runtime = CUDART_VERSION;
  if (cudaDriverGetVersion(driver) != cudaSuccess) *driver = 0;
  const cudaError_t status = cudaGetDeviceCount(count);
  if (status == cudaSuccess && *count > 0) return;
  *count = 0;
  cudaGetLastError();  // the error stays with the thread otherwise
  if (*driver == 0) {
    snprintf(problem, size, "no NVIDIA driver is loaded: install one for CUDA %d (580 or later)", runtime / 1000);
  } else if (*driver / 1000 < runtime / 1000) {
    snprintf(problem, size,
             "the NVIDIA driver is for CUDA %d.%d, too old for this build's CUDA %d: install driver 580 or later",
             *driver / 1000, *driver % 1000 / 10, runtime / 1000);
  } else if (status == cudaErrorNoDevice || status == cudaSuccess) {
    snprintf(problem, size, "the NVIDIA driver shows no GPU: look at nvidia-smi and CUDA_VISIBLE_DEVICES");
  } else {
    snprintf(problem, size, "the NVIDIA driver does not start: %s (CUDA error %d); nvidia-smi may say more",
             cudaGetErrorString(status), int(status));
  }
}

// A name as it may stand in JSON.
void copy_name(char *to, size_t size, const char *from) {
  size_t used = 0;
  for (; *from != '\0' && used + 1 < size; from++)
    if (*from != '"' && *from != '\\' && *from >= ' ') to[used++] = *from;
  to[used] = '\0';
}

int32_t open_device(nt_context *context, int device) {
  context->device = device;
  NT_CUDA(cudaSetDevice(device), "selecting the GPU");
  cudaDeviceProp properties;
  NT_CUDA(cudaGetDeviceProperties(&properties, device), "reading the GPU's properties");
  if (properties.major < kLeastMajor)
    return fail(NT_UNSUPPORTED,
                "GPU %d (%s) has compute capability %d.%d; 8.0 (Ampere) or later is needed. --device cuda:N chooses "
                "another GPU, --device cpu none",
                device, properties.name, properties.major, properties.minor);
  context->multiprocessors = properties.multiProcessorCount;
  context->l2_bytes = properties.l2CacheSize;
  context->total_bytes = int64_t(properties.totalGlobalMem);
  context->shared_limit = int(properties.sharedMemPerBlockOptin);
  copy_name(context->name, sizeof context->name, properties.name);
  context->major = properties.major;
  context->minor = properties.minor;
  static_assert(sizeof context->uuid == sizeof properties.uuid.bytes, "a UUID has 16 bytes");
  memcpy(context->uuid, properties.uuid.bytes, sizeof context->uuid);
  NT_CUDA(cudaStreamCreateWithFlags(&context->stream, cudaStreamNonBlocking), "creating a stream");
  context->workspace_bytes = kWorkspaceBytes;
  NT_CUDA(cudaMalloc(&context->workspace, size_t(kWorkspaceBytes)), "the workspace of 32 MiB");
  NT_CUDA(cudaMalloc(reinterpret_cast<void **>(&context->counters), kCounters * sizeof(unsigned)), "counters");
  NT_CUDA(cudaMemsetAsync(context->counters, 0, kCounters * sizeof(unsigned), context->stream), "counters");
  int32_t status = staging_create(context);
  if (status == NT_OK) status = blas_create(context);
  return status;
}

void close_device(nt_context *context) {
  if (context->stream != nullptr) cudaStreamSynchronize(context->stream);
  timeline_forget(context);
  blas_destroy(context);
  staging_destroy(context);
  if (context->workspace != nullptr) cudaFree(context->workspace);
  if (context->tile != nullptr) cudaFree(context->tile);
  if (context->counters != nullptr) cudaFree(context->counters);
  if (context->stream != nullptr) cudaStreamDestroy(context->stream);
  free(context);
}

int64_t probe(char *json, int64_t size) {
  char problem[512], blas[6144];
  int count, driver;
  find_problem(problem, sizeof problem, &count, &driver);
  blas_find(blas, sizeof blas);
  int64_t used = 0;
  append(json, size, &used, "{\"backend\":\"" NT_BACKEND "\",\"problem\":");
  if (problem[0] == '\0') {
    append(json, size, &used, "null");
  } else {
    append(json, size, &used, "\"%s\"", problem);
  }
  append(json, size, &used, ",\"runtime\":\"%d.%d\",\"driver\":", CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
  if (driver > 0) {
    append(json, size, &used, "\"%d.%d\"", driver / 1000, driver % 1000 / 10);
  } else {
    append(json, size, &used, "null");
  }
  append(json, size, &used, ",\"architectures\":[" NT_ARCHITECTURES "],\"devices\":[");
  for (int i = 0; i < count; i++) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    char name[256];
    copy_name(name, sizeof name, properties.name);
    append(json, size, &used, "%s{\"index\":%d,\"name\":\"%s\",\"compute_capability\":\"%d.%d\",\"total_memory\":%lld}",
           i == 0 ? "" : ",", i, name, properties.major, properties.minor, (long long)properties.totalGlobalMem);
  }
  append(json, size, &used, "],\"cublaslt\":%s}", blas);
  return used;
}

int32_t create(int32_t device, int32_t, nt_context **context) {
  char problem[512];
  int count, driver;
  find_problem(problem, sizeof problem, &count, &driver);
  if (problem[0] != '\0') return fail(NT_DEVICE, "%s", problem);
  NT_CHECK(device >= 0 && device < count, "there is no GPU %d: the driver shows %d, counted from 0", int(device), count);
  auto *created = static_cast<nt_context *>(calloc(1, sizeof(nt_context)));
  if (created == nullptr) return fail(NT_OUT_OF_MEMORY, "out of memory");
  const int32_t status = open_device(created, device);
  if (status != NT_OK) {
    close_device(created);
    return status;
  }
  *context = created;
  return NT_OK;
}

void destroy(nt_context *context) {
  cudaSetDevice(context->device);
  close_device(context);
}

int32_t describe(nt_context *context, char *json, int64_t size, int64_t *length) {
  // A training run asks once a second at most; it leaves the driver alone but for what changes.
  size_t free_bytes, total_bytes;
  NT_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes), "reading the GPU's free memory");
  append(json, size, length,
         "{\"backend\":\"" NT_BACKEND "\",\"name\":\"%s\",\"isa\":\"sm_%d%d\",\"threads\":%d,\"total_memory\":%lld,"
         "\"free_memory\":%lld,\"big_plain_products\":%lld,\"uuid\":\"",
         context->name, context->major, context->minor, context->multiprocessors, (long long)total_bytes,
         (long long)free_bytes, (long long)context->big_plain_products);
  for (const unsigned char byte : context->uuid) append(json, size, length, "%02x", byte);
  append(json, size, length, "\"}");
  return NT_OK;
}

int32_t synchronize(nt_context *context) {
  NT_CUDA(cudaStreamSynchronize(context->stream), "waiting for the GPU");
  return NT_OK;
}

int64_t matmul_choices(nt_context *context, char *text, int64_t size) { return blas_choices(context, text, size); }
int32_t use_matmul_choices(nt_context *context, const char *text) { return blas_use_choices(context, text); }

int32_t select_device(nt_context *context) {
  NT_CUDA(cudaSetDevice(context->device), "selecting the GPU");
  return NT_OK;
}

int32_t device_malloc(int64_t bytes, void **address) {
  const cudaError_t status = cudaMalloc(address, bytes > 0 ? size_t(bytes) : 1);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free_bytes = 0, total_bytes = 0;
    cudaMemGetInfo(&free_bytes, &total_bytes);
    return fail(NT_OUT_OF_MEMORY, "out of GPU memory: %lld bytes asked for, %lld free of %lld", (long long)bytes,
                (long long)free_bytes, (long long)total_bytes);
  }
  return check_cuda(status, "malloc");
}

int32_t device_free(void *address) {
  NT_CUDA(cudaFree(address), "free");
  return NT_OK;
}

int32_t host_malloc(int64_t bytes, void **address) {
  NT_CUDA(cudaHostAlloc(address, bytes > 0 ? size_t(bytes) : 1, cudaHostAllocDefault), "pinned memory");
  return NT_OK;
}

int32_t host_free(void *address) {
  NT_CUDA(cudaFreeHost(address), "pinned memory");
  return NT_OK;
}

int32_t fill_bytes(nt_context *context, void *destination, int32_t byte, int64_t bytes) {
  const Watched watched(context->stream, moved("memset", bytes));
  NT_CUDA(cudaMemsetAsync(destination, byte, size_t(bytes), context->stream), "memset");
  return NT_OK;
}

int32_t copy(nt_context *context, void *destination, const void *source, int64_t bytes) {
  const Watched watched(context->stream, moved("copy", 2 * bytes));
  NT_CUDA(cudaMemcpyAsync(destination, source, size_t(bytes), cudaMemcpyDeviceToDevice, context->stream), "copy");
  return NT_OK;
}

int32_t copy_to_device(nt_context *context, void *destination, const void *source, int64_t bytes) {
  return stage_copy(context, destination, source, bytes);
}

int32_t copy_to_host(nt_context *context, void *destination, const void *source, int64_t bytes) {
  const Watched watched(context->stream, moved("copy to the host", bytes));
  NT_CUDA(cudaMemcpyAsync(destination, source, size_t(bytes), cudaMemcpyDeviceToHost, context->stream),
          "copy to the host");
  return NT_OK;
}

int32_t upload(nt_context *context, void *destination, int32_t destination_dtype, const void *source,
               int32_t source_dtype, int64_t n) {
  return stage_convert(context, destination, destination_dtype, source, source_dtype, n);
}

int32_t cast(nt_context *context, void *destination, int32_t destination_dtype, const void *source,
             int32_t source_dtype, int64_t n) {
  return convert(context, destination, destination_dtype, source, source_dtype, n);
}

}  // namespace
}  // namespace nt

#include "../entry/device.h"
