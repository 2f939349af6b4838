// Collectives between ranks on CPUs, over MPI. MPI's own sums add in an order of its choice; here every rank receives all
// ranks' parts of its slice, adds them in the order of the ranks, and the slices go round: the same bits with any MPI.
//
// Calls wait by MPI_Test, never inside MPI, so that a rank that is gone ends them (*host_stop).
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../entry/comm_checks.h"
#include "context.h"
#include "mpi.h"
#include "parallel.h"
#include "vec.h"

struct nt_comm {
  const nt::Mpi *mpi;
  int rank, ranks;
  const int32_t *stop;
  bool aborted;
  char *scratch;  // two halves of kScratchBytes each
};

namespace {

using nt::fail;

// Bytes that go round at a time: the ranks' parts of them, and this rank's own.
constexpr int64_t kScratchBytes = int64_t(16) << 20;
constexpr int kFunneled = 1;  // MPICH and Open MPI; the standard ABI's is larger and MPI picks what it has
// Tests without a pause: what is under way on the same machine comes within microseconds.
constexpr int kEagerTests = 2000;
constexpr long kPauseNanoseconds = 50000;

bool is_world_taken;

int32_t check_mpi(const nt_comm *comm, int status, const char *op) {
  if (status == 0) return NT_OK;
  char text[1024] = "";
  int length = 0;
  comm->mpi->Error_string(status, text, &length);
  return fail(NT_DEVICE, "%s: MPI error %d: %s", op, status, text);
}

int32_t finish(const nt_comm *comm, int status, nt::MpiHandle *request, const char *op) {
  if (status != 0) return check_mpi(comm, status, op);
  for (int tests = 0;; tests++) {
    int done = 0;
    nt::MpiStatus ignored;
    status = comm->mpi->Test(request, &done, &ignored);
    if (status != 0) return check_mpi(comm, status, op);
    if (done != 0) return NT_OK;
    if (comm->stop != nullptr && __atomic_load_n(comm->stop, __ATOMIC_RELAXED) != 0) return nt::stopped(op);
    if (tests < kEagerTests) {
      sched_yield();
    } else {
      const timespec pause = {0, kPauseNanoseconds};
      nanosleep(&pause, nullptr);
    }
  }
}

// parts[ranks · bytes] = part `rank` of every rank's from[ranks · bytes].
int32_t exchange(const nt_comm *comm, const void *from, void *parts, int64_t bytes, const char *op) {
  nt::MpiHandle request = 0;
  const int status = comm->mpi->Ialltoall(from, int(bytes), comm->mpi->byte, parts, int(bytes), comm->mpi->byte,
                                          comm->mpi->world, &request);
  return finish(comm, status, &request, op);
}

// to[ranks · bytes] = every rank's from[bytes].
int32_t gather(const nt_comm *comm, const void *from, void *to, int64_t bytes, const char *op) {
  nt::MpiHandle request = 0;
  const int status = comm->mpi->Iallgather(from, int(bytes), comm->mpi->byte, to, int(bytes), comm->mpi->byte,
                                           comm->mpi->world, &request);
  return finish(comm, status, &request, op);
}

// y[n] = parts[0][n] + parts[1][n] + …, added in float32.
template <typename T>
void add_parts(int threads, T *y, const T *parts, int64_t n, int ranks) {
  nt::parallel_for(threads, n, 1 << 14, [&](int64_t begin, int64_t end) {
    int64_t i = begin;
    for (; i + nt::kLanes <= end; i += nt::kLanes) {
      auto sum = nt::load(parts + i);
      for (int r = 1; r < ranks; r++) sum = sum + nt::load(parts + r * n + i);
      nt::store(y + i, sum);
    }
    if (i == end) return;
    auto sum = nt::load_part(parts + i, end - i);
    for (int r = 1; r < ranks; r++) sum = sum + nt::load_part(parts + r * n + i, end - i);
    nt::store_part(y + i, sum, end - i);
  });
}

void add_parts(int threads, int32_t dtype, void *y, const void *parts, int64_t n, int ranks) {
  if (dtype == NT_F32) {
    add_parts(threads, static_cast<float *>(y), static_cast<const float *>(parts), n, ranks);
  } else {
    add_parts(threads, static_cast<nt::bf16 *>(y), static_cast<const nt::bf16 *>(parts), n, ranks);
  }
}

// Elements of a slice: so many that all ranks' slices fit half of the scratch.
int64_t slice_of(const nt_comm *comm, int64_t size) {
  const int64_t fits = kScratchBytes / comm->ranks / size;
  return fits > 0 ? fits : 1;
}

constexpr char kRemedy[] =
    "it is not the MPI of the launcher; start the ranks with its own mpirun, or name the launcher's library in NEFTUNE_MPI";

int32_t join(int32_t *rank, int32_t *ranks, const nt::Mpi *mpi) {
  const char *path = nt::mpi_search().path;
  // Others end the process where they find Open MPI's launcher.
  if (!mpi->is_open_mpi && getenv("OMPI_COMM_WORLD_SIZE") != nullptr && strstr(path, "libmpi_abi") == nullptr)
    return fail(NT_INVALID, "Open MPI started this rank, MPI (%s) is %s: %s", path, mpi->version, kRemedy);
  int initialized = 0, provided = 0, size = 0, own = 0;
  int status = mpi->Initialized(&initialized);
  if (status == 0 && initialized == 0) status = mpi->Init_thread(nullptr, nullptr, kFunneled, &provided);
  if (status == 0) status = mpi->Comm_set_errhandler(mpi->world, mpi->errors_return);
  if (status == 0) status = mpi->Comm_rank(mpi->world, &own);
  if (status == 0) status = mpi->Comm_size(mpi->world, &size);
  if (status != 0) return fail(NT_DEVICE, "%s cannot start: error %d", path, status);
  if (*ranks == 0) {
    *rank = own;
    *ranks = size;
  }
  if (*rank == own && *ranks == size) return NT_OK;
  const bool is_alone = size == 1 && *ranks > 1;
  return fail(NT_INVALID, "the launcher says rank %d of %d, MPI (%s, %s) says rank %d of %d%s%s", int(*rank), int(*ranks),
              path, mpi->version, own, size, is_alone ? ": " : "", is_alone ? kRemedy : "");
}

}  // namespace

