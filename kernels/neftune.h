// The one interface between TypeScript and native code: every backend is a shared library that
// implements exactly these functions. src/native/bindings.ts holds the same list, and a test
// compares the two.
//
// Conventions
// - Every function returns NT_OK or another nt_status; nt_last_error() then has the message.
// - Tensors are row-major. `T` is the number of tokens of a micro-batch, samples laid end to end.
//   `ld…` is the distance between rows, in elements, and is at least the number of columns.
// - Pointers are device pointers, except those named `host_…`, which the function reads before it
//   returns. On the CPU the two are the same memory.
// - `dtype` is the type of the activations: NT_F32 or NT_BF16. Arithmetic inside is float32.
//   Parameters and gradients of norms and biases, LoRA gradients, statistics are always float32.
// - Outputs must not overlap inputs unless a comment says "may alias".
// - Work is enqueued in call order. Only nt_copy_to_host and nt_synchronize wait.
// - Sums run in an order fixed by shape and thread count: two runs give the same bits.
// - Sizes may be 0: then nothing is written, and the call succeeds.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#define NT_API extern "C" __attribute__((visibility("default")))
#else
#define NT_API
#endif

typedef enum { NT_OK = 0, NT_INVALID = 1, NT_OUT_OF_MEMORY = 2, NT_UNSUPPORTED = 3, NT_DEVICE = 4, NT_IO = 5 } nt_status;
typedef enum { NT_F32 = 0, NT_BF16 = 1, NT_F16 = 2 } nt_dtype;
typedef enum { NT_NOISE_NONE = 0, NT_NOISE_UNIFORM = 1, NT_NOISE_BERNOULLI = 2, NT_NOISE_GAUSSIAN = 3 } nt_noise;
// How a product's rows may be taken together (nt_linear_forward).
typedef enum { NT_ROWS_TOGETHER = 0, NT_ROWS_EACH = 1, NT_ROWS_TILED = 2 } nt_rows;
typedef enum { NT_RANDOM_UNIFORM = 0, NT_RANDOM_NORMAL = 1 } nt_random_kind;

typedef struct nt_context nt_context;
typedef struct nt_weight nt_weight;
typedef struct nt_comm nt_comm;
// One block of a block-diagonal LoRA B: b[rows, rank] stands at rows `row` … row + rows of the weight it adds to and
// reads u's columns `column` … column + rank. Eight bytes a field, so that callers pass four words a block.
typedef struct nt_lora_block {
  const void *b;
  int64_t row, rows, column;
} nt_lora_block;
// How a row of logits becomes a token. 48 bytes.
typedef struct nt_sampling {
  float temperature;         // 0: greedy
  float top_p;               // ≥ 1: off
  float min_p;               // of the greatest probability; 0: off
  float repetition_penalty;  // 1: off
  int64_t top_k;             // 0: off
  uint64_t seed;
  int64_t draw, step;
} nt_sampling;
// One projection of a LoRA stack in the backward pass: B [rows, rank] and, float32, its gradient (null: not wanted). It
// reads dy's columns `row` … row + rows and has columns `column` … column + rank of u and g. Eight bytes a field.
typedef struct nt_lora_target {
  const void *b;
  float *db;
  int64_t row, rows, column;
} nt_lora_target;
// Rows of `row_bytes` from one place on the device, where they lie side by side, to another, where they lie `distance`
// bytes apart. Eight bytes a field.
typedef struct nt_copied_block {
  void *destination;
  const void *source;
  int64_t rows, row_bytes, distance;
} nt_copied_block;
// An NF4 tensor of n values on the device, in blocks of 64 (kernels/nf4.h has tables and formulas). Eight bytes a field.
typedef struct nt_nf4 {
  const uint8_t *codes;  // [(n + 1) / 2], the even element in the high nibble
  const void *absmax;    // float32 [⌈n/64⌉]; with double quantization uint8 [⌈n/64⌉], codes of the dynamic map
  const float *absmax2;  // [⌈⌈n/64⌉/256⌉], and the offset behind them; null: no double quantization
  int64_t dtype;         // what was quantized: values are rounded to it before they are converted
} nt_nf4;

#ifdef __cplusplus
}
#endif

// ------------------------------------------------------------------ context and memory

