// Weights, and the products of linear layers with their low-rank terms. `dtype` stays a number here: what multiplies
// matrices takes it as one. A stack reaches linear_forward and linear_backward_input only where the backend's
// forward_takes_stack and backward_takes_stack say so; else its parts do, one by one.
#pragma once
#include <stdlib.h>

#include "../matrix.h"
#include "nf4_checks.h"
#include "weight.h"

namespace nt {

inline int32_t check_weight_size(const char *op, int64_t out, int64_t in) {
  NT_CHECK(out >= 0 && in >= 0, "%s: sizes must be ≥ 0, got [%lld, %lld]", op, (long long)out, (long long)in);
  return NT_OK;
}

// The list of parts is copied, the parts are not.
inline int32_t keep_weight(const nt_weight &weight, nt_weight **result) {
  auto *kept = static_cast<nt_weight *>(malloc(sizeof(nt_weight) + size_t(weight.count) * sizeof(nt_weight *)));
  if (kept == nullptr) return fail(NT_OUT_OF_MEMORY, "out of memory");
  auto **parts = reinterpret_cast<const nt_weight **>(kept + 1);
  for (int64_t i = 0; i < weight.count; i++) parts[i] = weight.parts[i];
  *kept = weight;
  kept->parts = parts;
  *result = kept;
  return NT_OK;
}

// `name` is the operand with the activations' dtype.
inline int32_t check_weight(const char *op, const char *name, int32_t dtype, const nt_weight *weight) {
  NT_CHECK(dtype == NT_F32 || dtype == NT_BF16, "%s: dtype must be f32 or bf16, got %d", op, int(dtype));
  NT_CHECK(weight != nullptr, "%s: no weight", op);
  NT_CHECK(weight->dtype == dtype, "%s: %s has dtype %d, the weight %d", op, name, int(dtype), int(weight->dtype));
  return NT_OK;
}

// Blocks ascend by row without overlap inside [0, out), and their columns of u lie inside its rows.
inline int32_t check_lora_blocks(const char *op, const void *u, int64_t ldu, const nt_lora_block *blocks,
                                 int64_t count, int64_t rank, int64_t out) {
  if (count == 0) return NT_OK;
  NT_CHECK(count > 0 && rank > 0 && u != nullptr && blocks != nullptr,
           "%s: %lld LoRA blocks of rank %lld need u and B", op, (long long)count, (long long)rank);
  int64_t row = 0;
  for (int64_t i = 0; i < count; i++) {
    const nt_lora_block &block = blocks[i];
    NT_CHECK(block.b != nullptr && block.row >= row && block.rows >= 0 && block.row + block.rows <= out,
             "%s: LoRA block %lld at rows %lld + %lld overlaps another or leaves the weight's %lld rows", op,
             (long long)i, (long long)block.row, (long long)block.rows, (long long)out);
    NT_CHECK(block.column >= 0 && block.column + rank <= ldu,
             "%s: columns %lld + %lld do not fit into u's row distance %lld", op, (long long)block.column,
             (long long)rank, (long long)ldu);
    row = block.row + block.rows;
  }
  return NT_OK;
}

// Those blocks of a weight's that reach into its rows first … first + rows, as blocks of these rows; returns their number.
inline int64_t blocks_within(nt_lora_block *within, int32_t dtype, const nt_lora_block *blocks, int64_t count, int64_t rank,
                             int64_t first, int64_t rows) {
  int64_t n = 0;
  for (int64_t i = 0; i < count; i++) {
    const int64_t begin = blocks[i].row > first ? blocks[i].row : first;
    const int64_t block_end = blocks[i].row + blocks[i].rows, end = block_end < first + rows ? block_end : first + rows;
    if (begin >= end) continue;
    within[n++] = {columns_from(blocks[i].b, dtype, (begin - blocks[i].row) * rank), begin - first, end - begin,
                   blocks[i].column};
  }
  return n;
}

// linear_forward with a stack, part by part.
inline int32_t forward_by_parts(nt_context *context, const nt_weight *weight, void *y, int32_t y_dtype, int64_t ldy,
                                const void *x, int64_t ldx, const float *bias, const void *u, int64_t ldu,
                                const nt_lora_block *blocks, int64_t count, int64_t rank, int64_t T, int32_t rows) {
  auto *within = static_cast<nt_lora_block *>(malloc(size_t(count + 1) * sizeof(nt_lora_block)));
  if (within == nullptr) return fail(NT_OUT_OF_MEMORY, "out of memory");
  int32_t status = NT_OK;
  int64_t row = 0;
  for (int64_t i = 0; i < weight->count && status == NT_OK; row += weight->parts[i++]->out) {
    const nt_weight *part = weight->parts[i];
    const int64_t n = blocks_within(within, weight->dtype, blocks, count, rank, row, part->out);
    status = linear_forward(context, part, columns_from(y, y_dtype, row), y_dtype, ldy, x, ldx,
                            bias == nullptr ? nullptr : bias + row, u, ldu, within, n, rank, T, rows);
  }
  free(within);
  return status;
}

// linear_backward_input with a stack, part by part.
inline int32_t backward_by_parts(nt_context *context, const nt_weight *weight, void *dx, int64_t lddx, const void *dy,
                                 int64_t lddy, const void *g, int64_t ldg, const void *a, int64_t rank, bool accumulate,
                                 int64_t T) {
  int64_t row = 0;
  for (int64_t i = 0; i < weight->count; row += weight->parts[i++]->out)
    NT_TRY(linear_backward_input(context, weight->parts[i], dx, lddx, columns_from(dy, weight->dtype, row), lddy, g, ldg,
                                 a, i == 0 ? rank : 0, accumulate || i > 0, T));
  return NT_OK;
}

}  // namespace nt

