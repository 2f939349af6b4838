// Runs grids: which CUDA thread goes next, who waits for whom.
//
// In the natural order a warp runs until it ends or waits for others; a seed mixes all threads of the block.
// A thread starts on the fiber of the thread that ended before it, so a kernel without barriers runs like a loop. One
// that waits keeps its fiber until it is released. (Under ThreadSanitizer each thread has one fiber for itself: on a
// shared stack two threads' locals would look like races.)
#include "scheduler.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stream.h"

namespace nt::emulator {

Position *current;
uint3 block_index;
dim3 block_size, grid_size;
Thread *threads[kMaxThreads];
int block_threads;
bool randomised;

namespace {

Fiber host;            // the stack that runs the grid
Fiber *active = &host;
bool broken;           // the block was abandoned
Body body;
void *body_arguments;

Fiber *fibers[kMaxThreads];  // all there are
int fiber_count;
Fiber *idle[kMaxThreads];  // those without a thread
int idle_count;

int unstarted[kMaxThreads];  // numbers of threads that have not begun: [next_unstarted, block_threads)
int next_unstarted;
int unfinished;

// Threads that may go on, in the order in which they will.
struct Ready {
  Thread *ring[kMaxThreads];
  unsigned first, count;
  void push_first(Thread *thread) {
    first = (first + kMaxThreads - 1) % kMaxThreads;
    ring[first] = thread;
    count++;
  }
  void push(Thread *thread) { ring[(first + count++) % kMaxThreads] = thread; }
  Thread *pop() {
    if (randomised) {
      Thread *&chosen = ring[(first + random_below(count)) % kMaxThreads], *&head = ring[first];
      Thread *swap = chosen;
      chosen = head;
      head = swap;
    }
    Thread *thread = ring[first];
    first = (first + 1) % kMaxThreads;
    count--;
    return thread;
  }
} ready;

// Results of a barrier stay readable until the barrier after the next is complete: two sets suffice.
struct Barrier {
  int waiting;
  unsigned generation;
  int count, results[2][3];
  Thread *threads[kMaxThreads];
} barrier;

struct Rendezvous {
  unsigned mask, arrived, generation;
  WarpOperation operation;
  void *lanes[32];
};
Rendezvous rendezvous[kMaxThreads / 32][32];  // of each warp, by the mask's lowest lane

// What ThreadSanitizer is told orders threads (fiber.h).
char launch_token, end_token, fence_token, barrier_tokens[2], warp_tokens[kMaxThreads / 32][2][32];

uint64_t random_state;

void run_threads();

Fiber *fiber_for(int number) {
#if defined(NT_EMULATED_TSAN)
  return threads[number]->fiber;
#else
  (void)number;
  if (idle_count > 0) return idle[--idle_count];
  Fiber *fiber = fiber_create(run_threads);
  fibers[fiber_count++] = fiber;
  return fiber;
#endif
}

bool any_unstarted() { return next_unstarted < block_threads; }

// Takes the next thread to begin; the natural order is 0, 1, 2, …
int take_unstarted() {
  if (randomised) {
    const int chosen = next_unstarted + int(random_below(uint32_t(block_threads - next_unstarted)));
    const int number = unstarted[chosen];
    unstarted[chosen] = unstarted[next_unstarted];
    unstarted[next_unstarted] = number;
  }
  return unstarted[next_unstarted++];
}

// Whether a thread begins before any goes on.
bool begin_next() {
  if (!any_unstarted()) return false;
  if (!randomised || ready.count == 0) return ready.count == 0;
  return random_below(uint32_t(block_threads - next_unstarted) + ready.count) >= ready.count;
}

void switch_to(Fiber *fiber) {
  Fiber *from = active;
  active = fiber;
  if (fiber != from) fiber_switch(from, fiber);
}

int thread_to_begin;  // for the fiber that is switched to

// Leaves the running fiber for whatever can run next.
void switch_away() {
  if (begin_next()) {
    thread_to_begin = take_unstarted();
    switch_to(fiber_for(thread_to_begin));
  } else if (ready.count > 0) {
    Thread *thread = ready.pop();
    current = &thread->position;
    switch_to(thread->fiber);
  } else {
    current = nullptr;
    switch_to(&host);  // all ended, or all wait
  }
}

void wait_in(Thread *thread, const char *what) {
  thread->waits_in = what;
  switch_away();
  thread->waits_in = nullptr;
}

// Whoever completes a barrier or collective runs on, unless chance lets others pass.
void maybe_pause(Thread *thread) {
  if (!randomised || random_below(2) == 0) return;
  ready.push(thread);
  switch_away();
}

void run_thread(int number) {
  Thread *thread = threads[number];
  thread->fiber = active;
  thread->finished = false;
  copies_begin(thread);
  current = &thread->position;
  NT_ACQUIRE(&launch_token);
  body(body_arguments);
  copies_end(thread);
  NT_RELEASE(&end_token);
  thread->finished = true;
  unfinished--;
}

// A fiber's whole life: threads one after another; idle while others run.
void run_threads() {
  fiber_entered();
  for (;;) {
    run_thread(thread_to_begin);
#if !defined(NT_EMULATED_TSAN)
    if (begin_next()) {
      thread_to_begin = take_unstarted();
      continue;
    }
    idle[idle_count++] = active;
#endif
    switch_away();
  }
}

void prepare_threads() {
  static Thread all[kMaxThreads];
  const dim3 block = block_size;
  for (int i = 0; i < block_threads; i++) {
    if (threads[i] == nullptr) {
      threads[i] = &all[i];
      threads[i]->pending = static_cast<Copy *>(calloc(kMaxCopies, sizeof(Copy)));
      if (threads[i]->pending == nullptr) abort();
#if defined(NT_EMULATED_TSAN)
      threads[i]->fiber = fibers[fiber_count++] = fiber_create(run_threads);
#endif
    }
    const unsigned n = unsigned(i);
    threads[i]->position = {{n % block.x, n / block.x % block.y, n / (block.x * block.y)}, i % 32, i / 32};
    unstarted[i] = i;
  }
}

void begin_block(size_t number) {
  const dim3 grid = grid_size;
  block_index = uint3{unsigned(number % grid.x), unsigned(number / grid.x % grid.y),
                      unsigned(number / (size_t(grid.x) * grid.y))};
  next_unstarted = 0;
  unfinished = block_threads;
  ready.first = ready.count = 0;
  barrier.waiting = barrier.count = 0;
  shared_begin_block();
  NT_RELEASE(&launch_token);
}

void report_stuck() {
  char text[1400];
  int length = snprintf(text, sizeof text, "deadlock: %d of %d threads wait for others", unfinished, block_threads);
  constexpr int kShown = 6;
  int shown = 0, ended = 0;
  const Thread *before = nullptr;
  for (int i = 0; i < block_threads; i++) {
    const Thread *thread = threads[i];
    ended += thread->finished;
    if (thread->finished || shown == kShown) continue;
    // One line for a run of threads that wait at the same place.
    if (before != nullptr && before->line == thread->line && before->waits_in == thread->waits_in) continue;
    before = thread;
    shown++;
    length += snprintf(text + length, sizeof text - size_t(length), "\n  from thread %d on: %s at %s:%d", i,
                       thread->waits_in, thread->file, thread->line);
  }
  if (ended > 0) snprintf(text + length, sizeof text - size_t(length), "\n  %d threads have ended", ended);
  broken = true;
  fail_host("%s", text);
}

void recover() {
  broken = false;
  idle_count = 0;
  for (int i = 0; i < fiber_count; i++) {
    fiber_restart(fibers[i], run_threads);
    idle[idle_count++] = fibers[i];
  }
  memset(rendezvous, 0, sizeof rendezvous);
}

void run_block(size_t number) {
  begin_block(number);
  switch_away();
  if (!broken && unfinished > 0) report_stuck();
  if (!broken && !shared_end_block()) broken = true;
  if (counting) count_end_block();
}

bool refuse(dim3 grid, dim3 block) {
  const uint64_t count = uint64_t(block.x) * block.y * block.z;
  return count == 0 || count > kMaxThreads || block.z > 64 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
         grid.x > 0x7FFFFFFFu || grid.y > 65535 || grid.z > 65535;
}

struct Grid {
  const void *kernel;
  dim3 grid, block;
  size_t dynamic_shared;
  Body body;
};

// Blocks in a random order: steps that share no factor with their number come by every one once.
void choose_order(size_t blocks, size_t *number, size_t *step) {
  *number = 0;
  *step = 1;
  if (!randomised || blocks < 3) return;
  auto share_factor = [](size_t a, size_t b) {
    while (b != 0) {
      const size_t rest = a % b;
      a = b;
      b = rest;
    }
    return a != 1;
  };
  do *step = 1 + random_below(uint32_t(blocks - 1));
  while (share_factor(blocks, *step));
  *number = random_below(uint32_t(blocks));
}

void seed_random() {
  const char *seed = getenv("NEFTUNE_EMULATOR_SEED");
  const uint64_t number = seed != nullptr ? strtoull(seed, nullptr, 10) : 0;
  randomised = number != 0;
  random_state = 0x9E3779B97F4A7C15u * (number + 1);
}

cudaError_t run_grid(void *arguments, void *data) {
  const Grid &grid = *static_cast<const Grid *>(arguments);
  report_begin_grid(grid.kernel);
  shared_begin_grid(grid.dynamic_shared);
  seed_random();
  fiber_adopt_thread(&host);
  grid_size = grid.grid;
  block_size = grid.block;
  block_threads = int(block_size.x * block_size.y * block_size.z);
  body = grid.body;
  body_arguments = data;
  prepare_threads();
  if (counting) count_begin_grid(grid.kernel, unsigned(block_threads), grid.dynamic_shared);
  catch_faults();
  const size_t blocks = size_t(grid_size.x) * grid_size.y * grid_size.z;
  size_t number, step;
  choose_order(blocks, &number, &step);
  for (size_t i = 0; i < blocks && !broken; i++, number = (number + step) % blocks) run_block(number);
  release_faults();
  report_begin_grid(nullptr);
  NT_ACQUIRE(&end_token);
  if (!broken) return cudaSuccess;
  recover();
  return cudaErrorLaunchFailure;
}

}  // namespace

uint32_t random_below(uint32_t n) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return uint32_t((random_state >> 32) * n >> 32);
}

