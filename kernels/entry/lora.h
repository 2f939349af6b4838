#pragma once
#include "entry.h"

namespace nt {

// Of the products over the stacked A [R, in] with x's rows `ldx` apart.
inline int32_t check_stacked(const char *op, int32_t dtype, int64_t ldx, int64_t T, int64_t R, int64_t in) {
  NT_CHECK(dtype == NT_F32 || dtype == NT_BF16, "%s: dtype must be f32 or bf16, got %d", op, int(dtype));
  NT_CHECK(T >= 0 && R >= 0 && in >= 0, "%s: sizes must be ≥ 0, got T %lld, R %lld, in %lld", op, (long long)T,
           (long long)R, (long long)in);
  return check_distance(op, "x", ldx, in);
}

}  // namespace nt

NT_API int32_t nt_lora_forward(nt_context *context, int32_t dtype, void *u, void *u2, int64_t ldu2, const void *x,
                               int64_t ldx, const void *a, float scale, int64_t T, int64_t R, int64_t in,
                               int32_t rows) {
  NT_TRY(nt::check_stacked("lora_forward", dtype, ldx, T, R, in));
  NT_TRY(nt::check_distance("lora_forward", "u2", u2 == nullptr ? R : ldu2, R));
  NT_TRY(nt::check_row_kind("lora_forward", rows));
  if (T == 0 || R == 0 || in == 0) return NT_OK;
  NT_CHECK(u != nullptr && x != nullptr && a != nullptr, "lora_forward: u, x and A must not be null");
  return nt::lora_forward(context, dtype, u, u2, ldu2, x, ldx, a, scale, T, R, in, rows);
}

NT_API int32_t nt_lora_backward(nt_context *context, int32_t dtype, void *g, int64_t ldg, const void *dy, int64_t lddy,
                                const void *u, int64_t ldu, const nt_lora_target *targets, int64_t count, int64_t rank,
                                float scale, int64_t T) {
  const char *op = "lora_backward";
  NT_CHECK_DTYPE("lora_backward", dtype);
  NT_CHECK(T >= 0 && rank >= 0 && count >= 0, "%s: sizes must be ≥ 0, got T %lld, rank %lld, %lld targets", op,
           (long long)T, (long long)rank, (long long)count);
  NT_CHECK(count == 0 || targets != nullptr, "%s: targets must not be null", op);
  int64_t columns = 0;
  for (int64_t i = 0; i < count; i++) {
    const nt_lora_target &target = targets[i];
    const bool has_gradient = target.db != nullptr;
    NT_CHECK(target.row >= 0 && target.rows >= 0 && target.column >= 0,
             "%s: target %lld must begin at 0 or later, got row %lld, rows %lld, column %lld", op, (long long)i,
             (long long)target.row, (long long)target.rows, (long long)target.column);
    NT_CHECK(target.row + target.rows <= lddy && target.column + rank <= ldg &&
                 (!has_gradient || target.column + rank <= ldu),
             "%s: target %lld's columns %lld + %lld and %lld + %lld do not fit into distances %lld of dy, %lld of g, "
             "%lld of u",
             op, (long long)i, (long long)target.row, (long long)target.rows, (long long)target.column,
             (long long)rank, (long long)lddy, (long long)ldg, (long long)ldu);
    NT_CHECK(target.rows == 0 || target.b != nullptr, "%s: target %lld has no B", op, (long long)i);
    NT_CHECK(!has_gradient || u != nullptr, "%s: dB needs u", op);
    columns += target.rows;
  }
  if (T == 0 || rank == 0 || columns == 0) return NT_OK;
  NT_CHECK(g != nullptr && dy != nullptr, "%s: g and dy must not be null", op);
  return nt::lora_backward(context, dtype, g, ldg, dy, lddy, u, ldu, targets, count, rank, scale, T);
}

NT_API int32_t nt_lora_backward_a(nt_context *context, int32_t dtype, float *da, const void *g, int64_t ldg,
                                  const void *x, int64_t ldx, int64_t T, int64_t R, int64_t in) {
  NT_TRY(nt::check_stacked("lora_backward_a", dtype, ldx, T, R, in));
  NT_TRY(nt::check_distance("lora_backward_a", "g", ldg, R));
  if (T == 0 || R == 0 || in == 0) return NT_OK;
  NT_CHECK(da != nullptr && g != nullptr && x != nullptr, "lora_backward_a: dA, g and x must not be null");
  return nt::lora_backward_a(context, dtype, da, g, ldg, x, ldx, T, R, in);
}
