// Tables and uploads: see staging.h. The host side is plain C++ with a few threads of its own; nothing here is a kernel.
#include "staging.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "../bf16.h"

namespace nt {
namespace {

// The ring has as many bytes on the device as in pinned memory, table by table at the same offset. A segment is written
// again only when the copies out of it have run; kernels that read its device half came before in the same stream.
constexpr int64_t kSegmentBytes = int64_t(2) << 20;
constexpr int kSegments = 8;
constexpr int64_t kRingBytes = kSegments * kSegmentBytes;
constexpr int kTables = 256;
constexpr int64_t kTableAlignment = 256;

// Two chunks of an upload: large enough for the full rate of the bus, small enough to pin at once.
constexpr int64_t kChunkBytes = int64_t(32) << 20;
constexpr int kMostWorkers = 8;
// Below this many bytes one thread copies alone.
constexpr int64_t kWorthSharing = int64_t(1) << 20;

struct Table {
  uint64_t hash;
  int64_t offset, bytes;
};

// A table is found again in the newest half of the ring only. What a call has been given must outlast the call's other
// tables, which may move the ring on, over the oldest segments.
constexpr int kFreshSegments = kSegments / 2;

// One share of a chunk for a copying thread.
struct Job {
  char *destination;
  const char *source;
  int64_t n;
  int32_t destination_dtype, source_dtype;
};

}  // namespace

struct Staging {
  char *ring_host, *ring_device;
  cudaEvent_t segment_copied[kSegments];
  bool segment_used[kSegments];
  int64_t segment, segment_bytes;  // where the next table goes
  Table tables[kTables];
  int table_count, table_next;

  char *chunks[2];
  cudaEvent_t chunk_copied[2];
  bool chunk_used[2];
  int chunk_next;

