// Parallel loops over the pool of runtime/pool.cpp. Pieces are fixed by the count and the number of threads, so that
// sums made per piece come out the same every time.
#pragma once
#include <stdint.h>

#include <atomic>

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

// body(begin, end) on contiguous chunks that make up [0, count); below `least` items a thread fewer threads take part.
// Each thread has a piece, which it walks in about `chunks` chunks; a thread that is done takes over chunks of the
// others, so that nobody waits long for one whose core another process holds. Chunks of single elements hold whole
// vectors, so that what is left for the ends of pieces does not depend on them.
template <typename Body>
void parallel_for(int threads, int64_t count, int64_t least, const Body &body, int64_t chunks = 16) {
  constexpr int kMost = 256;
  constexpr int64_t kWhole = 64;
  int64_t useful = least > 0 ? count / least : count;
  if (useful < 1) useful = 1;
  if (useful > kMost) useful = kMost;
  const int n = useful < threads ? int(useful) : threads;
  if (n <= 1) {
    if (count > 0) body(int64_t(0), count);
    return;
  }
  int64_t chunk = count / (n * chunks) + 1;
  if (chunk < least) chunk = least;
  if (least >= kWhole) chunk = (chunk + kWhole - 1) / kWhole * kWhole;
  struct alignas(64) Share {
    std::atomic<int64_t> next;
    int64_t end;
  };
  Share shares[kMost];
  for (int i = 0; i < n; i++) {
    const Range range = piece(count, i, n);
    shares[i].next.store(range.begin, std::memory_order_relaxed);
    shares[i].end = range.end;
  }
  on_threads(n, [&](int thread, int) {
    for (int i = 0; i < n; i++) {
      Share &share = shares[(thread + i) % n];
      for (int64_t begin; (begin = share.next.fetch_add(chunk, std::memory_order_relaxed)) < share.end;)
        body(begin, begin + chunk < share.end ? begin + chunk : share.end);
    }
  });
}

}  // namespace nt