namespace nt {
namespace {

int32_t all_reduce(nt_context *context, nt_comm *comm, int32_t dtype, void *values, int64_t n) {
  constexpr char kOp[] = "comm_all_reduce";
  if (comm->ranks == 1) return NT_OK;
  const int64_t size = size_of(dtype), most = slice_of(comm, size);
  char *at = static_cast<char *>(values), *parts = comm->scratch, *own = parts + kScratchBytes;
  while (n > 0) {
    const int64_t even = (n + comm->ranks - 1) / comm->ranks, slice = even < most ? even : most;
    const int64_t all = slice * comm->ranks, bytes = slice * size, taken = all < n ? all : n;
    // The last slices may reach past the end: they are filled up with zeros elsewhere.
    char *whole = at;
    if (taken < all) {
      whole = own;
      memcpy(whole, at, size_t(taken * size));
      memset(whole + taken * size, 0, size_t((all - taken) * size));
    }
    NT_TRY(exchange(comm, whole, parts, bytes, kOp));
    if (taken < all) {
      add_parts(context->threads, dtype, whole + comm->rank * bytes, parts, slice, comm->ranks);
      NT_TRY(gather(comm, whole + comm->rank * bytes, parts, bytes, kOp));
      memcpy(at, parts, size_t(taken * size));
    } else {
      add_parts(context->threads, dtype, own, parts, slice, comm->ranks);
      NT_TRY(gather(comm, own, at, bytes, kOp));
    }
    at += taken * size;
    n -= taken;
  }
  return NT_OK;
}

int32_t reduce_scatter(nt_context *context, nt_comm *comm, int32_t dtype, void *y, const void *x, int64_t n) {
  constexpr char kOp[] = "comm_reduce_scatter";
  const int64_t size = size_of(dtype), most = slice_of(comm, size);
  if (comm->ranks == 1) {
    memmove(y, x, size_t(n * size));
    return NT_OK;
  }
  const char *from = static_cast<const char *>(x);
  char *parts = comm->scratch, *packed = parts + kScratchBytes;
  for (int64_t at = 0; at < n; at += most) {
    const int64_t slice = n - at < most ? n - at : most, bytes = slice * size;
    for (int r = 0; r < comm->ranks; r++) memcpy(packed + r * bytes, from + (r * n + at) * size, size_t(bytes));
    NT_TRY(exchange(comm, packed, parts, bytes, kOp));
    add_parts(context->threads, dtype, static_cast<char *>(y) + at * size, parts, slice, comm->ranks);
  }
  return NT_OK;
}

int32_t all_gather(nt_context *, nt_comm *comm, int32_t dtype, void *y, const void *x, int64_t n) {
  constexpr char kOp[] = "comm_all_gather";
  const int64_t size = size_of(dtype), most = slice_of(comm, size);
  char *to = static_cast<char *>(y), *parts = comm->scratch, *own = parts + kScratchBytes;
  for (int64_t at = 0; at < n; at += most) {
    const int64_t slice = n - at < most ? n - at : most, bytes = slice * size;
    memcpy(own, static_cast<const char *>(x) + at * size, size_t(bytes));
    NT_TRY(gather(comm, own, parts, bytes, kOp));
    for (int r = 0; r < comm->ranks; r++) memcpy(to + (r * n + at) * size, parts + r * bytes, size_t(bytes));
  }
  return NT_OK;
}

int32_t broadcast(nt_context *, nt_comm *comm, int32_t dtype, void *values, int64_t n, int32_t root) {
  constexpr char kOp[] = "comm_broadcast";
  const int64_t bytes = n * size_of(dtype);
  for (int64_t at = 0; at < bytes; at += kScratchBytes) {
    const int64_t part = bytes - at < kScratchBytes ? bytes - at : kScratchBytes;
    MpiHandle request = 0;
    const int status = comm->mpi->Ibcast(static_cast<char *>(values) + at, int(part), comm->mpi->byte, root,
                                         comm->mpi->world, &request);
    NT_TRY(finish(comm, status, &request, kOp));
  }
  return NT_OK;
}

int32_t barrier(nt_context *, nt_comm *comm) {
  constexpr char kOp[] = "comm_barrier";
  MpiHandle request = 0;
  return finish(comm, comm->mpi->Ibarrier(comm->mpi->world, &request), &request, kOp);
}

}  // namespace
}  // namespace nt