// Writes one JSON object, NUL-terminated, on what this backend finds on the machine, without opening a device: backend,
// problem (why no device can be opened, with the remedy; or null); on CUDA also runtime, driver, architectures,
// devices [{index, name, compute_capability, total_memory}], cublaslt {path, version, looked}; on a CPU pairs_are_faster:
// whether it has an instruction for products of pairs of bf16 that is faster than the one for floats, as timed now.
NT_API int32_t nt_probe(char *host_json, int64_t size);
// Opens device `device` (CPU: 0) with `threads` threads (0: all that this process may use).
NT_API int32_t nt_create(int32_t device, int32_t threads, nt_context **context);
NT_API int32_t nt_destroy(nt_context *context);
// The message of the calling thread's last failed call; valid until its next call.
NT_API const char *nt_last_error(void);
// Writes one JSON object, NUL-terminated: backend, name, isa, threads (CUDA: multiprocessors), total_memory,
// free_memory; on CUDA also uuid (of the GPU, 32 hexadecimal digits) and big_plain_products (how many products of at
// least 2²⁷ multiplications cuBLASLt had no algorithm for).
NT_API int32_t nt_describe(nt_context *context, char *host_json, int64_t size);
NT_API int32_t nt_synchronize(nt_context *context);
// Algorithms of matrix products that this context has timed and chosen (NEFTUNE_TUNE_MATMUL=1 on CUDA): a text, NUL-
// terminated, as far as it fits, and its length; "" where nothing is timed. And such a text to go by, so that a process
// computes the bits of another: NT_UNSUPPORTED where it is another library's or device's.
NT_API int32_t nt_matmul_choices(nt_context *context, char *host_text, int64_t size, int64_t *host_length);
NT_API int32_t nt_use_matmul_choices(nt_context *context, const char *host_text);
// Makes the context's device that of the calling thread. nt_create does so too; to be called where contexts on different
// devices take turns in one thread.
NT_API int32_t nt_select(nt_context *context);

// The timeline of a GPU (NT_UNSUPPORTED on the CPU): with `call` ≥ 0, events go around every launch, product and copy
// that is enqueued from now on, noted as those of the caller's call number `call`; a first such mark begins a new
// timeline, −1 ends it. One context of a process has one at a time.
NT_API int32_t nt_timeline_mark(nt_context *context, int64_t call);
// Waits for all work and writes the last timeline, NUL-terminated, as far as it fits into `size` bytes; *host_bytes: what
// it takes. {"names": […], "items": [[call, index of its name, milliseconds, blocks, bytes, …]…]}: kernels without
// template arguments, "matmul", copies; bytes are a copy's; a product's item goes on with m, n, k, the sizes of the
// elements of operands and result, and 1 where it adds to what is there.
NT_API int32_t nt_timeline_read(nt_context *context, char *host_json, int64_t size, int64_t *host_bytes);

// 256-byte aligned device memory, contents undefined.
NT_API int32_t nt_malloc(nt_context *context, int64_t bytes, void **host_address);
NT_API int32_t nt_free(nt_context *context, void *address);
NT_API int32_t nt_memset(nt_context *context, void *destination, int32_t byte, int64_t bytes);
NT_API int32_t nt_copy_to_device(nt_context *context, void *destination, const void *host_source, int64_t bytes);
NT_API int32_t nt_copy_to_host(nt_context *context, void *host_destination, const void *source, int64_t bytes);
// The same without waiting, into memory of nt_host_malloc: it is there after the next nt_synchronize or nt_copy_to_host.
NT_API int32_t nt_copy_to_host_later(nt_context *context, void *host_destination, const void *source, int64_t bytes);
// Host memory that a device can write to by itself.
NT_API int32_t nt_host_malloc(nt_context *context, int64_t bytes, void **host_address);
NT_API int32_t nt_host_free(nt_context *context, void *host_address);
NT_API int32_t nt_copy(nt_context *context, void *destination, const void *source, int64_t bytes);
// Every block at once; no two destinations may overlap.
NT_API int32_t nt_copy_blocks(nt_context *context, const nt_copied_block *host_blocks, int64_t count);
// Maps a file read-only into host memory. The address is also a device pointer where
// `host_is_device` comes back 1 (the CPU backend).
NT_API int32_t nt_file_map(nt_context *context, const char *host_path, void **host_address, int64_t *host_bytes,
                           int32_t *host_is_device);