  // Workers sleep until `round` changes, take jobs by index, and the last to finish wakes the caller.
  pthread_mutex_t lock;
  pthread_cond_t wake, done;
  pthread_t workers[kMostWorkers];
  int worker_count, jobs_left, job_next, job_count;
  bool stopping;
  Job jobs[kMostWorkers + 1];
};

namespace {

uint64_t hash_of(const char *bytes, int64_t n) {
  uint64_t hash = 0xCBF29CE484222325u ^ uint64_t(n);
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    uint64_t word;
    memcpy(&word, bytes + i, 8);
    hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 29;
  }
  for (; i < n; i++) hash = (hash ^ uint8_t(bytes[i])) * 0x100000001B3u;
  return hash;
}

// Forgets the tables whose bytes lie in [begin, end).
void forget_tables(Staging &staging, int64_t begin, int64_t end) {
  for (int i = 0; i < staging.table_count; i++) {
    Table &table = staging.tables[i];
    if (table.offset < end && begin < table.offset + table.bytes) table.bytes = -1;
  }
}

// Room for `bytes` in one segment of the ring, free to write. Sets its offset.
int32_t ring_reserve(nt_context *context, int64_t bytes, int64_t *offset) {
  Staging &staging = *context->staging;
  NT_CHECK(bytes <= kSegmentBytes, "a table of %lld bytes is larger than the %lld that fit", (long long)bytes,
           (long long)kSegmentBytes);
  const int64_t size = ceil_div(bytes, kTableAlignment) * kTableAlignment;
  if (staging.segment_bytes + size > kSegmentBytes) {
    NT_CUDA(cudaEventRecord(staging.segment_copied[staging.segment], context->stream), "staging");
    staging.segment_used[staging.segment] = true;
    staging.segment = (staging.segment + 1) % kSegments;
    staging.segment_bytes = 0;
    if (staging.segment_used[staging.segment])
      NT_CUDA(cudaEventSynchronize(staging.segment_copied[staging.segment]), "staging");
    forget_tables(staging, staging.segment * kSegmentBytes, (staging.segment + 1) * kSegmentBytes);
  }
  *offset = staging.segment * kSegmentBytes + staging.segment_bytes;
  staging.segment_bytes += size;
  return NT_OK;
}

int32_t copy_from_pinned(nt_context *context, void *destination, const void *pinned, int64_t bytes, const char *what) {
  const Watched watched(context->stream, moved("copy to the device", bytes));
  NT_CUDA(cudaMemcpyAsync(destination, pinned, size_t(bytes), cudaMemcpyHostToDevice, context->stream), what);
  return NT_OK;
}

float read_float(const char *source, int32_t dtype, int64_t i) {
  if (dtype == NT_F32) {
    float value;
    memcpy(&value, source + 4 * i, 4);
    return value;
  }
  uint16_t bits;
  memcpy(&bits, source + 2 * i, 2);
  return dtype == NT_BF16 ? nt_bf16_to_float(bits) : nt_f16_to_float(bits);
}

void run(const Job &job) {
  if (job.destination_dtype == job.source_dtype) {
    memcpy(job.destination, job.source, size_t(job.n * size_of(job.source_dtype)));
  } else if (job.destination_dtype == NT_F32) {
    float *destination = reinterpret_cast<float *>(job.destination);
    for (int64_t i = 0; i < job.n; i++) destination[i] = read_float(job.source, job.source_dtype, i);
  } else {
    nt_bf16 *destination = reinterpret_cast<nt_bf16 *>(job.destination);
    for (int64_t i = 0; i < job.n; i++)
      destination[i] = nt_float_to_bf16(read_float(job.source, job.source_dtype, i));
  }
}

// Takes jobs until none is left. Called and returns with the lock held.
void take_jobs(Staging &staging) {
  while (staging.job_next < staging.job_count) {
    const Job job = staging.jobs[staging.job_next++];
    pthread_mutex_unlock(&staging.lock);
    run(job);
    pthread_mutex_lock(&staging.lock);
    if (--staging.jobs_left == 0) pthread_cond_signal(&staging.done);
  }
}

void *worker(void *argument) {
  Staging &staging = *static_cast<Staging *>(argument);
  pthread_mutex_lock(&staging.lock);
  while (!staging.stopping) {
    take_jobs(staging);
    pthread_cond_wait(&staging.wake, &staging.lock);
  }
  pthread_mutex_unlock(&staging.lock);
  return nullptr;
}

void start_workers(Staging &staging) {
  cpu_set_t usable;
  const int processors = sched_getaffinity(0, sizeof usable, &usable) == 0 ? CPU_COUNT(&usable) : 1;
  const int wanted = processors - 1 < kMostWorkers ? processors - 1 : kMostWorkers;
  while (staging.worker_count < wanted &&
         pthread_create(&staging.workers[staging.worker_count], nullptr, worker, &staging) == 0)
    staging.worker_count++;
}

// Fills destination[n] from source[n], shared among the workers and the caller.
void fill_chunk(Staging &staging, const Job &whole) {
  if (whole.n * size_of(whole.source_dtype) < kWorthSharing) {
    run(whole);
    return;
  }
  if (staging.worker_count == 0) start_workers(staging);
  const int shares = staging.worker_count + 1;
  pthread_mutex_lock(&staging.lock);
  staging.job_next = staging.job_count = 0;
  for (int i = 0; i < shares; i++) {
    const int64_t begin = whole.n * i / shares, end = whole.n * (i + 1) / shares;
    staging.jobs[staging.job_count++] = {whole.destination + begin * size_of(whole.destination_dtype),
                                         whole.source + begin * size_of(whole.source_dtype), end - begin,
                                         whole.destination_dtype, whole.source_dtype};
  }
  staging.jobs_left = shares;
  pthread_cond_broadcast(&staging.wake);
  take_jobs(staging);
  while (staging.jobs_left > 0) pthread_cond_wait(&staging.done, &staging.lock);
  pthread_mutex_unlock(&staging.lock);
}

}  // namespace

int32_t staging_create(nt_context *context) {
  auto *staging = static_cast<Staging *>(calloc(1, sizeof(Staging)));
  if (staging == nullptr) return fail(NT_OUT_OF_MEMORY, "out of memory");
  context->staging = staging;
  pthread_mutex_init(&staging->lock, nullptr);
  pthread_cond_init(&staging->wake, nullptr);
  pthread_cond_init(&staging->done, nullptr);
  NT_CUDA(cudaHostAlloc(reinterpret_cast<void **>(&staging->ring_host), size_t(kRingBytes), cudaHostAllocDefault),
          "pinned memory");
  NT_CUDA(cudaMalloc(reinterpret_cast<void **>(&staging->ring_device), size_t(kRingBytes)), "device memory");
  for (cudaEvent_t &event : staging->segment_copied)
    NT_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
  for (cudaEvent_t &event : staging->chunk_copied)
    NT_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
  return NT_OK;
}

