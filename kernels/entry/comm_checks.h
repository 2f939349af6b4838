// What the functions of a communicator ask of their arguments.
#pragma once
#include "entry.h"

namespace nt {

constexpr int kMostRanks = 1 << 16;

// nt_comm is the backend's own, with ranks and whether it was aborted in it.
template <class Comm>
inline int32_t check_comm(const char *op, const Comm *comm, bool even_aborted = false) {
  NT_CHECK(comm != nullptr, "%s: there is no communicator", op);
  if (comm->aborted && !even_aborted) return fail(NT_DEVICE, "%s: the communicator was aborted", op);
  return NT_OK;
}

inline int32_t check_ranks(int32_t rank, int32_t ranks) {
  NT_CHECK(ranks >= 1 && ranks <= kMostRanks, "comm_create: ranks must be between 1 and %d, got %d", kMostRanks,
           int(ranks));
  NT_CHECK(rank >= 0 && rank < ranks, "comm_create: rank must be between 0 and %d, got %d", int(ranks - 1), int(rank));
  return NT_OK;
}

// `n` elements at `x` and `y`, of which a rank has one share and `ranks` shares are on one side.
inline int32_t check_shares(const char *op, int32_t dtype, const void *y, const void *x, int64_t n, int ranks) {
  NT_CHECK(dtype == NT_F32 || dtype == NT_BF16, "%s: dtype must be f32 or bf16, got %d", op, int(dtype));
  NT_CHECK(n >= 0 && n <= INT64_MAX / 4 / ranks, "%s: n must be ≥ 0 and fit memory, got %lld", op, (long long)n);
  NT_CHECK(n == 0 || (x != nullptr && y != nullptr), "%s: a null pointer for %lld elements", op, (long long)n);
  return NT_OK;
}

inline int32_t check_root(const char *op, int32_t root, int ranks) {
  NT_CHECK(root >= 0 && root < ranks, "%s: root must be between 0 and %d, got %d", op, ranks - 1, int(root));
  return NT_OK;
}

// What a call says that stopped waiting for other ranks.
inline int32_t stopped(const char *op) {
  return fail(NT_DEVICE, "%s: given up because another rank failed", op);
}

}  // namespace nt