NT_API int32_t nt_file_unmap(nt_context *context, void *host_address, int64_t bytes);
// The pages that these bytes of a mapped file lie in need not stay in memory; touched again, they are read again.
NT_API int32_t nt_file_forget(nt_context *context, const void *host_address, int64_t bytes);
// destination[n] (device) = source[n] (host memory, e.g. a mapped file), converted. f16, bf16, f32.
// The source may have any alignment.
NT_API int32_t nt_upload(nt_context *context, void *destination, int32_t destination_dtype, const void *host_source,
                         int32_t source_dtype, int64_t n);
// destination[n] = source[n], both on the device, converted, rounded to nearest even.
NT_API int32_t nt_cast(nt_context *context, void *destination, int32_t destination_dtype, const void *source,
                       int32_t source_dtype, int64_t n);
// *count (device) grows by how many of source[n] (device; f32, bf16 or f16) are NaN or infinite.
NT_API int32_t nt_count_non_finite(nt_context *context, uint32_t *count, const void *source, int32_t source_dtype,
                                   int64_t n);
// destination[n] = scale · x, x from U(−1, 1) or N(0, 1), rounded to `dtype`. Element i is word
// i & 3 of the Philox block with key = seed, counter = (low, high of i >> 2, draw, stream << 16);
// the distributions are those of noise (philox.h).
NT_API int32_t nt_random(nt_context *context, int32_t dtype, void *destination, int64_t n, int32_t kind, float scale,
                         uint64_t seed, uint32_t draw, int32_t stream);

// ------------------------------------------------------------------ embedding

// y[T,H] = table[ids[t]] + scales[s] · n, noise added in float32 with one fma, then rounded once.
// n from the Philox block with key = seed, counter = (j >> 2, position in its sample, draws[s] low,
// draws[s] high 16 bits); stream 0. `host_cu_seqlens` [sequences + 1] are the sample borders,
// 0 first and T last. noise = NT_NOISE_NONE reads neither scales nor draws (may be null). With learned_scale (float32
// [H]; null: none) column j has scales[s] · learned_scale[j], rounded to float32, in place of scales[s].
// `table_dtype` may differ from `dtype`. ids are int32 on the device, 0 ≤ id < V.
NT_API int32_t nt_embedding_forward(nt_context *context, int32_t dtype, void *y, const void *table,
                                    int32_t table_dtype, const int32_t *ids, int64_t T, int64_t H, int64_t V,
                                    int32_t noise, uint64_t seed, const int32_t *host_cu_seqlens,
                                    const float *host_scales, const int64_t *host_draws, int64_t sequences,
                                    const float *learned_scale);
// dlearned_scale[H] (float32) += Σ_t (scales[s] · n) · dy[t], n drawn again as forward drew it; noise is not
// NT_NOISE_NONE. Rows of dy lie lddy apart.
NT_API int32_t nt_learned_scale_backward(nt_context *context, int32_t dtype, float *dlearned_scale, const void *dy,
                                         int64_t lddy, int64_t T, int64_t H, int32_t noise, uint64_t seed,
                                         const int32_t *host_cu_seqlens, const float *host_scales,
                                         const int64_t *host_draws, int64_t sequences);
// dtable[V,H] (float32) += the rows of dy[T,H] at their ids, in token order.
NT_API int32_t nt_embedding_backward(nt_context *context, int32_t dtype, float *dtable, const void *dy,
                                     const int32_t *ids, int64_t T, int64_t H, int64_t V);

// ------------------------------------------------------------------ norm, rope, swiglu, dropout

// With delta: sum = x + delta, rounded to dtype; without (null): sum = x and `sum` is not written.
// y = sum · rstd · weight, rstd[t] = 1 / sqrt(mean(sum²) + eps). x, delta, sum, y: [T,H], rows of y ldy apart;
// weight float32 [H]; sum may alias x or delta.
NT_API int32_t nt_rmsnorm_forward(nt_context *context, int32_t dtype, void *y, int64_t ldy, void *sum, float *rstd,
                                  const void *x, const void *delta, const float *weight, int64_t T, int64_t H,
                                  float eps);
