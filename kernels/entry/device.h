// Context, memory, mapped files and conversions. The backend has probe and describe (which return the length of the
// JSON, written as far as it fits), create, destroy, synchronize, and what moves memory.
#pragma once
#include "../file_map.h"
#include "entry.h"

namespace nt {

inline int32_t check_length(const char *op, int64_t length, int64_t size) {
  NT_CHECK(length >= 0 && length < size, "%s: the buffer of %lld bytes is too small", op, (long long)size);
  return NT_OK;
}

inline int32_t check_conversion(const char *op, const void *destination, int32_t destination_dtype, const void *source,
                                int32_t source_dtype, int64_t n) {
  NT_CHECK(destination_dtype == NT_F32 || destination_dtype == NT_BF16, "%s: dtype must be f32 or bf16, got %d", op,
           int(destination_dtype));
  NT_CHECK(is_stored_dtype(source_dtype), "%s: unknown source dtype %d", op, int(source_dtype));
  NT_TRY(check_count(op, "n", n));
  NT_CHECK(n == 0 || (destination != nullptr && source != nullptr), "%s: destination and source must not be null", op);
  return NT_OK;
}

inline int32_t check_copy(const char *op, const void *destination, const void *source, int64_t bytes) {
  NT_TRY(check_count(op, "bytes", bytes));
  NT_CHECK(bytes == 0 || (destination != nullptr && source != nullptr), "%s: destination and source must not be null",
           op);
  return NT_OK;
}

}  // namespace nt

NT_API const char *nt_last_error(void) { return nt::last_error; }

NT_API int32_t nt_probe(char *json, int64_t size) { return nt::check_length("probe", nt::probe(json, size), size); }

NT_API int32_t nt_create(int32_t device, int32_t threads, nt_context **context) {
  NT_CHECK(threads >= 0 && threads <= 256, "threads must be between 0 (all) and 256, got %d", int(threads));
  return nt::create(device, threads, context);
}

NT_API int32_t nt_destroy(nt_context *context) {
  if (context != nullptr) nt::destroy(context);
  return NT_OK;
}

NT_API int32_t nt_describe(nt_context *context, char *json, int64_t size) {
  int64_t length = 0;
  NT_TRY(nt::describe(context, json, size, &length));
  return nt::check_length("describe", length, size);
}

NT_API int32_t nt_synchronize(nt_context *context) { return nt::synchronize(context); }

NT_API int32_t nt_matmul_choices(nt_context *context, char *text, int64_t size, int64_t *length) {
  NT_CHECK(size >= 1 && text != nullptr, "matmul_choices: no room");
  text[0] = '\0';
  *length = nt::matmul_choices(context, text, size);
  return NT_OK;
}

NT_API int32_t nt_use_matmul_choices(nt_context *context, const char *text) {
  NT_CHECK(text != nullptr, "use_matmul_choices: no text");
  return nt::use_matmul_choices(context, text);
}

NT_API int32_t nt_select(nt_context *context) { return nt::select_device(context); }

NT_API int32_t nt_malloc(nt_context *, int64_t bytes, void **address) {
  NT_TRY(nt::check_count("malloc", "bytes", bytes));
  return nt::device_malloc(bytes, address);
}

NT_API int32_t nt_free(nt_context *, void *address) { return nt::device_free(address); }

NT_API int32_t nt_memset(nt_context *context, void *destination, int32_t byte, int64_t bytes) {
  NT_TRY(nt::check_count("memset", "bytes", bytes));
  if (bytes == 0) return NT_OK;
  NT_CHECK(destination != nullptr, "memset: destination must not be null");
  return nt::fill_bytes(context, destination, byte, bytes);
}

NT_API int32_t nt_copy(nt_context *context, void *destination, const void *source, int64_t bytes) {
  NT_TRY(nt::check_copy("copy", destination, source, bytes));
  return bytes == 0 ? NT_OK : nt::copy(context, destination, source, bytes);
}

NT_API int32_t nt_copy_to_device(nt_context *context, void *destination, const void *source, int64_t bytes) {
  NT_TRY(nt::check_copy("copy_to_device", destination, source, bytes));
  return bytes == 0 ? NT_OK : nt::copy_to_device(context, destination, source, bytes);
}

// Waits even where there is nothing to copy.
NT_API int32_t nt_copy_to_host(nt_context *context, void *destination, const void *source, int64_t bytes) {
  NT_TRY(nt::check_copy("copy_to_host", destination, source, bytes));
  if (bytes > 0) NT_TRY(nt::copy_to_host(context, destination, source, bytes));
  return nt::synchronize(context);
}

NT_API int32_t nt_copy_to_host_later(nt_context *context, void *destination, const void *source, int64_t bytes) {
  NT_TRY(nt::check_copy("copy_to_host_later", destination, source, bytes));
  return bytes == 0 ? NT_OK : nt::copy_to_host(context, destination, source, bytes);
}

NT_API int32_t nt_host_malloc(nt_context *, int64_t bytes, void **address) {
  NT_TRY(nt::check_count("host_malloc", "bytes", bytes));
  return nt::host_malloc(bytes, address);
}

NT_API int32_t nt_host_free(nt_context *, void *address) { return nt::host_free(address); }

NT_API int32_t nt_file_map(nt_context *, const char *path, void **address, int64_t *bytes, int32_t *is_device) {
  *is_device = nt::kHostIsDevice ? 1 : 0;
  return nt::map_file(path, address, bytes);
}

NT_API int32_t nt_file_unmap(nt_context *, void *address, int64_t bytes) { return nt::unmap_file(address, bytes); }

NT_API int32_t nt_file_forget(nt_context *, const void *address, int64_t bytes) {
  return nt::forget_file(address, bytes);
}

NT_API int32_t nt_upload(nt_context *context, void *destination, int32_t destination_dtype, const void *source,
                         int32_t source_dtype, int64_t n) {
  NT_TRY(nt::check_conversion("upload", destination, destination_dtype, source, source_dtype, n));
  return n == 0 ? NT_OK : nt::upload(context, destination, destination_dtype, source, source_dtype, n);
}

NT_API int32_t nt_cast(nt_context *context, void *destination, int32_t destination_dtype, const void *source,
                       int32_t source_dtype, int64_t n) {
  NT_TRY(nt::check_conversion("cast", destination, destination_dtype, source, source_dtype, n));
  return n == 0 ? NT_OK : nt::cast(context, destination, destination_dtype, source, source_dtype, n);
}
