// Collectives. What makes, ends and describes a communicator is each backend's own: the libraries have little in common.
#pragma once
#include "comm_checks.h"

NT_API int32_t nt_comm_all_reduce(nt_context *context, nt_comm *comm, int32_t dtype, void *values, int64_t n) {
  NT_TRY(nt::check_comm("comm_all_reduce", comm));
  NT_TRY(nt::check_shares("comm_all_reduce", dtype, values, values, n, comm->ranks));
  return n == 0 ? NT_OK : nt::all_reduce(context, comm, dtype, values, n);
}

NT_API int32_t nt_comm_reduce_scatter(nt_context *context, nt_comm *comm, int32_t dtype, void *y, const void *x,
                                      int64_t n) {
  NT_TRY(nt::check_comm("comm_reduce_scatter", comm));
  NT_TRY(nt::check_shares("comm_reduce_scatter", dtype, y, x, n, comm->ranks));
  return n == 0 ? NT_OK : nt::reduce_scatter(context, comm, dtype, y, x, n);
}

NT_API int32_t nt_comm_all_gather(nt_context *context, nt_comm *comm, int32_t dtype, void *y, const void *x, int64_t n) {
  NT_TRY(nt::check_comm("comm_all_gather", comm));
  NT_TRY(nt::check_shares("comm_all_gather", dtype, y, x, n, comm->ranks));
  return n == 0 ? NT_OK : nt::all_gather(context, comm, dtype, y, x, n);
}

NT_API int32_t nt_comm_broadcast(nt_context *context, nt_comm *comm, int32_t dtype, void *values, int64_t n,
                                 int32_t root) {
  NT_TRY(nt::check_comm("comm_broadcast", comm));
  NT_TRY(nt::check_shares("comm_broadcast", dtype, values, values, n, comm->ranks));
  NT_TRY(nt::check_root("comm_broadcast", root, comm->ranks));
  return n == 0 ? NT_OK : nt::broadcast(context, comm, dtype, values, n, root);
}

NT_API int32_t nt_comm_barrier(nt_context *context, nt_comm *comm) {
  NT_TRY(nt::check_comm("comm_barrier", comm));
  return nt::barrier(context, comm);
}