// x is the norm's input (forward's sum). With c = mean(dy ∘ weight ∘ x) · rstd²:
// dx = rstd · (dy ∘ weight − x · c) + residual (null: 0); dweight[H] += Σ_t dy ∘ x · rstd (null: not wanted).
// Rows of dx and residual lie lddx apart. dx may alias residual and, where lddx is H, dy.
NT_API int32_t nt_rmsnorm_backward(nt_context *context, int32_t dtype, void *dx, int64_t lddx, float *dweight,
                                   const void *dy, const void *x, const float *weight, const float *rstd,
                                   const void *residual, int64_t T, int64_t H);
// In place on x: `heads` heads of head_dim side by side in each row (row distance ldx). Halves form the pairs,
// as in Transformers: (a, b) = (x[i], x[i + d/2]) → (a·cos − b·sin, b·cos + a·sin), cos, sin: float32
// [positions, d/2] read at row positions[t]. inverse = 1 turns back (the backward pass).
NT_API int32_t nt_rope(nt_context *context, int32_t dtype, void *x, int64_t ldx, const float *cosine,
                       const float *sine, const int32_t *positions, int64_t T, int64_t heads, int64_t head_dim,
                       int32_t inverse);
// A norm of each head and RoPE behind it, as Qwen3 has them for q and for k. In place on x: a head becomes
// rope(head · rstd · weight), rstd = 1 / sqrt(mean(head²) + eps) over its head_dim ≤ 256 columns, rounded once. weight
// float32 [head_dim]. kept [T, heads · head_dim] (row distance ldkept; null: not wanted) receives x as it was.
NT_API int32_t nt_rmsnorm_rope_forward(nt_context *context, int32_t dtype, void *x, int64_t ldx, void *kept,
                                       int64_t ldkept, const float *weight, const float *cosine, const float *sine,
                                       const int32_t *positions, int64_t T, int64_t heads, int64_t head_dim,
                                       float eps);
// In place on dx: the gradient of forward's result becomes that of its input x (what forward kept). With g = dx turned
// back by RoPE and c = mean(g ∘ weight ∘ x) · rstd² for each head: dx = rstd · (g ∘ weight − x · c),
// dweight[head_dim] += Σ g ∘ x · rstd over tokens and heads (null: not wanted).
NT_API int32_t nt_rmsnorm_rope_backward(nt_context *context, int32_t dtype, void *dx, int64_t lddx, float *dweight,
                                        const void *x, int64_t ldx, const float *weight, const float *cosine,
                                        const float *sine, const int32_t *positions, int64_t T, int64_t heads,
                                        int64_t head_dim, float eps);
// gate_up [T, 2I]: gate in the first I columns, up in the rest. h[T,I] = silu(gate) · up.
NT_API int32_t nt_swiglu_forward(nt_context *context, int32_t dtype, void *h, int64_t ldh, const void *gate_up,
                                 int64_t ldgate_up, int64_t T, int64_t I);
// gate_up comes in as forward's input and leaves as its gradient; h (null: not wanted) is written anew as
// forward's output; h may alias dh, whose rows lie lddh apart, as h's do.
NT_API int32_t nt_swiglu_backward(nt_context *context, int32_t dtype, void *gate_up, int64_t ldgate_up, void *h,
                                  const void *dh, int64_t lddh, int64_t T, int64_t I);
// nt_swiglu_backward where forward's output h is wanted for the gradient of a LoRA A alone, as in nt_lora_backward_a:
// da[R,I] (float32) += gᵀ·h, g[T,R]. dh may be overwritten.
NT_API int32_t nt_swiglu_backward_lora(nt_context *context, int32_t dtype, void *gate_up, int64_t ldgate_up, float *da,
                                       const void *g, int64_t ldg, void *dh, int64_t lddh, int64_t T, int64_t R,
                                       int64_t I);
// Keeps an element with probability 1 − p and scales it by 1/(1 − p): y = mask ∘ x, or y += mask ∘ x with
// accumulate. Kept where the word's top 24 bits ≥ p · 2²⁴; word j & 3 of the Philox block with counter
// (module << 16 | j >> 2, position, draw low, stream 1 << 16 | draw high). y may be x with the same distance of rows.
NT_API int32_t nt_dropout(nt_context *context, int32_t dtype, void *y, int64_t ldy, const void *x, int64_t ldx,
                          int64_t T, int64_t columns, float p, uint64_t seed, int32_t module, int32_t accumulate,
                          const int32_t *host_cu_seqlens, const int64_t *host_draws, int64_t sequences);

