// Context, memory, files and copies of the CUDA backend, and what is said where no GPU can be used.
#include <stdlib.h>
#include <string.h>

#include "../file_map.h"
#include "blas.h"
#include "cast.h"
#include "staging.h"

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

// Appends to a JSON text; `used` grows past `size` where it does not fit.
__attribute__((format(printf, 4, 5))) void append(char *json, int64_t size, int64_t *used, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const int64_t room = *used < size ? size - *used : 0;
  const int written = vsnprintf(room > 0 ? json + *used : nullptr, size_t(room), format, arguments);
  va_end(arguments);
  if (written > 0) *used += written;
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
  context->shared_limit = int(properties.sharedMemPerBlockOptin);
  copy_name(context->name, sizeof context->name, properties.name);
  context->major = properties.major;
  context->minor = properties.minor;
  static_assert(sizeof context->uuid == sizeof properties.uuid.bytes, "a UUID has 16 bytes");
  memcpy(context->uuid, properties.uuid.bytes, sizeof context->uuid);
  NT_CUDA(cudaStreamCreateWithFlags(&context->stream, cudaStreamNonBlocking), "creating a stream");
  context->workspace_bytes = kWorkspaceBytes;
  NT_CUDA(cudaMalloc(&context->workspace, size_t(kWorkspaceBytes)), "the workspace of 32 MiB");
  int32_t status = staging_create(context);
  if (status == NT_OK) status = blas_create(context);
  return status;
}

void close_device(nt_context *context) {
  if (context->stream != nullptr) cudaStreamSynchronize(context->stream);
  blas_destroy(context);
  staging_destroy(context);
  if (context->workspace != nullptr) cudaFree(context->workspace);
  if (context->stream != nullptr) cudaStreamDestroy(context->stream);
  free(context);
}

}  // namespace
}  // namespace nt

using nt::fail;

NT_API const char *nt_last_error(void) { return nt::last_error; }

NT_API int32_t nt_probe(char *json, int64_t size) {
  char problem[512], blas[6144];
  int count, driver;
  nt::find_problem(problem, sizeof problem, &count, &driver);
  nt::blas_find(blas, sizeof blas);
  int64_t used = 0;
  nt::append(json, size, &used, "{\"backend\":\"" NT_BACKEND "\",\"problem\":");
  if (problem[0] == '\0') {
    nt::append(json, size, &used, "null");
  } else {
    nt::append(json, size, &used, "\"%s\"", problem);
  }
  nt::append(json, size, &used, ",\"runtime\":\"%d.%d\",\"driver\":", CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
  if (driver > 0) {
    nt::append(json, size, &used, "\"%d.%d\"", driver / 1000, driver % 1000 / 10);
  } else {
    nt::append(json, size, &used, "null");
  }
  nt::append(json, size, &used, ",\"architectures\":[" NT_ARCHITECTURES "],\"devices\":[");
  for (int i = 0; i < count; i++) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    char name[256];
    nt::copy_name(name, sizeof name, properties.name);
    nt::append(json, size, &used, "%s{\"index\":%d,\"name\":\"%s\",\"compute_capability\":\"%d.%d\",\"total_memory\":%lld}",
               i == 0 ? "" : ",", i, name, properties.major, properties.minor, (long long)properties.totalGlobalMem);
  }
  nt::append(json, size, &used, "],\"cublaslt\":%s}", blas);
  NT_CHECK(used < size, "probe: the buffer of %lld bytes is too small", (long long)size);
  return NT_OK;
}

NT_API int32_t nt_create(int32_t device, int32_t, nt_context **context) {
  char problem[512];
  int count, driver;
  nt::find_problem(problem, sizeof problem, &count, &driver);
  if (problem[0] != '\0') return fail(NT_DEVICE, "%s", problem);
  NT_CHECK(device >= 0 && device < count, "there is no GPU %d: the driver shows %d, counted from 0", int(device), count);
  auto *created = static_cast<nt_context *>(calloc(1, sizeof(nt_context)));
  if (created == nullptr) return fail(NT_OUT_OF_MEMORY, "out of memory");
  const int32_t status = nt::open_device(created, device);
  if (status != NT_OK) {
    nt::close_device(created);
    return status;
  }
  *context = created;
  return NT_OK;
}

NT_API int32_t nt_destroy(nt_context *context) {
  if (context != nullptr) nt::close_device(context);
  return NT_OK;
}