NT_API int32_t nt_weight_create(nt_context *, int32_t dtype, int64_t out, int64_t in, const void *data, int64_t ld,
                                nt_weight **weight) {
  NT_CHECK_DTYPE("weight_create", dtype);
  NT_TRY(nt::check_weight_size("weight_create", out, in));
  NT_TRY(nt::check_distance("weight_create", "the weight", ld, in));
  NT_CHECK(data != nullptr || out * in == 0, "weight_create: [%lld, %lld] without data", (long long)out, (long long)in);
  return nt::keep_weight({dtype, out, in, ld, data, {}, nullptr, nullptr, 0}, weight);
}

NT_API int32_t nt_weight_create_nf4(nt_context *, int32_t dtype, int64_t out, int64_t in, const nt_nf4 *nf4,
                                    void *scratch, nt_weight **weight) {
  const char *op = "weight_create_nf4";
  NT_CHECK_DTYPE("weight_create_nf4", dtype);
  NT_TRY(nt::check_weight_size(op, out, in));
  NT_CHECK(scratch != nullptr, "%s: no scratch", op);
  NT_TRY(nt::check_nf4(op, nf4, out * in));
  return nt::keep_weight({dtype, out, in, in, nullptr, *nf4, scratch, nullptr, 0}, weight);
}

NT_API int32_t nt_weight_create_stack(nt_context *, const nt_weight *const *parts, int64_t count, nt_weight **weight) {
  const char *op = "weight_create_stack";
  NT_CHECK(count > 0 && parts != nullptr, "%s: no parts", op);
  const nt_weight *first = parts[0];
  int64_t out = 0;
  for (int64_t i = 0; i < count; i++) {
    const nt_weight *part = parts[i];
    NT_CHECK(part != nullptr && part->count == 0, "%s: part %lld is %s", op, (long long)i,
             part == nullptr ? "missing" : "a stack");
    NT_CHECK(part->dtype == first->dtype && part->in == first->in,
             "%s: part %lld has dtype %d and %lld inputs, the first %d and %lld", op, (long long)i, int(part->dtype),
             (long long)part->in, int(first->dtype), (long long)first->in);
    NT_CHECK(part->out > 0, "%s: part %lld has no rows", op, (long long)i);
    out += part->out;
  }
  return nt::keep_weight({first->dtype, out, first->in, first->in, nullptr, {}, nullptr, parts, count}, weight);
}

NT_API int32_t nt_weight_destroy(nt_context *, nt_weight *weight) {
  free(weight);
  return NT_OK;
}