// ------------------------------------------------------------------ linear and LoRA

// A weight [out, in] as checkpoints store it, in `dtype`, rows ld apart. `data` is borrowed, read by each product anew,
// and must outlive the weight.
NT_API int32_t nt_weight_create(nt_context *context, int32_t dtype, int64_t out, int64_t in, const void *data,
                                int64_t ld, nt_weight **host_weight);
NT_API int32_t nt_weight_destroy(nt_context *context, nt_weight *weight);

// The same for a weight kept in NF4: products read the codes themselves, as those of few rows do, or expand it into
// `scratch` (at least out · in values of `dtype`, on the device, shared by all weights of a context). What `host_nf4`
// points to on the device is borrowed, and so is scratch.
NT_API int32_t nt_weight_create_nf4(nt_context *context, int32_t dtype, int64_t out, int64_t in, const nt_nf4 *host_nf4,
                                    void *scratch, nt_weight **host_weight);
// Weights of one dtype and `in` on top of each other, borrowed with what they borrow; no stacks themselves. Products may
// be those of one matrix, or of one part after the other, whose terms of dx are then rounded as they are added. The loss
// takes no stack.
NT_API int32_t nt_weight_create_stack(nt_context *context, const nt_weight *const *host_parts, int64_t count,
                                      nt_weight **host_weight);
// codes and absmax (float32) of source[n] (device; f32, bf16 or f16). *non_finite (device; null: not wanted) grows by the
// number of values that are NaN or infinite, which 4 bits cannot keep: where it does, codes and absmax are of no use.
NT_API int32_t nt_nf4_quantize(nt_context *context, uint8_t *codes, float *absmax, const void *source,
                               int32_t source_dtype, int64_t n, uint32_t *non_finite);
// Double quantization: codes[blocks], absmax2[⌈blocks/256⌉] and behind it the offset (one float32), of absmax[blocks].
NT_API int32_t nt_nf4_quantize_absmax(nt_context *context, uint8_t *codes, float *absmax2, const float *absmax,
                                      int64_t blocks);
// destination (f32, bf16 or f16) = the tensor's n values, `columns` a row, rows ld apart.
NT_API int32_t nt_nf4_dequantize(nt_context *context, void *destination, int32_t destination_dtype,
                                 const nt_nf4 *host_nf4, int64_t n, int64_t columns, int64_t ld);

// y[T,out] = x[T,in]·Wᵀ + bias (float32 [out] or null) + u·Bᵀ (no blocks: none). x, u, B have `dtype`, y has
// `y_dtype` (dtype or NT_F32). W may be the weights of several projections on top of each other; then B is
// block-diagonal: `host_blocks`, ascending by row, without overlap; rows of W in no block have no low-rank term.
// `rows`: with NT_ROWS_TOGETHER the order of a row's sums may depend on T. A row of y has the same bits whatever rows are
// beside it, and however many, with NT_ROWS_EACH (made for few rows: reading the weight bounds the speed) and with
// NT_ROWS_TILED (made for many), where rows lie as far apart and, up to 16 bytes, as aligned; the two differ from each other.
NT_API int32_t nt_linear_forward(nt_context *context, int32_t dtype, void *y, int32_t y_dtype, int64_t ldy,
                                 const void *x, int64_t ldx, const nt_weight *weight, const float *bias,
                                 const void *u, int64_t ldu, const nt_lora_block *host_blocks, int64_t blocks,
                                 int64_t rank, int64_t T, int32_t rows);
// dx[T,in] = dy[T,out]·W + g[T,r]·A[r,in] (rank 0: none), added to what dx holds when accumulate is 1.
NT_API int32_t nt_linear_backward_input(nt_context *context, int32_t dtype, void *dx, int64_t lddx, const void *dy,
                                        int64_t lddy, const nt_weight *weight, const void *g, int64_t ldg,
                                        const void *a, int64_t rank, int32_t accumulate, int64_t T);