void staging_destroy(nt_context *context) {
  Staging *staging = context->staging;
  if (staging == nullptr) return;
  pthread_mutex_lock(&staging->lock);
  staging->stopping = true;
  pthread_cond_broadcast(&staging->wake);
  pthread_mutex_unlock(&staging->lock);
  for (int i = 0; i < staging->worker_count; i++) pthread_join(staging->workers[i], nullptr);
  for (cudaEvent_t event : staging->segment_copied)
    if (event != nullptr) cudaEventDestroy(event);
  for (cudaEvent_t event : staging->chunk_copied)
    if (event != nullptr) cudaEventDestroy(event);
  if (staging->ring_host != nullptr) cudaFreeHost(staging->ring_host);
  if (staging->ring_device != nullptr) cudaFree(staging->ring_device);
  for (char *chunk : staging->chunks)
    if (chunk != nullptr) cudaFreeHost(chunk);
  pthread_mutex_destroy(&staging->lock);
  pthread_cond_destroy(&staging->wake);
  pthread_cond_destroy(&staging->done);
  free(staging);
  context->staging = nullptr;
}

const void *device_table(nt_context *context, const void *host, int64_t bytes) {
  Staging &staging = *context->staging;
  if (bytes <= 0) return staging.ring_device;  // never read, but not null
  const char *contents = static_cast<const char *>(host);
  const uint64_t hash = hash_of(contents, bytes);
  for (int i = 0; i < staging.table_count; i++) {
    const Table &table = staging.tables[i];
    const int64_t age = (staging.segment - table.offset / kSegmentBytes + kSegments) % kSegments;
    if (table.hash == hash && table.bytes == bytes && age < kFreshSegments &&
        memcmp(staging.ring_host + table.offset, host, size_t(bytes)) == 0)
      return staging.ring_device + table.offset;
  }
  int64_t offset;
  if (ring_reserve(context, bytes, &offset) != NT_OK) return nullptr;
  memcpy(staging.ring_host + offset, host, size_t(bytes));
  char *device = staging.ring_device + offset;
  if (copy_from_pinned(context, device, staging.ring_host + offset, bytes, "table") != NT_OK)
    return nullptr;
  staging.tables[staging.table_next] = {hash, offset, bytes};
  staging.table_next = (staging.table_next + 1) % kTables;
  if (staging.table_count < kTables) staging.table_count++;
  return device;
}

int32_t stage_convert(nt_context *context, void *destination, int32_t destination_dtype, const void *host,
                      int32_t source_dtype, int64_t n) {
  Staging &staging = *context->staging;
  const int64_t size = size_of(destination_dtype), source_size = size_of(source_dtype);
  char *to = static_cast<char *>(destination);
  const char *from = static_cast<const char *>(host);
  if (n * size <= kSegmentBytes / 8) {  // small: through the ring
    int64_t offset;
    if (n == 0) return NT_OK;
    int32_t status = ring_reserve(context, n * size, &offset);
    if (status != NT_OK) return status;
    run({staging.ring_host + offset, from, n, destination_dtype, source_dtype});
    return copy_from_pinned(context, to, staging.ring_host + offset, n * size, "upload");
  }
  const int64_t per_chunk = kChunkBytes / size;
  for (int64_t begin = 0; begin < n; begin += per_chunk) {
    const int64_t count = n - begin < per_chunk ? n - begin : per_chunk;
    const int which = staging.chunk_next;
    staging.chunk_next ^= 1;
    char *&chunk = staging.chunks[which];
    if (chunk == nullptr)
      NT_CUDA(cudaHostAlloc(reinterpret_cast<void **>(&chunk), size_t(kChunkBytes), cudaHostAllocDefault),
              "pinned memory");
    if (staging.chunk_used[which]) NT_CUDA(cudaEventSynchronize(staging.chunk_copied[which]), "upload");
    fill_chunk(staging, {chunk, from + begin * source_size, count, destination_dtype, source_dtype});
    const int32_t status = copy_from_pinned(context, to + begin * size, chunk, count * size, "upload");
    if (status != NT_OK) return status;
    NT_CUDA(cudaEventRecord(staging.chunk_copied[which], context->stream), "upload");
    staging.chunk_used[which] = true;
  }
  return NT_OK;
}

int32_t stage_copy(nt_context *context, void *destination, const void *host, int64_t bytes) {
  // As 16-bit values of one type nothing is converted; an odd last byte goes alone.
  const int64_t pairs = bytes / 2;
  int32_t status = stage_convert(context, destination, NT_BF16, host, NT_BF16, pairs);
  if (status != NT_OK || bytes % 2 == 0) return status;
  int64_t offset;
  status = ring_reserve(context, 1, &offset);
  if (status != NT_OK) return status;
  context->staging->ring_host[offset] = static_cast<const char *>(host)[bytes - 1];
  return copy_from_pinned(context, static_cast<char *>(destination) + bytes - 1, context->staging->ring_host + offset,
                          1, "upload");
}

}  // namespace nt