NT_API int32_t nt_linear_forward(nt_context *context, int32_t dtype, void *y, int32_t y_dtype, int64_t ldy,
                                 const void *x, int64_t ldx, const nt_weight *weight, const float *bias,
                                 const void *u, int64_t ldu, const nt_lora_block *blocks, int64_t count, int64_t rank,
                                 int64_t T, int32_t rows) {
  const char *op = "linear_forward";
  NT_TRY(nt::check_weight(op, "x", dtype, weight));
  NT_CHECK(y_dtype == dtype || y_dtype == NT_F32, "%s: y must have x's dtype or be f32, got %d", op, int(y_dtype));
  NT_TRY(nt::check_count(op, "T", T));
  NT_CHECK(ldx >= weight->in && ldy >= weight->out,
           "%s: rows of %lld and %lld elements do not fit into distances %lld and %lld", op, (long long)weight->in,
           (long long)weight->out, (long long)ldx, (long long)ldy);
  NT_TRY(nt::check_lora_blocks(op, u, ldu, blocks, count, rank, weight->out));
  NT_TRY(nt::check_row_kind(op, rows));
  if (T == 0 || weight->out == 0 || weight->in == 0) return NT_OK;
  NT_CHECK(y != nullptr && x != nullptr, "%s: y and x must not be null", op);
  if (weight->count > 0 && !nt::forward_takes_stack(context, weight, blocks, count, rank, T, rows))
    return nt::forward_by_parts(context, weight, y, y_dtype, ldy, x, ldx, bias, u, ldu, blocks, count, rank, T, rows);
  return nt::linear_forward(context, weight, y, y_dtype, ldy, x, ldx, bias, u, ldu, blocks, count, rank, T, rows);
}

NT_API int32_t nt_linear_backward_input(nt_context *context, int32_t dtype, void *dx, int64_t lddx, const void *dy,
                                        int64_t lddy, const nt_weight *weight, const void *g, int64_t ldg,
                                        const void *a, int64_t rank, int32_t accumulate, int64_t T) {
  const char *op = "linear_backward_input";
  NT_TRY(nt::check_weight(op, "dy", dtype, weight));
  NT_CHECK(T >= 0 && rank >= 0, "%s: sizes must be ≥ 0, got T %lld, rank %lld", op, (long long)T, (long long)rank);
  NT_CHECK(lddx >= weight->in && lddy >= weight->out && ldg >= rank,
           "%s: rows of %lld, %lld, %lld elements do not fit into distances %lld, %lld, %lld", op,
           (long long)weight->in, (long long)weight->out, (long long)rank, (long long)lddx, (long long)lddy,
           (long long)ldg);
  if (T == 0 || weight->out == 0 || weight->in == 0) return NT_OK;
  NT_CHECK(dx != nullptr && dy != nullptr, "%s: dx and dy must not be null", op);
  NT_CHECK(rank == 0 || (g != nullptr && a != nullptr), "%s: rank %lld needs g and A", op, (long long)rank);
  if (weight->count > 0 && !nt::backward_takes_stack(context, weight, rank, T))
    return nt::backward_by_parts(context, weight, dx, lddx, dy, lddy, g, ldg, a, rank, accumulate != 0, T);
  return nt::linear_backward_input(context, weight, dx, lddx, dy, lddy, g, ldg, a, rank, accumulate != 0, T);
}

NT_API int32_t nt_linear_backward_weight(nt_context *context, int32_t dtype, float *dweight, float *dbias,
                                         const void *dy, int64_t lddy, const void *x, int64_t ldx, int64_t T,
                                         int64_t out, int64_t in) {
  const char *op = "linear_backward_weight";
  NT_CHECK_DTYPE("linear_backward_weight", dtype);
  NT_TRY(nt::check_count(op, "T", T));
  NT_TRY(nt::check_weight_size(op, out, in));
  NT_CHECK(lddy >= out && ldx >= in, "%s: rows of %lld and %lld elements do not fit into distances %lld and %lld", op,
           (long long)out, (long long)in, (long long)lddy, (long long)ldx);
  if (T == 0 || out == 0) return NT_OK;
  NT_CHECK(dy != nullptr, "%s: dy must not be null", op);
  NT_CHECK(in == 0 || (dweight != nullptr && x != nullptr), "%s: dweight and x must not be null", op);
  if (dbias != nullptr) NT_TRY(nt::add_column_sums(context, dtype, dbias, dy, lddy, T, out));
  return in == 0 ? NT_OK : nt::add_outer_product(context, dtype, dweight, dy, lddy, x, ldx, T, out, in);
}