char *running_stack() { return active->stack; }

void abandon_block() {
  broken = true;
  current = nullptr;
  active->leaving = true;
  switch_to(&host);
  abort();
}

namespace {

cudaError_t refuse_launch(const void *kernel, const char *what) {
  report_begin_grid(kernel);
  fail_host("%s", what);
  report_begin_grid(nullptr);
  return cudaErrorLaunchFailure;
}

}  // namespace

cudaError_t refuse_argument(const void *kernel) { return refuse_launch(kernel, "an argument points to host memory"); }
cudaError_t refuse_stream(const void *kernel) { return refuse_launch(kernel, "its stream is another device's"); }

cudaError_t enqueue_grid(const void *kernel, dim3 grid, dim3 block, size_t dynamic_shared, Body run,
                         const void *arguments, size_t bytes) {
  if (current != nullptr) fail("a kernel launches a kernel");
  if (refuse(grid, block)) return cudaErrorInvalidConfiguration;
  report_begin_grid(kernel);
  const cudaError_t status = shared_check(dynamic_shared);
  report_begin_grid(nullptr);
  if (status != cudaSuccess) return status;
  const Grid enqueued = {kernel, grid, block, dynamic_shared, run};
  return stream_enqueue(run_grid, &enqueued, sizeof enqueued, arguments, bytes);
}