NT_API int32_t nt_comm_probe(char *json, int64_t size) {
  const nt::Mpi *mpi = nt::mpi();
  nt::Text text = {json, size, 0};
  nt::add(&text, "{\"transport\":\"MPI\",");
  nt::add_search(&text, nt::mpi_search(), mpi != nullptr ? mpi->version : "", mpi != nullptr ? nullptr : nt::last_error);
  nt::add(&text, "}");
  NT_CHECK(text.length < size, "comm_probe: the buffer of %lld bytes is too small", (long long)size);
  return NT_OK;
}

NT_API int32_t nt_comm_id(nt_context *, uint8_t *id) {
  memset(id, 0, 128);
  return NT_OK;
}

NT_API int32_t nt_comm_create(nt_context *, int32_t rank, int32_t ranks, const uint8_t *, const int32_t *stop,
                              nt_comm **result) {
  if (ranks != 0) NT_TRY(nt::check_ranks(rank, ranks));
  if (is_world_taken) return fail(NT_INVALID, "comm_create: this process has used MPI already");
  const nt::Mpi *mpi = nt::mpi();
  if (mpi == nullptr) return NT_UNSUPPORTED;
  is_world_taken = true;
  NT_TRY(join(&rank, &ranks, mpi));
  auto *comm = static_cast<nt_comm *>(calloc(1, sizeof(nt_comm)));
  char *scratch = static_cast<char *>(nt::allocate(2 * kScratchBytes));
  if (comm == nullptr || scratch == nullptr) {
    free(comm);
    nt::release(scratch);
    return fail(NT_OUT_OF_MEMORY, "out of memory");
  }
  *comm = {mpi, rank, ranks, stop, false, scratch};
  *result = comm;
  return NT_OK;
}

NT_API int32_t nt_comm_destroy(nt_context *, nt_comm *comm) {
  if (comm == nullptr) return NT_OK;
  const int status = comm->aborted ? 0 : nt::mpi_finalize();
  nt::release(comm->scratch);
  free(comm);
  return status == 0 ? NT_OK : fail(NT_DEVICE, "comm_destroy: MPI_Finalize failed with %d", status);
}

NT_API int32_t nt_comm_abort(nt_context *, nt_comm *comm) {
  NT_TRY(nt::check_comm("comm_abort", comm, true));
  comm->aborted = true;
  return NT_OK;
}

NT_API int32_t nt_comm_describe(nt_context *, nt_comm *comm, char *json, int64_t size) {
  NT_TRY(nt::check_comm("comm_describe", comm, true));
  nt::Text text = {json, size, 0};
  nt::add(&text, "{\"transport\":\"MPI\",\"rank\":%d,\"ranks\":%d,", comm->rank, comm->ranks);
  nt::add_search(&text, nt::mpi_search(), comm->mpi->version, nullptr);
  nt::add(&text, "}");
  NT_CHECK(text.length < size, "comm_describe: the buffer of %lld bytes is too small", (long long)size);
  return NT_OK;
}

// Work is done when its call returns: there is nothing to run beside it, and nothing to wait for.
NT_API int32_t nt_comm_overlap(nt_context *, nt_comm *comm, int32_t) { return nt::check_comm("comm_overlap", comm); }

NT_API int32_t nt_comm_wait(nt_context *, nt_comm *comm) { return nt::check_comm("comm_wait", comm); }

#include "../entry/comm.h"
