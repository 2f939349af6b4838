// The thread pool, under the name and the ten functions of libgomp that oneDNN imports, so that oneDNN's parallel
// regions and our own kernels share one set of threads (and no OpenMP runtime has to be present).
//
// One region runs at a time. Its work is split into slots, one a thread; what a slot does depends on its number alone.
// A worker claims the slot that bears its own number. When the region's owner is done with slot 0 it claims whatever
// slots nobody has begun: where another process holds the worker's core, the owner does not wait for it.
//
// Workers spin for a short while after a region and then sleep on a condition variable: a step has thousands of
// regions a few microseconds apart, but an idle process must not burn a core. An owner that waits for a slot sleeps, too:
// on its core the system can then run the worker that another process keeps from its own.
#include <pthread.h>
#include <sched.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int kMaxThreads = 256;
constexpr int kSpins = 8000;  // 0.1 to 0.5 ms, longer than slots of a quiet machine end apart
constexpr size_t kStackBytes = 8u << 20;

struct Team {
  void (*function)(void *) = nullptr;
  void *data = nullptr;
  int size = 1;
  std::atomic<int> barrier_waiting{0};
  std::atomic<int> barrier_sleepers{0};
  std::atomic<unsigned> barrier_generation{0};
};

Team team;
std::atomic<uint64_t> generation{0};  // counts regions
// Slot n of region g: 2g while open, 2g + 1 once claimed. Whoever claims it knows that region g is still running,
// since it ends only when every slot is done.
std::atomic<uint64_t> slots[kMaxThreads];
std::atomic<int> unfinished{0};
std::atomic<bool> owner_sleeps{false};
std::atomic<int> workers{0};
std::atomic<int> max_threads{0};
pthread_mutex_t region_mutex = PTHREAD_MUTEX_INITIALIZER;  // held by the thread that owns the current region
pthread_mutex_t sleep_mutex = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
int sleepers = 0;

thread_local int thread_number = 0;
thread_local int nesting = 0;  // 0 outside a region; deeper than 1: run by the caller alone

struct WorkerStart {
  int number;
  uint64_t generation;
};

// Tells the processor that this thread waits in a loop.
inline void pause_briefly() {
#ifdef __aarch64__
  asm volatile("yield");
#else
  __builtin_ia32_pause();
#endif
}

// Sleeps until `word` may have another value than `seen`.
template <typename T>
void sleep_while(std::atomic<T> &word, T seen) {
  static_assert(sizeof word == 4, "futexes have 32 bits");
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
}

template <typename T>
void wake_all(std::atomic<T> &word) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
}

bool claim(int slot, uint64_t region) {
  uint64_t open = 2 * region;
  return slots[slot].compare_exchange_strong(open, open + 1, std::memory_order_acq_rel);
}

void run_slot(int slot) {
  thread_number = slot;
  team.function(team.data);
  // Sequentially consistent, as wait_for_slots is: one of the two sees what the other has written.
  if (unfinished.fetch_sub(1) == 1 && owner_sleeps.load()) wake_all(unfinished);
}

void wait_for_slots() {
  for (int i = 0; i < kSpins; i++) {
    if (unfinished.load(std::memory_order_acquire) == 0) return;
    pause_briefly();
  }
  owner_sleeps.store(true);
  for (int left = unfinished.load(); left != 0; left = unfinished.load()) sleep_while(unfinished, left);
  owner_sleeps.store(false);
}

void wait_for_next(uint64_t seen) {
  for (int i = 0; i < kSpins; i++) {
    if (generation.load(std::memory_order_acquire) != seen) return;
    pause_briefly();
  }
  pthread_mutex_lock(&sleep_mutex);
  sleepers++;
  while (generation.load(std::memory_order_acquire) == seen) pthread_cond_wait(&wake, &sleep_mutex);
  sleepers--;
  pthread_mutex_unlock(&sleep_mutex);
}

// For a handler of faults (kernels/faults): a frame on the thread's own stack may overwrite what oneDNN's code keeps
// below its stack pointer. Never freed, as the thread never ends.
void use_signal_stack() {
  constexpr size_t kBytes = 1 << 16;
  void *memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return;
  stack_t stack = {};
  stack.ss_sp = memory;
  stack.ss_size = kBytes;
  sigaltstack(&stack, nullptr);
}

void *worker_main(void *argument) {
  auto *start = static_cast<WorkerStart *>(argument);
  uint64_t seen = start->generation;
  int number = start->number;
  free(start);
  nesting = 1;
  use_signal_stack();
  for (;;) {
    wait_for_next(seen);
    seen = generation.load(std::memory_order_acquire);
    if (claim(number, seen)) run_slot(number);
  }
}

