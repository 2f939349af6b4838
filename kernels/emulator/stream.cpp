#include "stream.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

namespace nt::emulator {
namespace {

struct Item {
  Item *next;
  Work run;
  size_t bytes;                         // of arguments, rounded up; the data follow
  alignas(16) unsigned char payload[];  // arguments and data
};

pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
Item *first, *last;
uint64_t enqueued, passed;
cudaError_t failure;  // of work that ran after its call had returned
uint64_t random_state;

bool delayed() {
  static const bool seeded = [] {
    const char *seed = getenv("NEFTUNE_EMULATOR_SEED");
    random_state = seed != nullptr ? strtoull(seed, nullptr, 10) : 0;
    return random_state != 0;
  }();
  return seeded;
}

// Runs the oldest item.
void run_one() {
  Item *item = first;
  first = item->next;
  if (first == nullptr) last = nullptr;
  const cudaError_t status = item->run(item->payload, item->payload + item->bytes);
  if (status != cudaSuccess && failure == cudaSuccess) failure = status;
  free(item);
  passed++;
}

cudaError_t take_failure() {
  const cudaError_t status = failure;
  failure = cudaSuccess;
  return status;
}

}  // namespace

bool dry() {
  static const bool is_dry = [] {
    const char *chosen = getenv("NEFTUNE_EMULATOR_DRY");
    return chosen != nullptr && strcmp(chosen, "1") == 0;
  }();
  return is_dry;
}

cudaError_t stream_enqueue(Work run, const void *arguments, size_t bytes, const void *data, size_t data_bytes) {
  pthread_mutex_lock(&lock);
  cudaError_t status;
  if (dry()) {
    status = cudaSuccess;
    enqueued = ++passed;
  } else if (!delayed()) {
    status = run(const_cast<void *>(arguments), const_cast<void *>(data));
    enqueued = ++passed;
  } else {
    const size_t rounded = (bytes + 15) / 16 * 16;
    auto *item = static_cast<Item *>(malloc(sizeof(Item) + rounded + data_bytes));
    if (item == nullptr) abort();
    item->next = nullptr;
    item->run = run;
    item->bytes = rounded;
    memcpy(item->payload, arguments, bytes);
    if (data_bytes > 0) memcpy(item->payload + rounded, data, data_bytes);
    (last != nullptr ? last->next : first) = item;
    last = item;
    enqueued++;
    // Now and then the device catches up, by a little or wholly.
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    const uint64_t chance = random_state >> 33;
    if (chance % 8 == 0)
      for (uint64_t left = chance / 8 % 64; left > 0 && first != nullptr; left--) run_one();
    status = take_failure();
  }
  pthread_mutex_unlock(&lock);
  return status;
}

uint64_t stream_position() {
  pthread_mutex_lock(&lock);
  const uint64_t position = enqueued;
  pthread_mutex_unlock(&lock);
  return position;
}

bool stream_passed(uint64_t position) {
  pthread_mutex_lock(&lock);
  if (passed < position && first != nullptr) run_one();  // whoever asks again and again sees it end
  const bool is_passed = passed >= position;
  pthread_mutex_unlock(&lock);
  return is_passed;
}

cudaError_t stream_wait(uint64_t position) {
  pthread_mutex_lock(&lock);
  while (passed < position && first != nullptr) run_one();
  const cudaError_t status = take_failure();
  pthread_mutex_unlock(&lock);
  return status;
}

}  // namespace nt::emulator
