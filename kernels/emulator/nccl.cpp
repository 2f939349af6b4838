// A stand-in for NCCL with the meaning of NVIDIA's, for what ../cuda/nccl.h declares: collectives between processes of one
// machine, over a shared file. They run in the stream, sums in the order of the ranks. Stricter than the real one: it
// checks every extent against the device's allocations.
#include "../cuda/nccl.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

#include "../bf16.h"
#include "device_memory.h"
#include "stream.h"

namespace nt::nccl {
namespace {

constexpr int kMostRanks = 64;
constexpr int64_t kSlot = 1 << 18;  // bytes that a rank shows the others at a time
constexpr int kSpinsPerLook = 1024;
constexpr int kAborted = -1;

struct Shared {
  std::atomic<int> arrived;
  std::atomic<uint32_t> round;
  std::atomic<int> process[kMostRanks];  // 0: not there yet
  alignas(64) char slots[];
};

}  // namespace

struct Comm {
  Shared *shared;
  int rank, ranks;
  std::atomic<Status> failure;  // of a collective that ran
};

namespace {

size_t shared_bytes(int ranks) { return sizeof(Shared) + size_t(ranks) * size_t(kSlot); }
size_t size_of(DataType type) { return type == kFloat32 ? 4 : 2; }

float load(const char *p, DataType type) {
  if (type == kBfloat16) {
    uint16_t half;
    memcpy(&half, p, 2);
    return nt_bf16_to_float(half);
  }
  float value;
  memcpy(&value, p, 4);
  return value;
}
void store(char *p, float value, DataType type) {
  const uint16_t half = nt_float_to_bf16(value);
  if (type == kBfloat16) {
    memcpy(p, &half, 2);
  } else {
    memcpy(p, &value, 4);
  }
}

bool all_alive(const Comm *comm) {
  for (int r = 0; r < comm->ranks; r++) {
    const int process = comm->shared->process[r];
    if (process == kAborted || (process > 0 && kill(process, 0) != 0 && errno == ESRCH)) return false;
  }
  return true;
}

// Returns when all ranks are here; false where one is gone.
bool meet(const Comm *comm) {
  Shared *shared = comm->shared;
  const uint32_t round = shared->round;
  if (shared->arrived.fetch_add(1) + 1 == comm->ranks) {
    shared->arrived = 0;
    shared->round = round + 1;
    return true;
  }
  for (int64_t spins = 1; shared->round == round; spins++) {
    sched_yield();
    if (spins % kSpinsPerLook == 0 && !all_alive(comm)) return false;
  }
  return true;
}

const char *slot(const Comm *comm, int rank) { return comm->shared->slots + rank * kSlot; }

// Shows `bytes` of `from` piece by piece (null: shows nothing); take(offset, n) reads the slots while they are valid.
template <class Take>
bool exchange(const Comm *comm, const char *from, int64_t bytes, const Take &take) {
  for (int64_t at = 0; at < bytes; at += kSlot) {
    const int64_t n = bytes - at < kSlot ? bytes - at : kSlot;
    if (from != nullptr) memcpy(comm->shared->slots + comm->rank * kSlot, from + at, size_t(n));
    if (!meet(comm)) return false;
    take(at, n);
    if (!meet(comm)) return false;
  }
  return true;
}

// to[n] = the sum of the ranks' slots.
void add_slots(const Comm *comm, char *to, int64_t n, DataType type) {
  const int64_t each = int64_t(size_of(type));
  for (int64_t i = 0; i < n; i += each) {
    float sum = load(slot(comm, 0) + i, type);
    for (int r = 1; r < comm->ranks; r++) sum += load(slot(comm, r) + i, type);
    store(to + i, sum, type);
  }
}

enum Kind { kAllReduce, kReduceScatter, kAllGather, kBroadcast };
struct Collective {
  Kind kind;
  Comm *comm;
  const char *from;
  char *to;
  int64_t bytes;
  DataType type;
  int root;
};

bool run(const Collective &c) {
  const Comm *comm = c.comm;
  const auto from_all = [&](int64_t at, int64_t n) {
    for (int r = 0; r < comm->ranks; r++) memcpy(c.to + r * c.bytes + at, slot(comm, r), size_t(n));
  };
  switch (c.kind) {
    case kAllReduce:
      return exchange(comm, c.from, c.bytes, [&](int64_t at, int64_t n) { add_slots(comm, c.to + at, n, c.type); });
    case kAllGather: return exchange(comm, c.from, c.bytes, from_all);
    case kBroadcast:
      return exchange(comm, comm->rank == c.root ? c.from : nullptr, c.bytes,
                      [&](int64_t at, int64_t n) { memcpy(c.to + at, slot(comm, c.root), size_t(n)); });
    case kReduceScatter:
      for (int r = 0; r < comm->ranks; r++) {  // each rank's share in turn
        const auto take = [&](int64_t at, int64_t n) {
          if (comm->rank == r) add_slots(comm, c.to + at, n, c.type);
        };
        if (!exchange(comm, c.from + r * c.bytes, c.bytes, take)) return false;
      }
      return true;
  }
  return false;
}

cudaError_t run_collective(void *arguments, void *) {
  const Collective &collective = *static_cast<const Collective *>(arguments);
  if (collective.comm->failure == kSuccess && !run(collective)) collective.comm->failure = kRemoteError;
  return cudaSuccess;  // as with NCCL: CommGetAsyncError tells
}

Status enqueue(const Collective &collective, size_t reads, size_t writes) {
  if (collective.comm == nullptr || collective.bytes < 0) return kInvalidArgument;
  if (!emulator::memory_holds(collective.from, reads) || !emulator::memory_holds(collective.to, writes)) {
    emulator::fail_host("NCCL: values that are not in one device allocation");
    return kInvalidArgument;
  }
  if (emulator::stream_enqueue(run_collective, &collective, sizeof collective) != cudaSuccess) return kSystemError;
  return kSuccess;
}

Status AllReduce(const void *from, void *to, size_t count, DataType type, Operation, Comm *comm, CUstream_st *) {
  const size_t bytes = count * size_of(type);
  return enqueue({kAllReduce, comm, static_cast<const char *>(from), static_cast<char *>(to), int64_t(bytes), type, 0},
                 bytes, bytes);
}
Status ReduceScatter(const void *from, void *to, size_t count, DataType type, Operation, Comm *comm, CUstream_st *) {
  const size_t bytes = count * size_of(type);
  return enqueue(
      {kReduceScatter, comm, static_cast<const char *>(from), static_cast<char *>(to), int64_t(bytes), type, 0},
      bytes * size_t(comm->ranks), bytes);
}
Status AllGather(const void *from, void *to, size_t count, DataType type, Comm *comm, CUstream_st *) {
  const size_t bytes = count * size_of(type);
  return enqueue({kAllGather, comm, static_cast<const char *>(from), static_cast<char *>(to), int64_t(bytes), type, 0},
                 bytes, bytes * size_t(comm->ranks));
}
Status Broadcast(const void *from, void *to, size_t count, DataType type, int root, Comm *comm, CUstream_st *) {
  const size_t bytes = count * size_of(type);
  return enqueue(
      {kBroadcast, comm, static_cast<const char *>(from), static_cast<char *>(to), int64_t(bytes), type, root}, bytes,
      bytes);
}

Status GetVersion(int *version) {
  *version = 21800;
  return kSuccess;
}
const char *GetErrorString(Status status) {
  switch (status) {
    case kSuccess: return "no error";
    case kRemoteError: return "remote process exited";
    case kInvalidArgument: return "invalid argument";
    default: return "an error of the emulator";
  }
}
const char *GetLastError(Comm *) { return ""; }

Status GetUniqueId(UniqueId *id) {
  static std::atomic<int> count;
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  memset(id, 0, sizeof *id);
  snprintf(id->internal, sizeof id->internal, "/dev/shm/neftune-emulator-%d-%d-%ld-%ld", getpid(), int(count++),
           long(now.tv_sec), now.tv_nsec);
  return kSuccess;
}

Status CommInitRank(Comm **result, int ranks, UniqueId id, int rank) {
  if (ranks < 1 || ranks > kMostRanks || rank < 0 || rank >= ranks) return kInvalidArgument;
  const int file = open(id.internal, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0) return kSystemError;
  void *mapping = MAP_FAILED;
  if (ftruncate(file, off_t(shared_bytes(ranks))) == 0)
    mapping = mmap(nullptr, shared_bytes(ranks), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (mapping == MAP_FAILED) return kSystemError;
  auto *comm = static_cast<Comm *>(calloc(1, sizeof(Comm)));
  if (comm == nullptr) return kSystemError;
  comm->shared = static_cast<Shared *>(mapping);
  comm->rank = rank;
  comm->ranks = ranks;
  comm->shared->process[rank] = getpid();
  *result = comm;
  if (!meet(comm)) return kRemoteError;
  if (rank == 0) unlink(id.internal);
  return kSuccess;
}

Status CommGetAsyncError(Comm *comm, Status *status) {
  *status = comm->failure;
  return kSuccess;
}
Status CommAbort(Comm *comm) {
  comm->shared->process[comm->rank] = kAborted;
  return kSuccess;
}
Status CommDestroy(Comm *comm) {
  emulator::stream_wait();
  munmap(comm->shared, shared_bytes(comm->ranks));
  free(comm);
  return kSuccess;
}

}  // namespace
}  // namespace nt::nccl

const nt::Nccl *nt::emulated_nccl() {
  static const Nccl table = {
#define NT_ADDRESS(result, name, parameters) nccl::name,
      NT_NCCL_FUNCTIONS(NT_ADDRESS)
#undef NT_ADDRESS
  };
  return &table;
}