int default_threads() {
  cpu_set_t set;
  int count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : int(sysconf(_SC_NPROCESSORS_ONLN));
  return count < 1 ? 1 : count;
}

int thread_limit() {
  int limit = max_threads.load(std::memory_order_relaxed);
  if (limit == 0) {
    limit = default_threads();
    if (limit > kMaxThreads) limit = kMaxThreads;
    max_threads.store(limit, std::memory_order_relaxed);
  }
  return limit;
}

bool add_worker(int number) {
  auto *start = static_cast<WorkerStart *>(malloc(sizeof(WorkerStart)));
  if (start == nullptr) return false;
  *start = {number, generation.load()};
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_t thread;
  bool made = pthread_create(&thread, &attributes, worker_main, start) == 0;
  pthread_attr_destroy(&attributes);
  if (!made) free(start);
  return made;
}

void begin_region(void (*function)(void *), void *data, int size) {
  pthread_mutex_lock(&region_mutex);
  while (workers.load() < size - 1) {
    if (!add_worker(workers.load() + 1)) {
      size = workers.load() + 1;  // fewer threads are slower, not wrong
      break;
    }
    workers.fetch_add(1);
  }
  team.function = function;
  team.data = data;
  team.size = size;
  unfinished.store(size - 1);
  thread_number = 0;
  nesting = 1;
  uint64_t region = generation.load() + 1;
  for (int slot = 1; slot < size; slot++) slots[slot].store(2 * region, std::memory_order_relaxed);
  pthread_mutex_lock(&sleep_mutex);
  generation.store(region, std::memory_order_release);
  if (sleepers > 0) pthread_cond_broadcast(&wake);
  pthread_mutex_unlock(&sleep_mutex);
}

void end_region() {
  uint64_t region = generation.load();
  for (int slot = 1; slot < team.size; slot++)
    if (claim(slot, region)) run_slot(slot);
  wait_for_slots();
  thread_number = 0;
  nesting = 0;
  team.size = 1;
  pthread_mutex_unlock(&region_mutex);
}

}  // namespace

EXPORT int omp_get_max_threads() { return thread_limit(); }
EXPORT int omp_get_num_threads() { return nesting == 1 ? team.size : 1; }
EXPORT int omp_get_thread_num() { return nesting == 1 ? thread_number : 0; }
EXPORT int omp_in_parallel() { return nesting > 0 && team.size > 1; }
EXPORT void omp_set_num_threads(int count) {
  if (count > 0) max_threads.store(count < kMaxThreads ? count : kMaxThreads);
}

EXPORT void GOMP_parallel_start(void (*function)(void *), void *data, unsigned count) {
  if (nesting > 0) {
    nesting++;
    return;
  }
  begin_region(function, data, count > 0 ? int(count) : thread_limit());
}

EXPORT void GOMP_parallel_end() {
  if (nesting > 1) {
    nesting--;
  } else {
    end_region();
  }
}

EXPORT void GOMP_parallel(void (*function)(void *), void *data, unsigned count, unsigned) {
  GOMP_parallel_start(function, data, count);
  function(data);
  GOMP_parallel_end();
}

EXPORT void GOMP_barrier() {
  if (nesting != 1 || team.size < 2) return;
  unsigned current = team.barrier_generation.load();
  if (team.barrier_waiting.fetch_add(1) + 1 == team.size) {
    team.barrier_waiting.store(0);
    team.barrier_generation.fetch_add(1);
    if (team.barrier_sleepers.load() > 0) wake_all(team.barrier_generation);
    return;
  }
  for (int i = 0; i < kSpins; i++) {
    if (team.barrier_generation.load(std::memory_order_acquire) != current) return;
    pause_briefly();
  }
  team.barrier_sleepers.fetch_add(1);
  while (team.barrier_generation.load() == current) sleep_while(team.barrier_generation, current);
  team.barrier_sleepers.fetch_sub(1);
}

// The static schedule, one contiguous piece a thread (oneDNN passes no chunk size).
EXPORT bool GOMP_loop_static_start(long start, long end, long increment, long, long *first, long *last) {
  long count = increment > 0 ? (end - start + increment - 1) / increment : (end - start + increment + 1) / increment;
  if (count < 0) count = 0;
  long size = nesting == 1 ? team.size : 1, number = nesting == 1 ? thread_number : 0;
  long each = count / size, rest = count % size;
  long begin = number * each + (number < rest ? number : rest);
  long stop = begin + each + (number < rest ? 1 : 0);
  if (begin == stop) return false;
  *first = start + begin * increment;
  *last = start + stop * increment;
  return true;
}
EXPORT bool GOMP_loop_static_next(long *, long *) { return false; }
EXPORT void GOMP_loop_end_nowait() {}
