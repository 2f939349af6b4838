// The backend has chunk_bytes, the workspace that a chunk of rows takes, and most_chunk_rows, how many it runs well with.
#pragma once
#include "entry.h"
#include "weight.h"

NT_API int32_t nt_linear_cross_entropy_workspace(nt_context *context, int32_t dtype, int64_t rows, int64_t H,
                                                 int64_t V, int32_t dweight, int64_t *bytes) {
  NT_CHECK_DTYPE("linear_cross_entropy_workspace", dtype);
  NT_CHECK(rows >= 0 && H >= 0 && V >= 0,
           "linear_cross_entropy_workspace: sizes must be ≥ 0, got rows %lld, H %lld, V %lld", (long long)rows,
           (long long)H, (long long)V);
  const int64_t most = nt::most_chunk_rows(context, dtype, H, V, dweight != 0);
  *bytes = nt::chunk_bytes(dtype, rows < most ? rows : most, H, V);
  return NT_OK;
}

NT_API int32_t nt_linear_cross_entropy(nt_context *context, int32_t dtype, float *losses, void *dx, float *dweight,
                                       const void *x, const nt_weight *weight, const int32_t *rows,
                                       const int32_t *targets, int64_t n, int64_t T, float gradient_scale,
                                       void *workspace, int64_t workspace_bytes) {
  const char *op = "linear_cross_entropy";
  NT_CHECK_DTYPE("linear_cross_entropy", dtype);
  NT_CHECK(weight != nullptr, "%s: no weight", op);
  NT_CHECK(weight->dtype == dtype, "%s: x has dtype %d, the weight %d", op, int(dtype), int(weight->dtype));
  NT_CHECK(weight->count == 0, "%s: the weight is a stack", op);
  NT_CHECK(n >= 0 && T >= 0 && n <= T, "%s: %lld rows of %lld", op, (long long)n, (long long)T);
  const int64_t V = weight->out, H = weight->in;
  if (T == 0 || V == 0 || H == 0) return NT_OK;
  NT_CHECK(n == 0 || (losses != nullptr && x != nullptr && rows != nullptr && targets != nullptr),
           "%s: losses, x, rows and targets must not be null", op);
  for (int64_t i = 0; i < n; i++) {
    NT_CHECK(rows[i] >= 0 && rows[i] < T && (i == 0 || rows[i] > rows[i - 1]),
             "%s: rows must ascend within 0 … %lld, got %d at %lld", op, (long long)T - 1, int(rows[i]), (long long)i);
    NT_CHECK(targets[i] >= 0 && targets[i] < V, "%s: a target must be within 0 … %lld, got %d at row %d", op,
             (long long)V - 1, int(targets[i]), int(rows[i]));
  }
  const int64_t most = nt::most_chunk_rows(context, dtype, H, V, dweight != nullptr);
  int64_t chunk = n < most ? n : most;
  while (chunk > 1 && nt::chunk_bytes(dtype, chunk, H, V) > workspace_bytes) chunk = (chunk + 1) / 2;
  NT_CHECK(n == 0 || (workspace != nullptr && nt::chunk_bytes(dtype, chunk, H, V) <= workspace_bytes),
           "%s: needs a workspace of at least %lld bytes, got %lld", op,
           (long long)nt::chunk_bytes(dtype, 1, H, V), (long long)workspace_bytes);
  NT_CHECK(reinterpret_cast<uintptr_t>(workspace) % 16 == 0, "%s: the workspace is not 16-byte aligned", op);
  return nt::linear_cross_entropy(context, dtype, losses, dx, dweight, x, weight, rows, targets, n, T, gradient_scale,
                                  workspace, chunk);
}