int block_barrier(BlockReduction reduction, int predicate, const char *file, int line) {
  Thread *thread = running();
  const unsigned set = barrier.generation & 1;
  NT_RELEASE(&barrier_tokens[set]);
  if (randomised) copies_land_some(thread);
  thread->file = file;
  thread->line = line;
  barrier.count += predicate != 0;
  if (barrier.waiting + 1 < block_threads) {
    barrier.threads[barrier.waiting++] = thread;
    wait_in(thread, "__syncthreads");
  } else {
    for (int i = 0; i < barrier.waiting; i++) {
      Thread *other = barrier.threads[i];
      if (other->line != line || (other->file != file && strcmp(other->file, file) != 0))
        fail("divergent __syncthreads: thread %d at %s:%d, this one at %s:%d",
             other->position.warp * 32 + other->position.lane, other->file, other->line, file, line);
      ready.push(other);
    }
    int *results = barrier.results[set];
    results[kBlockCount] = barrier.count;
    results[kBlockAnd] = barrier.count == block_threads;
    results[kBlockOr] = barrier.count > 0;
    barrier.waiting = barrier.count = 0;
    barrier.generation++;
    maybe_pause(thread);
  }
  NT_ACQUIRE(&barrier_tokens[set]);
  return barrier.results[set][reduction];
}

