// What the sanitizers' driver makes its cases of: calls whose names are printed, and device arrays exactly as long as asked
// for.
#pragma once
#include <stdio.h>
#include <stdlib.h>

#include "neftune.h"

namespace {

nt_context *context;

void check(int32_t status, const char *name) {
  if (status == NT_OK) {
    printf("%s\n", name);
  } else if (status == NT_UNSUPPORTED) {
    printf("skipped %s: %s\n", name, nt_last_error());
  } else {
    printf("failed %s: %s\n", name, nt_last_error());
    exit(1);
  }
}
#define CALL(function, ...) check(function(context, __VA_ARGS__), #function)

// Device arrays of the running case, each exactly as long as asked for.
void *arrays[128];
int array_count;

void *bytes(int64_t n) {
  void *address = nullptr;
  CALL(nt_malloc, n, &address);
  return arrays[array_count++] = address;
}

void free_arrays() {
  check(nt_synchronize(context), "nt_synchronize");
  while (array_count > 0) CALL(nt_free, arrays[--array_count]);
}

uint32_t random_state = 1;
float random_float() {  // in [−1, 1)
  random_state = random_state * 1664525u + 1013904223u;
  return float(random_state >> 8) / float(1 << 23) - 1.0f;
}

int64_t size_of(int32_t dtype) { return dtype == NT_F32 ? 4 : 2; }

template <class T>
T *copied(const T *host, int64_t n) {
  T *device = static_cast<T *>(bytes(n * int64_t(sizeof(T))));
  CALL(nt_copy_to_device, device, host, n * int64_t(sizeof(T)));
  return device;
}

// n random numbers; `offset` elements stand before them, so that they are not aligned.
void *numbers(int32_t dtype, int64_t n, float scale = 1.0f, int64_t offset = 0) {
  auto *host = static_cast<float *>(malloc(size_t(n + offset + 1) * 4));
  for (int64_t i = 0; i < n + offset; i++) host[i] = scale * random_float();
  void *device = bytes((n + offset) * size_of(dtype));
  CALL(nt_upload, device, dtype, host, NT_F32, n + offset);
  free(host);
  return static_cast<char *>(device) + offset * size_of(dtype);
}
float *floats(int64_t n, float scale = 1.0f) { return static_cast<float *>(numbers(NT_F32, n, scale)); }
float *zeros(int64_t n) {
  void *address = bytes(4 * n);
  CALL(nt_memset, address, 0, 4 * n);
  return static_cast<float *>(address);
}

// A [rows, columns] matrix with `gap` elements between rows and `gap` before the first.
struct Matrix {
  void *data;
  int64_t ld;
};
Matrix matrix(int32_t dtype, int64_t rows, int64_t columns, int64_t gap = 0) {
  const int64_t ld = columns + gap;
  return {numbers(dtype, rows > 0 ? (rows - 1) * ld + columns : 0, 1.0f, gap), ld};
}

int32_t *ids(int64_t n, int64_t below) {
  int32_t host[512];
  for (int64_t i = 0; i < n; i++) host[i] = int32_t((random_state = random_state * 69069u + 1) >> 8) % int32_t(below);
  return copied(host, n);
}

constexpr int32_t kDtypes[] = {NT_F32, NT_BF16};

}  // namespace
