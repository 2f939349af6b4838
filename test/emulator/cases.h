// What correct.cu and mistakes.cu share with main.cpp.
#pragma once
#include <stdio.h>

#include "cuda/gpu.h"

// Runs a kernel; true where its result is the one expected of a correct kernel.
struct Case {
  const char *name;
  bool (*run)();
};
extern const Case kCorrect[], kMistakes[];
extern const int kCorrectCount, kMistakeCount;

// Emulated device memory, which the host may touch. Freed by nobody but free_device().
void *device_bytes(size_t bytes);
template <class T>
T *device(size_t count) {
  return static_cast<T *>(device_bytes(count * sizeof(T)));
}
// Frees all; false where the emulator then finds bytes changed around them.
bool free_device();

// Waits for a launch; true where it succeeded.
inline bool launched(cudaError_t status) {
  const cudaError_t waited = cudaDeviceSynchronize();
  if (status == cudaSuccess) status = waited;
  if (status != cudaSuccess) printf("launch: %s\n", cudaGetErrorString(status));
  return status == cudaSuccess;
}

// Copies pinned memory to the device and writes to it again, after the copy or, in error, whenever.
bool reuse_pinned(bool wait);
