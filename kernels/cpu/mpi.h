// The part of MPI that ranks on CPUs use. The library is the one that the launcher belongs to, opened at run time:
// MPICH and its kin (Intel MPI, MVAPICH), Open MPI, or the standard ABI of MPI 5.
//
// Handles are 64-bit integers, which on x86-64 and aarch64 is right for all of them: MPICH has 32-bit numbers, Open MPI
// addresses of its own objects, the standard ABI constants.
#pragma once
#include <stdint.h>

#include "../library_search.h"

namespace nt {

typedef uint64_t MpiHandle;
struct MpiStatus {
  int64_t words[8];  // room for any library's
};

// X(name, parameters) for every function that is resolved; each returns 0 or an error of its class.
#define NT_MPI_FUNCTIONS(X)                                                                                            \
  X(Init_thread, (int *argc, char ***argv, int required, int *provided))                                               \
  X(Initialized, (int *flag))                                                                                          \
  X(Finalize, (void))                                                                                                  \
  X(Comm_rank, (MpiHandle comm, int *rank))                                                                            \
  X(Comm_size, (MpiHandle comm, int *size))                                                                            \
  X(Comm_set_errhandler, (MpiHandle comm, MpiHandle handler))                                                          \
  X(Error_string, (int code, char *text, int *length))                                                                 \
  X(Get_library_version, (char *version, int *length))                                                                 \
  X(Ialltoall, (const void *from, int count, MpiHandle type, void *to, int to_count, MpiHandle to_type,                \
                MpiHandle comm, MpiHandle *request))                                                                   \
  X(Iallgather, (const void *from, int count, MpiHandle type, void *to, int to_count, MpiHandle to_type,               \
                 MpiHandle comm, MpiHandle *request))                                                                  \
  X(Ibcast, (void *values, int count, MpiHandle type, int root, MpiHandle comm, MpiHandle *request))                   \
  X(Ibarrier, (MpiHandle comm, MpiHandle *request))                                                                    \
  X(Test, (MpiHandle * request, int *done, MpiStatus *status))

struct Mpi {
#define NT_DECLARE(name, parameters) int(*name) parameters;
  NT_MPI_FUNCTIONS(NT_DECLARE)
#undef NT_DECLARE
  MpiHandle world, byte, errors_return;
  bool is_open_mpi;
  char version[160];  // the first line of what the library calls itself
};

// The library, found once a process. Null where there is none: nt_last_error says where it was looked for.
const Mpi *mpi();
// Ends MPI for this process; returns MPI_Finalize's status.
int mpi_finalize();
// What the search found, for nt_comm_probe.
const Search &mpi_search();

}  // namespace nt
