// The few declarations of NCCL that ranks on GPUs use, so that building needs none of NVIDIA's 300 MB package. Names,
// numbers and layouts are those of nccl.h since 2.18; the library is found and opened at run time (comm.cu).
//
// The emulated build opens nothing: kernels/emulator/nccl.cpp has functions of the same meaning and defines
// nt::emulated_nccl().
#pragma once
#include <stddef.h>
#include <stdint.h>

struct CUstream_st;

namespace nt {
namespace nccl {

enum Status : int32_t { kSuccess = 0, kSystemError = 2, kInvalidArgument = 4, kRemoteError = 6, kInProgress = 7 };
enum DataType : int32_t { kFloat32 = 7, kBfloat16 = 9 };
enum Operation : int32_t { kSum = 0 };
struct UniqueId {
  char internal[128];
};
struct Comm;  // the library's own

}  // namespace nccl

// X(result, name without its prefix nccl, parameters): every function that is resolved.
#define NT_NCCL_FUNCTIONS(X)                                                                                           \
  X(nccl::Status, GetVersion, (int *version))                                                                          \
  X(nccl::Status, GetUniqueId, (nccl::UniqueId * id))                                                                  \
  X(const char *, GetErrorString, (nccl::Status status))                                                               \
  X(const char *, GetLastError, (nccl::Comm * comm))                                                                   \
  X(nccl::Status, CommInitRank, (nccl::Comm * *comm, int ranks, nccl::UniqueId id, int rank))                          \
  X(nccl::Status, CommDestroy, (nccl::Comm * comm))                                                                    \
  X(nccl::Status, CommAbort, (nccl::Comm * comm))                                                                      \
  X(nccl::Status, CommGetAsyncError, (nccl::Comm * comm, nccl::Status *status))                                        \
  X(nccl::Status, AllReduce,                                                                                           \
    (const void *from, void *to, size_t count, nccl::DataType type, nccl::Operation operation, nccl::Comm *comm,       \
     CUstream_st *stream))                                                                                             \
  X(nccl::Status, ReduceScatter,                                                                                       \
    (const void *from, void *to, size_t count, nccl::DataType type, nccl::Operation operation, nccl::Comm *comm,       \
     CUstream_st *stream))                                                                                             \
  X(nccl::Status, AllGather,                                                                                           \
    (const void *from, void *to, size_t count, nccl::DataType type, nccl::Comm *comm, CUstream_st *stream))            \
  X(nccl::Status, Broadcast,                                                                                           \
    (const void *from, void *to, size_t count, nccl::DataType type, int root, nccl::Comm *comm, CUstream_st *stream))

struct Nccl {
#define NT_DECLARE(result, name, parameters) result(*name) parameters;
  NT_NCCL_FUNCTIONS(NT_DECLARE)
#undef NT_DECLARE
};

#ifdef NT_EMULATED
const Nccl *emulated_nccl();
#endif

}  // namespace nt