// dweight[out,in] (float32) += dyᵀ·x; dbias[out] += Σ_t dy (null: not wanted).
NT_API int32_t nt_linear_backward_weight(nt_context *context, int32_t dtype, float *dweight, float *dbias,
                                         const void *dy, int64_t lddy, const void *x, int64_t ldx, int64_t T,
                                         int64_t out, int64_t in);
// LoRA's down projection, for all projections that read the same x at once (A stacked to R rows):
// u[T,R] = scale · x[T,in]·Aᵀ, A[R,in]; also written to u2 (null: not wanted), where rows lie ldu2 apart. `rows` as in
// nt_linear_forward.
NT_API int32_t nt_lora_forward(nt_context *context, int32_t dtype, void *u, void *u2, int64_t ldu2, const void *x,
                               int64_t ldx, const void *a, float scale, int64_t T, int64_t R, int64_t in, int32_t rows);
// For all projections of a stack, each with its own columns of dy, g and u: g[T,r] = scale · dy[T,rows]·B[rows,r];
// db[rows,r] (float32) += dyᵀ·u[T,r] (where no db is wanted u may be null).
NT_API int32_t nt_lora_backward(nt_context *context, int32_t dtype, void *g, int64_t ldg, const void *dy, int64_t lddy,
                                const void *u, int64_t ldu, const nt_lora_target *host_targets, int64_t targets,
                                int64_t rank, float scale, int64_t T);
// For the stacked projections: da[R,in] (float32) += gᵀ[R,T]·x[T,in].
NT_API int32_t nt_lora_backward_a(nt_context *context, int32_t dtype, float *da, const void *g, int64_t ldg,
                                  const void *x, int64_t ldx, int64_t T, int64_t R, int64_t in);

// Bytes of workspace nt_linear_cross_entropy runs well with (it accepts less, down to one row), with a dense weight and,
// where `dweight` is 0, without dweight.
NT_API int32_t nt_linear_cross_entropy_workspace(nt_context *context, int32_t dtype, int64_t rows, int64_t H,
                                                 int64_t V, int32_t dweight, int64_t *host_bytes);
// For the n rows host_rows[i] of x[T,H]: logits = x·Wᵀ, losses[i] = logsumexp(logits) − logits[host_targets[i]]
// (float32, device). With dx: dx[T,H] = gradient_scale · dlogits·W, all T rows written, 0 where there is no
// target. With dweight (float32 [V,H]): dweight += gradient_scale · dlogitsᵀ·x. Logits exist for a chunk of rows at
// a time, in `workspace`. Rows ascend, without duplicates.
NT_API int32_t nt_linear_cross_entropy(nt_context *context, int32_t dtype, float *losses, void *dx, float *dweight,
                                       const void *x, const nt_weight *weight, const int32_t *host_rows,
                                       const int32_t *host_targets, int64_t n, int64_t T, float gradient_scale,
                                       void *workspace, int64_t workspace_bytes);

// ------------------------------------------------------------------ attention

// Causal attention of each sample with itself alone. q: heads · head_dim columns, k and v: kv_heads · head_dim
// columns, all with row distance ldqkv (parts of one [T, (heads + 2·kv_heads)·head_dim] buffer); o[T, heads·head_dim]
// with row distance ldo. lse[heads, T] = logsumexp of scale·q·kᵀ, for the backward pass (null: not wanted).
// Query head h reads key/value head h / (heads / kv_heads). Never T × T in memory. With window > 0, position i sees
// positions i − window + 1 … i (0: all up to i), and the work is proportional to what is seen.
NT_API int32_t nt_attention_forward(nt_context *context, int32_t dtype, void *o, int64_t ldo, float *lse,
                                    const void *q, const void *k, const void *v, int64_t ldqkv,
                                    const int32_t *host_cu_seqlens, int64_t sequences, int64_t heads,
                                    int64_t kv_heads, int64_t head_dim, int64_t window, float scale);