NT_API int32_t nt_describe(nt_context *context, char *json, int64_t size) {
  // Asked after every step of a training run, so that it leaves the driver alone but for what changes.
  size_t free_bytes, total_bytes;
  NT_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes), "reading the GPU's free memory");
  int64_t used = 0;
  nt::append(json, size, &used,
             "{\"backend\":\"" NT_BACKEND "\",\"name\":\"%s\",\"isa\":\"sm_%d%d\",\"threads\":%d,\"total_memory\":%lld,"
             "\"free_memory\":%lld,\"uuid\":\"",
             context->name, context->major, context->minor, context->multiprocessors, (long long)total_bytes,
             (long long)free_bytes);
  for (const unsigned char byte : context->uuid) nt::append(json, size, &used, "%02x", byte);
  nt::append(json, size, &used, "\"}");
  NT_CHECK(used < size, "describe: the buffer of %lld bytes is too small", (long long)size);
  return NT_OK;
}

NT_API int32_t nt_synchronize(nt_context *context) {
  NT_CUDA(cudaStreamSynchronize(context->stream), "waiting for the GPU");
  return NT_OK;
}

NT_API int32_t nt_malloc(nt_context *, int64_t bytes, void **address) {
  NT_CHECK(bytes >= 0, "malloc: negative size %lld", (long long)bytes);
  const cudaError_t status = cudaMalloc(address, bytes > 0 ? size_t(bytes) : 1);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free_bytes = 0, total_bytes = 0;
    cudaMemGetInfo(&free_bytes, &total_bytes);
    return fail(NT_OUT_OF_MEMORY, "out of GPU memory: %lld bytes asked for, %lld free of %lld", (long long)bytes,
                (long long)free_bytes, (long long)total_bytes);
  }
  return nt::check_cuda(status, "malloc");
}

NT_API int32_t nt_free(nt_context *, void *address) {
  NT_CUDA(cudaFree(address), "free");
  return NT_OK;
}

NT_API int32_t nt_memset(nt_context *context, void *destination, int32_t byte, int64_t bytes) {
  NT_CHECK(bytes >= 0, "memset: negative size %lld", (long long)bytes);
  if (bytes == 0) return NT_OK;
  NT_CUDA(cudaMemsetAsync(destination, byte, size_t(bytes), context->stream), "memset");
  return NT_OK;
}

NT_API int32_t nt_copy(nt_context *context, void *destination, const void *source, int64_t bytes) {
  NT_CHECK(bytes >= 0, "copy: negative size %lld", (long long)bytes);
  if (bytes == 0) return NT_OK;
  NT_CUDA(cudaMemcpyAsync(destination, source, size_t(bytes), cudaMemcpyDeviceToDevice, context->stream), "copy");
  return NT_OK;
}

NT_API int32_t nt_copy_to_device(nt_context *context, void *destination, const void *source, int64_t bytes) {
  NT_CHECK(bytes >= 0, "copy_to_device: negative size %lld", (long long)bytes);
  return nt::stage_copy(context, destination, source, bytes);
}

NT_API int32_t nt_copy_to_host(nt_context *context, void *destination, const void *source, int64_t bytes) {
  NT_CHECK(bytes >= 0, "copy_to_host: negative size %lld", (long long)bytes);
  if (bytes > 0)
    NT_CUDA(cudaMemcpyAsync(destination, source, size_t(bytes), cudaMemcpyDeviceToHost, context->stream),
            "copy to the host");
  return nt_synchronize(context);
}

NT_API int32_t nt_file_map(nt_context *, const char *path, void **address, int64_t *bytes, int32_t *is_device) {
  *is_device = 0;
  return nt::map_file(path, address, bytes);
}

NT_API int32_t nt_file_unmap(nt_context *, void *address, int64_t bytes) { return nt::unmap_file(address, bytes); }

NT_API int32_t nt_file_forget(nt_context *, const void *address, int64_t bytes) {
  return nt::forget_file(address, bytes);
}

NT_API int32_t nt_upload(nt_context *context, void *destination, int32_t destination_dtype, const void *source,
                         int32_t source_dtype, int64_t n) {
  NT_CHECK_DTYPE("upload", destination_dtype);
  NT_CHECK(source_dtype == NT_F32 || source_dtype == NT_BF16 || source_dtype == NT_F16,
           "upload: unknown source dtype %d", int(source_dtype));
  NT_CHECK(n >= 0, "upload: n must be ≥ 0, got %lld", (long long)n);
  return nt::stage_convert(context, destination, destination_dtype, source, source_dtype, n);
}

NT_API int32_t nt_cast(nt_context *context, void *destination, int32_t destination_dtype, const void *source,
                       int32_t source_dtype, int64_t n) {
  NT_CHECK_DTYPE("cast", destination_dtype);
  NT_CHECK(source_dtype == NT_F32 || source_dtype == NT_BF16 || source_dtype == NT_F16,
           "cast: unknown source dtype %d", int(source_dtype));
  NT_CHECK(n >= 0, "cast: n must be ≥ 0, got %lld", (long long)n);
  return nt::convert(context, destination, destination_dtype, source, source_dtype, n);
}