void warp_collective(WarpOperation operation, unsigned mask, void *arguments, bool fence, const char *file, int line) {
  Thread *thread = running();
  const int lane = thread->position.lane, warp = thread->position.warp;
  const int lanes = block_threads - 32 * warp;
  const unsigned existing = lanes >= 32 ? ~0u : (1u << lanes) - 1;
  if (mask == ~0u) mask = existing;
  if ((mask & ~existing) != 0) fail("%s:%d: mask %08x names lanes that do not exist", file, line, mask);
  if (!(mask >> lane & 1)) fail("%s:%d: lane %d is not in its own mask %08x", file, line, lane, mask);
  if (randomised) copies_land_some(thread);
  Rendezvous &meeting = rendezvous[warp][__builtin_ctz(mask)];
  char *token = &warp_tokens[warp][meeting.generation & 1][__builtin_ctz(mask)];
  if (fence) NT_RELEASE(token);
  if (meeting.arrived == 0) {
    meeting.mask = mask;
    meeting.operation = operation;
  } else if (meeting.mask != mask || meeting.operation != operation) {
    const Thread *other = threads[32 * warp + __builtin_ctz(meeting.arrived)];
    fail("divergent warp: lane %d is in a collective at %s:%d, lane %d in another at %s:%d (masks %08x, %08x)", lane,
         file, line, other->position.lane, other->file, other->line, mask, meeting.mask);
  }
  meeting.lanes[lane] = arguments;
  meeting.arrived |= 1u << lane;
  thread->file = file;
  thread->line = line;
  if (meeting.arrived != mask) {
    wait_in(thread, "a warp collective");
  } else {
    operation(meeting.lanes, mask);
    meeting.arrived = 0;
    meeting.generation++;
    unsigned others = mask & ~(1u << lane);
    while (others != 0) {  // from the last lane to the first, so that the first goes on first
      const int last = 31 - __builtin_clz(others);
      others &= ~(1u << last);
      Thread *other = threads[32 * warp + last];
      if (other->line != line || (other->file != file && strcmp(other->file, file) != 0))
        fail("divergent warp: lane %d is in a collective at %s:%d, lane %d at %s:%d", lane, file, line,
             other->position.lane, other->file, other->line);
      ready.push_first(other);
    }
    maybe_pause(thread);
  }
  if (fence) NT_ACQUIRE(token);
}

// Fences order what stands before them on one side with what stands after them on the other.
void memory_fence() {
  NT_RELEASE(&fence_token);
  NT_ACQUIRE(&fence_token);
}

}  // namespace nt::emulator