// delta[heads, T] is scratch (Σ do∘o). dq, dk, dv have row distance lddqkv and are written, not added to. With positions
// (null: without) q and k came out of nt_rope with these tables, and dq and dk become the gradients of what went in.
NT_API int32_t nt_attention_backward(nt_context *context, int32_t dtype, void *dq, void *dk, void *dv, int64_t lddqkv,
                                     float *delta, const void *dout, const void *o, int64_t ldo, const void *q,
                                     const void *k, const void *v, int64_t ldqkv, const float *lse,
                                     const int32_t *host_cu_seqlens, int64_t sequences, int64_t heads,
                                     int64_t kv_heads, int64_t head_dim, int64_t window, float scale,
                                     const float *cosine, const float *sine, const int32_t *positions);
// Caches are [slots, kv_heads, capacity, head_dim]. Writes the rows of sample s (k, v as in attention) to slot
// host_slots[s] from position host_starts[s] on.
NT_API int32_t nt_kv_append(nt_context *context, int32_t dtype, void *k_cache, void *v_cache, const void *k,
                            const void *v, int64_t ldkv, const int32_t *host_cu_seqlens, const int32_t *host_slots,
                            const int32_t *host_starts, int64_t sequences, int64_t capacity, int64_t kv_heads,
                            int64_t head_dim);
// The new tokens of sample s, whose keys and values are in its slot already, at the last of the positions 0 …
// host_lengths[s] − 1: o[T, heads·head_dim], each token attending up to itself over the slot.
NT_API int32_t nt_attention_cached(nt_context *context, int32_t dtype, void *o, int64_t ldo, const void *q,
                                   int64_t ldq, const void *k_cache, const void *v_cache,
                                   const int32_t *host_cu_seqlens, const int32_t *host_slots,
                                   const int32_t *host_lengths, int64_t sequences, int64_t capacity, int64_t heads,
                                   int64_t kv_heads, int64_t head_dim, int64_t window, float scale);
// One query token per sequence, at position host_lengths[s] − 1: o[sequences, heads·head_dim] from the first
// host_lengths[s] keys of slot host_slots[s], or with window > 0 from the last `window` of them.
NT_API int32_t nt_attention_decode(nt_context *context, int32_t dtype, void *o, int64_t ldo, const void *q,
                                   int64_t ldq, const void *k_cache, const void *v_cache, const int32_t *host_slots,
                                   const int32_t *host_lengths, int64_t sequences, int64_t capacity, int64_t heads,
                                   int64_t kv_heads, int64_t head_dim, int64_t window, float scale);

// ------------------------------------------------------------------ optimizer and generation

// result[0] = ‖gradients‖₂, result[1] = min(1, max_norm / (norm + 1e-6)), or 1 where max_norm ≤ 0. Float32, device;
// summed in float64 in a fixed order.
NT_API int32_t nt_gradient_norm(nt_context *context, float *result, const float *gradients, int64_t n, float max_norm);
// torch.optim.AdamW on n float32 values, step counted from 1, gradients times *gradient_scale (device; null: 1):
// p −= lr·weight_decay·p; m = β1·m + (1−β1)·g; v = β2·v + (1−β2)·g²; p −= lr/(1−β1^step) · m / (sqrt(v/(1−β2^step)) + eps).
// copy (bf16 [n] or null) receives the rounded parameters.
NT_API int32_t nt_adamw(nt_context *context, float *parameters, void *copy, const float *gradients, float *m, float *v,
                        int64_t n, float learning_rate, float beta1, float beta2, float eps, float weight_decay,
                        int64_t step, const float *gradient_scale);
// The same with moments in 8 bits (Dettmers et al., arXiv 2110.02861), the signed dynamic map for m, the unsigned one for
// v (dynamic_map.h): a moment is map[code] · absmax of its block of 256. A step widens a block's moments, updates them
// and the parameters in float32, and rounds the moments: absmax = max |x|, or NaN where one is; code = the nearest to
// x / absmax, where a v above 0 never gets the code of 0. m, v: bytes [n]; m_absmax, v_absmax: [⌈n / 256⌉]; all zero at
// first.
NT_API int32_t nt_adamw_8bit(nt_context *context, float *parameters, void *copy, const float *gradients, uint8_t *m,
                             uint8_t *v, float *m_absmax, float *v_absmax, int64_t n, float learning_rate, float beta1,
                             float beta2, float eps, float weight_decay, int64_t step, const float *gradient_scale);
