// Collectives between ranks on GPUs, over NCCL: enqueued in the context's stream, or while they overlap in a stream of
// their own, which waits for what was enqueued before each of them.
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "../entry/comm_checks.h"
#include "context.h"
#include "find_library.h"
#include "nccl.h"

struct nt_comm {
  nt::nccl::Comm *comm;
  int rank, ranks;
  const int32_t *stop;
  bool aborted, overlapping;
  cudaStream_t own;      // of collectives that overlap
  cudaEvent_t reached;   // one stream has come as far as the other must wait for
  float *scratch;        // one element, for barriers
};

namespace nt {
namespace {

constexpr int kOldestVersion = 21800;  // 2.18
// Between two looks at NCCL's own state while the stream is waited for.
constexpr int kPollsPerLook = 256;

Nccl functions;
Search search;
int version;
pthread_once_t searched = PTHREAD_ONCE_INIT;

#ifdef NT_EMULATED

void look_everywhere() {
  functions = *emulated_nccl();
  functions.GetVersion(&version);
  search.library = &functions;
  snprintf(search.path, sizeof search.path, "emulated");
}

#else

bool resolve(void *library, char *reason, size_t size) {
  const char *missing = nullptr;
#define NT_RESOLVE(result, name, parameters)                                             \
  functions.name = reinterpret_cast<result(*) parameters>(dlsym(library, "nccl" #name)); \
  if (functions.name == nullptr) missing = "nccl" #name;
  NT_NCCL_FUNCTIONS(NT_RESOLVE)
#undef NT_RESOLVE
  if (missing != nullptr) {
    snprintf(reason, size, "has no %s", missing);
    return false;
  }
  if (functions.GetVersion(&version) == nccl::kSuccess && version >= kOldestVersion) return true;
  snprintf(reason, size, "is version %d.%d; 2.18 or later is needed", version / 10000, version / 100 % 100);
  return false;
}

void look_everywhere() { find_library({{"libnccl.so.2", nullptr}, {"nccl", "cu13"}, resolve}, &search); }

#endif

const Nccl *library() {
  pthread_once(&searched, look_everywhere);
  if (search.library != nullptr) return &functions;
  char places[600];
  list_places(search, places, sizeof places);
  fail(NT_UNSUPPORTED,
       "NCCL (libnccl.so.2) %s%s. Install it or `pip install nvidia-nccl-cu13`, and name its folder in NEFTUNE_CUDA_HOME if "
       "it is elsewhere. Looked at: %s",
       search.problem[0] != 0 ? "cannot be used: " : "was not found", search.problem, places);
  return nullptr;
}

void write_version(char *text, size_t size) {
  snprintf(text, size, "%d.%d.%d", version / 10000, version / 100 % 100, version % 100);
}

int32_t check_nccl(const nt_comm *comm, nccl::Status status, const char *op) {
  if (status == nccl::kSuccess || status == nccl::kInProgress) return NT_OK;
  const char *detail = functions.GetLastError(comm != nullptr ? comm->comm : nullptr);
  return fail(NT_DEVICE, "%s: NCCL error %d (%s)%s%s", op, int(status), functions.GetErrorString(status),
              detail != nullptr && detail[0] != 0 ? ": " : "", detail != nullptr ? detail : "");
}

nccl::DataType type_of(int32_t dtype) { return dtype == NT_F32 ? nccl::kFloat32 : nccl::kBfloat16; }

// What is enqueued in `later` from now on waits for what is in `earlier`.
int32_t order(nt_comm *comm, cudaStream_t earlier, cudaStream_t later) {
  NT_CUDA(cudaEventRecord(comm->reached, earlier), "recording an event");
  NT_CUDA(cudaStreamWaitEvent(later, comm->reached, 0), "waiting for an event");
  return NT_OK;
}

// Calls collective(stream) where it belongs.
template <class Collective>
int32_t enqueue(nt_context *context, nt_comm *comm, const char *op, const Collective &collective) {
  if (comm->overlapping) NT_TRY(order(comm, context->stream, comm->own));
  return check_nccl(comm, collective(comm->overlapping ? comm->own : context->stream), op);
}

int32_t create(nt_comm *comm, const uint8_t *id) {
  NT_CUDA(cudaStreamCreateWithFlags(&comm->own, cudaStreamNonBlocking), "creating a stream");
  NT_CUDA(cudaEventCreateWithFlags(&comm->reached, cudaEventDisableTiming), "creating an event");
  NT_CUDA(cudaMalloc(reinterpret_cast<void **>(&comm->scratch), 256), "memory of a communicator");
  NT_CUDA(cudaMemset(comm->scratch, 0, 256), "memory of a communicator");
  nccl::UniqueId unique;
  memcpy(&unique, id, sizeof unique);
  return check_nccl(nullptr, functions.CommInitRank(&comm->comm, comm->ranks, unique, comm->rank), "comm_create");
}

void release(nt_comm *comm) {
  if (comm->scratch != nullptr) cudaFree(comm->scratch);
  if (comm->reached != nullptr) cudaEventDestroy(comm->reached);
  if (comm->own != nullptr) cudaStreamDestroy(comm->own);
  free(comm);
}

int32_t all_reduce(nt_context *context, nt_comm *comm, int32_t dtype, void *values, int64_t n) {
  constexpr char kOp[] = "comm_all_reduce";
  return enqueue(context, comm, kOp, [&](cudaStream_t stream) {
    return functions.AllReduce(values, values, size_t(n), type_of(dtype), nccl::kSum, comm->comm, stream);
  });
}

int32_t reduce_scatter(nt_context *context, nt_comm *comm, int32_t dtype, void *y, const void *x, int64_t n) {
  constexpr char kOp[] = "comm_reduce_scatter";
  return enqueue(context, comm, kOp, [&](cudaStream_t stream) {
    return functions.ReduceScatter(x, y, size_t(n), type_of(dtype), nccl::kSum, comm->comm, stream);
  });
}

int32_t all_gather(nt_context *context, nt_comm *comm, int32_t dtype, void *y, const void *x, int64_t n) {
  constexpr char kOp[] = "comm_all_gather";
  return enqueue(context, comm, kOp, [&](cudaStream_t stream) {
    return functions.AllGather(x, y, size_t(n), type_of(dtype), comm->comm, stream);
  });
}

int32_t broadcast(nt_context *context, nt_comm *comm, int32_t dtype, void *values, int64_t n, int32_t root) {
  constexpr char kOp[] = "comm_broadcast";
  return enqueue(context, comm, kOp, [&](cudaStream_t stream) {
    return functions.Broadcast(values, values, size_t(n), type_of(dtype), root, comm->comm, stream);
  });
}

int32_t barrier(nt_context *context, nt_comm *comm) {
  constexpr char kOp[] = "comm_barrier";
  return enqueue(context, comm, kOp, [&](cudaStream_t stream) {
    return functions.AllReduce(comm->scratch, comm->scratch, 1, nccl::kFloat32, nccl::kSum, comm->comm, stream);
  });
}

}  // namespace
}  // namespace nt

NT_API int32_t nt_comm_probe(char *json, int64_t size) {
  const bool found = nt::library() != nullptr;
  char version[32];
  nt::write_version(version, sizeof version);
  nt::Text text = {json, size, 0};
  nt::add(&text, "{\"transport\":\"NCCL\",");
  nt::add_search(&text, nt::search, version, found ? nullptr : nt::last_error);
  nt::add(&text, "}");
  NT_CHECK(text.length < size, "comm_probe: the buffer of %lld bytes is too small", (long long)size);
  return NT_OK;
}

NT_API int32_t nt_comm_id(nt_context *, uint8_t *id) {
  const nt::Nccl *nccl = nt::library();
  if (nccl == nullptr) return NT_UNSUPPORTED;
  nt::nccl::UniqueId unique;
  NT_TRY(nt::check_nccl(nullptr, nccl->GetUniqueId(&unique), "comm_id"));
  memcpy(id, &unique, sizeof unique);
  return NT_OK;
}

NT_API int32_t nt_comm_create(nt_context *, int32_t rank, int32_t ranks, const uint8_t *id, const int32_t *stop,
                              nt_comm **result) {
  NT_TRY(nt::check_ranks(rank, ranks));
  NT_CHECK(id != nullptr, "comm_create: the id is null");
  if (nt::library() == nullptr) return NT_UNSUPPORTED;
  auto *comm = static_cast<nt_comm *>(calloc(1, sizeof(nt_comm)));
  if (comm == nullptr) return nt::fail(NT_OUT_OF_MEMORY, "out of memory");
  comm->rank = rank;
  comm->ranks = ranks;
  comm->stop = stop;
  const int32_t status = nt::create(comm, id);
  if (status != NT_OK) {
    nt::release(comm);
    return status;
  }
  *result = comm;
  return NT_OK;
}

NT_API int32_t nt_comm_destroy(nt_context *context, nt_comm *comm) {
  if (comm == nullptr) return NT_OK;
  int32_t status = NT_OK;
  if (!comm->aborted) {
    cudaStreamSynchronize(comm->own);
    cudaStreamSynchronize(context->stream);
    status = nt::check_nccl(comm, nt::functions.CommDestroy(comm->comm), "comm_destroy");
  }
  nt::release(comm);
  return status;
}

NT_API int32_t nt_comm_abort(nt_context *, nt_comm *comm) {
  NT_TRY(nt::check_comm("comm_abort", comm, true));
  if (comm->aborted) return NT_OK;
  comm->aborted = true;
  return nt::check_nccl(nullptr, nt::functions.CommAbort(comm->comm), "comm_abort");
}

NT_API int32_t nt_comm_describe(nt_context *, nt_comm *comm, char *json, int64_t size) {
  NT_TRY(nt::check_comm("comm_describe", comm, true));
  char version[32];
  nt::write_version(version, sizeof version);
  nt::Text text = {json, size, 0};
  nt::add(&text, "{\"transport\":\"NCCL\",\"rank\":%d,\"ranks\":%d,", comm->rank, comm->ranks);
  nt::add_search(&text, nt::search, version, nullptr);
  nt::add(&text, "}");
  NT_CHECK(text.length < size, "comm_describe: the buffer of %lld bytes is too small", (long long)size);
  return NT_OK;
}

NT_API int32_t nt_comm_overlap(nt_context *context, nt_comm *comm, int32_t on) {
  NT_TRY(nt::check_comm("comm_overlap", comm));
  if (comm->overlapping && on == 0) NT_TRY(nt::order(comm, comm->own, context->stream));
  comm->overlapping = on != 0;
  return NT_OK;
}

NT_API int32_t nt_comm_wait(nt_context *context, nt_comm *comm) {
  constexpr char kOp[] = "comm_wait";
  NT_TRY(nt::check_comm(kOp, comm));
  if (comm->overlapping) NT_TRY(nt::order(comm, comm->own, context->stream));
  for (int polls = 0;; polls++) {
    const cudaError_t status = cudaStreamQuery(context->stream);
    if (status != cudaSuccess && status != cudaErrorNotReady) NT_CUDA(status, "waiting for other ranks");
    const bool is_done = status == cudaSuccess;
    if (!is_done && polls % nt::kPollsPerLook != nt::kPollsPerLook - 1) continue;
    // Work that is done may have ended because a rank is gone: then its results are of no use.
    nt::nccl::Status failed = nt::nccl::kSuccess;
    NT_TRY(nt::check_nccl(comm, nt::functions.CommGetAsyncError(comm->comm, &failed), kOp));
    NT_TRY(nt::check_nccl(comm, failed, kOp));
    if (is_done) return NT_OK;
    if (comm->stop != nullptr && __atomic_load_n(comm->stop, __ATOMIC_RELAXED) != 0) return nt::stopped(kOp);
    sched_yield();
  }
}

#include "../entry/comm.h"
