// Parallel loops over the pool of runtime/pool.cpp. Pieces are fixed by the count and the number of threads, so that
// sums made per piece come out the same every time.
#pragma once
#include <stdint.h>

extern "C" {
void GOMP_parallel_start(void (*function)(void *), void *data, unsigned count);
void GOMP_parallel_end();
void GOMP_barrier();
int omp_get_num_threads();
int omp_get_thread_num();
int omp_get_max_threads();
void omp_set_num_threads(int count);
}

namespace nt {

// Runs body(thread, threads) on every thread of the pool.
template <typename Body>
void on_threads(int threads, const Body &body) {
  if (threads <= 1 || omp_get_num_threads() > 1) {
    body(0, 1);
    return;
  }
  auto call = [](void *data) {
    (*static_cast<const Body *>(data))(omp_get_thread_num(), omp_get_num_threads());
  };
  void *data = const_cast<void *>(static_cast<const void *>(&body));
  GOMP_parallel_start(call, data, unsigned(threads));
  call(data);
  GOMP_parallel_end();
}

struct Range {
  int64_t begin, end;
};

// The piece of [0, count) that falls to `thread`, in multiples of `grain`.
inline Range piece(int64_t count, int thread, int threads, int64_t grain = 1) {
  int64_t blocks = (count + grain - 1) / grain;
  int64_t each = blocks / threads, rest = blocks % threads;
  int64_t begin = thread * each + (thread < rest ? thread : rest);
  int64_t end = begin + each + (thread < rest ? 1 : 0);
  begin *= grain;
  end *= grain;
  return {begin < count ? begin : count, end < count ? end : count};
}

// body(begin, end) on contiguous pieces of [0, count); below `least` items a thread fewer threads take part.
template <typename Body>
void parallel_for(int threads, int64_t count, int64_t least, const Body &body) {
  int64_t useful = least > 0 ? count / least : count;
  if (useful < 1) useful = 1;
  int n = useful < threads ? int(useful) : threads;
  if (n <= 1) {
    if (count > 0) body(int64_t(0), count);
    return;
  }
  on_threads(n, [&](int thread, int size) {
    Range range = piece(count, thread, size);
    if (range.begin < range.end) body(range.begin, range.end);
  });
}

}  // namespace nt