// y[n, columns] = x[host_rows[i]].
NT_API int32_t nt_gather_rows(nt_context *context, int32_t dtype, void *y, const void *x, const int32_t *host_rows,
                              int64_t n, int64_t columns);
// One token a row of logits[B,V] (float32; changed in place) into tokens[B] (int32, device), each row by its own
// host_rows[b]. First the repetition penalty (Transformers': each distinct token of
// host_history[host_history_offsets[b] … b+1] once: positive logits divided, others multiplied), then temperature; 0
// takes the greatest logit, the lowest id among equals. Else top_k, top_p, min_p, and a draw: word 0 of the Philox block
// with key = seed, counter = (step, 0, draw low, high | 4 << 16). Without any penalty there may be no history.
NT_API int32_t nt_sample(nt_context *context, int32_t *tokens, float *logits, int64_t B, int64_t V,
                         const nt_sampling *host_rows, const int32_t *host_history,
                         const int64_t *host_history_offsets);

// ------------------------------------------------------------------ ranks

// A communicator joins the ranks of a run, one process each: the CPU backend's over MPI, the CUDA backend's over NCCL,
// both opened at run time. All ranks make the same calls in the same order. `dtype` is float32 or bf16; elements are
// added in float32 (by NCCL: as NCCL does), on the CPU in the order of the ranks. Two runs give the same bits. Calls are
// enqueued as all work is.

// Writes one JSON object, NUL-terminated: transport ("MPI" or "NCCL"), path, version, problem (why the library cannot be
// used, with the remedy; or null), looked [places].
NT_API int32_t nt_comm_probe(char *host_json, int64_t size);
// The 128 bytes that one rank makes and gives to all for nt_comm_create. Zeros over MPI, which needs none.
NT_API int32_t nt_comm_id(nt_context *context, uint8_t *host_id);
// Returns when all `ranks` ranks have called it. Over MPI there is one a process, and `rank` and `ranks` must be what MPI
// says; ranks 0 takes MPI's word. Once *host_stop (which another thread may write; it outlives the communicator) is not
// 0, calls return NT_DEVICE instead of waiting for other ranks.
NT_API int32_t nt_comm_create(nt_context *context, int32_t rank, int32_t ranks, const uint8_t *host_id,
                              const int32_t *host_stop, nt_comm **host_comm);
// In order: all ranks call it.
NT_API int32_t nt_comm_destroy(nt_context *context, nt_comm *comm);
// After a failure: waits for no rank. Other calls then fail, but for nt_comm_destroy.
NT_API int32_t nt_comm_abort(nt_context *context, nt_comm *comm);
// Writes one JSON object, NUL-terminated: transport, path, version, rank, ranks.
NT_API int32_t nt_comm_describe(nt_context *context, nt_comm *comm, char *host_json, int64_t size);
// values[n] = the sum of all ranks' values.
NT_API int32_t nt_comm_all_reduce(nt_context *context, nt_comm *comm, int32_t dtype, void *values, int64_t n);
// y[n] = the sum of all ranks' x[rank · n … (rank + 1) · n], for this rank; x[ranks · n]. y may be that part of x.
NT_API int32_t nt_comm_reduce_scatter(nt_context *context, nt_comm *comm, int32_t dtype, void *y, const void *x,
                                      int64_t n);
// y[ranks · n] = the x[n] of rank 0, of rank 1, … x may be this rank's part of y.
NT_API int32_t nt_comm_all_gather(nt_context *context, nt_comm *comm, int32_t dtype, void *y, const void *x, int64_t n);
// values[n] = those of rank `root`.
NT_API int32_t nt_comm_broadcast(nt_context *context, nt_comm *comm, int32_t dtype, void *values, int64_t n,
                                 int32_t root);
// No rank's later work runs before all ranks' earlier work.
NT_API int32_t nt_comm_barrier(nt_context *context, nt_comm *comm);
// With on = 1, collectives run beside the work that is enqueued after them, until on = 0 makes later work wait for them.
NT_API int32_t nt_comm_overlap(nt_context *context, nt_comm *comm, int32_t on);
// Waits for all work enqueued so far, as nt_synchronize does, but ends with NT_DEVICE where NCCL reports that a rank is
// gone, or once *host_stop is not 0.
NT_API int32_t nt_comm_wait(nt_context *context, nt_comm *comm);
