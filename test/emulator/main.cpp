// main correct: runs every correct kernel. main NAME: runs one mistake. The exit status is 0 where all results were
// right and nothing was reported.
#include <string.h>

#include "cases.h"

namespace {

void *allocations[64];
int allocation_count;

bool run(const Case &each) {
  const bool good = each.run();
  const bool clean = free_device();
  printf("%s: %s\n", each.name, good && clean ? "right" : "wrong");
  return good && clean;
}

}  // namespace

void *device_bytes(size_t bytes) {
  void *p = nullptr;
  cudaMalloc(&p, bytes);
  return allocations[allocation_count++] = p;
}

bool free_device() {
  bool clean = true;
  while (allocation_count > 0) clean = launched(cudaFree(allocations[--allocation_count])) && clean;
  return clean;
}

bool reuse_pinned(bool wait) {
  constexpr int kCount = 64;
  auto *device_values = device<float>(kCount);
  float *values = nullptr;
  cudaEvent_t copied = nullptr;
  cudaHostAlloc(reinterpret_cast<void **>(&values), kCount * sizeof(float), cudaHostAllocDefault);
  cudaEventCreateWithFlags(&copied, cudaEventDisableTiming);
  bool good = true;
  for (int round = 0; round < 4; round++) {
    for (int t = 0; t < kCount; t++) values[t] = float(round);
    cudaMemcpyAsync(device_values, values, kCount * sizeof(float), cudaMemcpyHostToDevice, nullptr);
    cudaEventRecord(copied, nullptr);
    if (wait) cudaEventSynchronize(copied);
    for (int t = 0; t < kCount; t++) values[t] = -1.0f;
    good = launched(cudaSuccess) && device_values[kCount - 1] == float(round) && good;
  }
  cudaEventDestroy(copied);
  return launched(cudaFreeHost(values)) && good;
}

int main(int count, char **arguments) {
  const char *wanted = count > 1 ? arguments[1] : "";
  bool good = true, found = false;
  if (strcmp(wanted, "correct") == 0) {
    found = true;
    for (int i = 0; i < kCorrectCount; i++) good = run(kCorrect[i]) && good;
  }
  for (int i = 0; i < kMistakeCount; i++) {
    if (strcmp(wanted, kMistakes[i].name) != 0) continue;
    found = true;
    good = run(kMistakes[i]);
    // After a failed launch the next must find everything in order.
    if (!good) good = run(kCorrect[0]) && false;
  }
  if (!found) fprintf(stderr, "no such case: %s\n", wanted);
  return found && good ? 0 : 1;
}
