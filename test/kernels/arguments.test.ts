// Every function refuses wrong arguments in the same words on every backend, before it reads or writes anything.

import { expect, test } from "bun:test";
import { type Argument, bindings, type FunctionName } from "../../src/native/bindings.ts";
import { NativeError, Weight } from "../../src/native/index.ts";
import { forEachBackend } from "./harness.ts";

/** Changes to arguments that are all 0 or null, by place (the context apart), and what is said of them. */
type Refusal = [FunctionName, Record<number, Argument | "device" | "weight">, string];

const dtype = "dtype must be f32 or bf16, got 7";
const borders = (...values: number[]) => Int32Array.from(values);
const draws = (...values: bigint[]) => BigInt64Array.from(values);
const scales = Float32Array.of(1);
/** One nt_sampling, zeros but for these. */
const sampling = (change: { temperature?: number; penalty?: number }) => {
  const words = new Float32Array(12);
  words.set([change.temperature ?? 0, 0, 0, change.penalty ?? 0]);
  return words;
};
const targets = (...words: bigint[]) => BigInt64Array.from(words);
const nf4 = (...words: bigint[]) => BigInt64Array.from(words);

/** Of the functions whose first argument is the activations' dtype. */
const typed = (Object.keys(bindings) as FunctionName[]).filter(
  (name) => bindings[name][1] === "i32" && !/^nt_(comm_)?create$/.test(name),
);

const refusals: Refusal[] = [
  ["nt_malloc", { 0: -1 }, "malloc: bytes must be ≥ 0, got -1"],
  ["nt_memset", { 2: -1 }, "memset: bytes must be ≥ 0, got -1"],
  ["nt_memset", { 2: 1 }, "memset: destination must not be null"],
  ["nt_copy", { 2: -2 }, "copy: bytes must be ≥ 0, got -2"],
  ["nt_copy", { 0: "device", 2: 1 }, "copy: destination and source must not be null"],
  ["nt_copy_to_device", { 2: -3 }, "copy_to_device: bytes must be ≥ 0, got -3"],
  ["nt_copy_to_device", { 2: 1 }, "copy_to_device: destination and source must not be null"],
  ["nt_copy_to_host", { 2: -4 }, "copy_to_host: bytes must be ≥ 0, got -4"],
  ["nt_copy_to_host", { 1: "device", 2: 1 }, "copy_to_host: destination and source must not be null"],
  ["nt_copy_to_host_later", { 2: -5 }, "copy_to_host_later: bytes must be ≥ 0, got -5"],
  ["nt_copy_to_host_later", { 2: 1 }, "copy_to_host_later: destination and source must not be null"],
  ["nt_host_malloc", { 0: -1 }, "host_malloc: bytes must be ≥ 0, got -1"],
  ["nt_matmul_choices", {}, "matmul_choices: no room"],
  ["nt_use_matmul_choices", {}, "use_matmul_choices: no text"],
  ...(["upload", "cast"] as const).flatMap((op): Refusal[] => [
    [`nt_${op}`, { 1: 2 }, `${op}: dtype must be f32 or bf16, got 2`],
    [`nt_${op}`, { 3: 9 }, `${op}: unknown source dtype 9`],
    [`nt_${op}`, { 4: -1 }, `${op}: n must be ≥ 0, got -1`],
    [`nt_${op}`, { 0: "device", 4: 1 }, `${op}: destination and source must not be null`],
  ]),
  ["nt_count_non_finite", { 2: 3 }, "count_non_finite: unknown source dtype 3"],
  ["nt_count_non_finite", { 3: -1 }, "count_non_finite: n must be ≥ 0, got -1"],
  ["nt_count_non_finite", { 0: "device", 3: 1 }, "count_non_finite: count and source must not be null"],
  ["nt_random", { 2: -1 }, "random: n must be ≥ 0, got -1"],
  ["nt_random", { 3: 2 }, "random: unknown kind 2"],
  ["nt_random", { 7: -1 }, "random: stream must be in [0, 65536), got -1"],
  ["nt_random", { 2: 1 }, "random: destination must not be null"],
  ["nt_embedding_forward", { 5: -1 }, "embedding_forward: sizes must be ≥ 0, got T -1, H 0"],
  ["nt_embedding_forward", { 6: 2 ** 31 }, "T must be below 2^31 and H at most 2^30, got 0 and 2147483648"],
  ["nt_embedding_forward", { 7: -1 }, "embedding_forward: V must be ≥ 0, got -1"],
  ["nt_embedding_forward", { 13: -1 }, "embedding_forward: sequences must be ≥ 0, got -1"],
  ["nt_embedding_forward", { 8: 4 }, "embedding_forward: unknown noise 4"],
  ["nt_embedding_forward", { 3: 7 }, "embedding_forward: table: dtype must be f32 or bf16, got 7"],
  ["nt_embedding_forward", { 5: 1, 6: 1 }, "embedding_forward: y, table and ids must not be null"],
  [
    "nt_embedding_forward",
    { 1: "device", 2: "device", 4: "device", 5: 1, 6: 1, 8: 1 },
    "embedding_forward: noise needs cu_seqlens, scales and draws",
  ],
  [
    "nt_embedding_forward",
    {
      ...{ 1: "device", 2: "device", 4: "device", 5: 2, 6: 1, 7: 1, 8: 1 },
      ...{ 10: borders(0, 1), 11: scales, 12: draws(0n), 13: 1 },
    },
    "embedding_forward: cu_seqlens must go from 0 to T = 2, got 0 … 1 for 1 sequences",
  ],
  ["nt_embedding_backward", { 6: -1, 4: 1, 5: 1 }, "embedding_backward: V must be ≥ 0, got -1"],
  ["nt_embedding_backward", { 4: 1, 5: 1 }, "embedding_backward: dtable, dy and ids must not be null"],
  ["nt_learned_scale_backward", { 5: -1 }, "learned_scale_backward: sizes must be ≥ 0, got T 0, H -1"],
  ["nt_learned_scale_backward", { 5: 1 }, "learned_scale_backward: rows of dy have 1 elements"],
  ["nt_learned_scale_backward", { 6: 0 }, "learned_scale_backward: unknown noise 0"],
  ["nt_learned_scale_backward", { 3: 1, 4: 1, 5: 1, 6: 1 }, "learned_scale_backward: no pointer may be null"],
  [
    "nt_learned_scale_backward",
    { 1: "device", 2: "device", 3: 1, 4: 1, 5: 1, 6: 1, 8: borders(0, 1), 9: scales, 10: draws(-1n), 11: 1 },
    "learned_scale_backward: draws must be in [0, 2^48), got -1",
  ],
  ["nt_rmsnorm_forward", { 8: -1 }, "rmsnorm_forward: sizes must be ≥ 0, got T -1, H 0"],
  ["nt_rmsnorm_forward", { 8: 2 ** 31 }, "rmsnorm_forward: T must be below 2^31 and H at most 2^30"],
  [
    "nt_rmsnorm_forward",
    { 9: 1 },
    "rmsnorm_forward: rows of y have 1 elements and do not fit into distance 0",
  ],
  ["nt_rmsnorm_forward", { 2: 1, 8: 1, 9: 1 }, "rmsnorm_forward: y, rstd, x and weight must not be null"],
  [
    "nt_rmsnorm_forward",
    { 1: "device", 2: 1, 4: "device", 5: "device", 6: "device", 7: "device", 8: 1, 9: 1 },
    "rmsnorm_forward: with delta, sum must not be null",
  ],
  ["nt_rmsnorm_backward", { 10: -1 }, "rmsnorm_backward: sizes must be ≥ 0, got T 0, H -1"],
  ["nt_rmsnorm_backward", { 10: 1 }, "rmsnorm_backward: rows of dx have 1 elements"],
  [
    "nt_rmsnorm_backward",
    { 2: 1, 9: 1, 10: 1 },
    "rmsnorm_backward: dx, dy, x, weight and rstd must not be null",
  ],
  ["nt_rope", { 6: -1 }, "rope: sizes must be ≥ 0, got T -1, heads 0, head_dim 0"],
  ["nt_rope", { 7: 2 ** 31 }, "rope: T must be below 2^31, heads and head_dim at most 2^30"],
  ["nt_rope", { 8: 3 }, "rope: head_dim must be even, got 3"],
  ["nt_rope", { 7: 2, 8: 4 }, "rope: ldx must be at least heads · head_dim = 8, got 0"],
  ["nt_rope", { 2: 4, 6: 1, 7: 1, 8: 4 }, "rope: x, cosine, sine and positions must not be null"],
  ["nt_rmsnorm_rope_forward", { 11: 258 }, "rmsnorm_rope_forward: head_dim must be at most 256, got 258"],
  ["nt_rmsnorm_rope_forward", { 9: 2 ** 20, 10: 2 ** 20 }, "T · heads must be below 2^31"],
  [
    "nt_rmsnorm_rope_forward",
    { 1: "device", 2: 2, 6: "device", 7: "device", 8: "device", 9: 1, 10: 1, 11: 2 },
    "rmsnorm_rope_forward: weight must not be null",
  ],
  [
    "nt_rmsnorm_rope_backward",
    { 1: "device", 2: 2, 6: "device", 7: "device", 8: "device", 9: "device", 10: 1, 11: 1, 12: 2 },
    "rmsnorm_rope_backward: x must not be null",
  ],
  ["nt_swiglu_forward", { 5: -1 }, "swiglu_forward: sizes must be ≥ 0, got T -1, I 0"],
  ["nt_swiglu_forward", { 6: 2 ** 31 }, "swiglu_forward: T must be below 2^31 and I at most 2^30"],
  ["nt_swiglu_forward", { 6: 1 }, "swiglu_forward: rows of h have 1 elements"],
  ["nt_swiglu_forward", { 2: 1, 4: 1, 6: 1 }, "swiglu_forward: rows of gate_up have 2 elements"],
  ["nt_swiglu_forward", { 2: 1, 4: 2, 5: 1, 6: 1 }, "swiglu_forward: h and gate_up must not be null"],
  ["nt_swiglu_backward", { 7: -1 }, "swiglu_backward: sizes must be ≥ 0, got T 0, I -1"],
  ["nt_swiglu_backward", { 7: 1 }, "swiglu_backward: rows of dh have 1 elements"],
  ["nt_swiglu_backward", { 2: 2, 5: 1, 6: 1, 7: 1 }, "swiglu_backward: gate_up and dh must not be null"],
  ["nt_swiglu_backward_lora", { 9: -1 }, "swiglu_backward_lora: sizes must be ≥ 0, got T 0, R -1"],
  ["nt_swiglu_backward_lora", { 9: 1 }, "swiglu_backward_lora: rows of g have 1 elements"],
  [
    "nt_swiglu_backward_lora",
    { 2: 2, 5: 1, 7: 1, 8: 1, 9: 1, 10: 1 },
    "gate_up, dA, g and dh must not be null",
  ],
  ["nt_dropout", { 6: 262145, 2: 262145, 4: 262145 }, "dropout: columns must be in [0, 262144], got 262145"],
  ["nt_dropout", { 6: 1, 4: 1 }, "dropout: rows of y have 1 elements"],
  ["nt_dropout", { 6: 1, 2: 1 }, "dropout: rows of x have 1 elements"],
  ["nt_dropout", { 7: 1 }, "dropout: p must be in [0, 1), got 1"],
  ["nt_dropout", { 9: 65536 }, "dropout: module must be in [0, 65536), got 65536"],
  ["nt_dropout", { 2: 1, 4: 1, 5: 1, 6: 1 }, "dropout: y, x, cu_seqlens and draws must not be null"],
  ["nt_weight_create", { 1: -1 }, "weight_create: sizes must be ≥ 0, got [-1, 0]"],
  ["nt_weight_create", { 2: 3 }, "weight_create: rows of the weight have 3 elements"],
  ["nt_weight_create", { 1: 2, 2: 3, 4: 3 }, "weight_create: [2, 3] without data"],
  ["nt_weight_create_stack", {}, "weight_create_stack: no parts"],
  ["nt_weight_create_stack", { 0: new BigUint64Array(1), 1: 1 }, "weight_create_stack: part 0 is missing"],
  ["nt_weight_create_nf4", { 2: -1 }, "weight_create_nf4: sizes must be ≥ 0, got [0, -1]"],
  ["nt_weight_create_nf4", {}, "weight_create_nf4: no scratch"],
  ["nt_weight_create_nf4", { 4: "device" }, "weight_create_nf4: no NF4 tensor"],
  ["nt_weight_create_nf4", { 4: "device", 3: nf4(0n, 0n, 0n, 5n) }, "unknown dtype 5 of the NF4 tensor"],
  [
    "nt_weight_create_nf4",
    { 1: 1, 2: 1, 4: "device", 3: nf4(0n, 0n, 0n, 0n) },
    "weight_create_nf4: codes and absmax must not be null",
  ],
  ["nt_nf4_quantize", { 3: 3 }, "nf4_quantize: unknown source dtype 3"],
  ["nt_nf4_quantize", { 4: -1 }, "nf4_quantize: n must be ≥ 0, got -1"],
  ["nt_nf4_quantize", { 4: 1 }, "nf4_quantize: codes, absmax and source must not be null"],
  ["nt_nf4_quantize_absmax", { 3: -1 }, "nf4_quantize_absmax: blocks must be ≥ 0, got -1"],
  ["nt_nf4_quantize_absmax", { 3: 1 }, "nf4_quantize_absmax: codes, absmax2 and absmax must not be null"],
  ["nt_nf4_dequantize", { 1: 3 }, "nf4_dequantize: unknown destination dtype 3"],
  ["nt_nf4_dequantize", { 3: -1 }, "nf4_dequantize: n must be ≥ 0, got -1"],
  ["nt_nf4_dequantize", { 3: 1 }, "nf4_dequantize: no NF4 tensor"],
  ["nt_copy_blocks", { 1: -1 }, "copy_blocks: count must be ≥ 0, got -1"],
  ["nt_copy_blocks", { 1: 1 }, "copy_blocks: blocks must not be null"],
  [
    "nt_copy_blocks",
    { 0: targets(0n, 0n, 1n, 4n, 3n), 1: 1 },
    "copy_blocks: block 0 has 1 rows of 4 bytes, 3 apart",
  ],
  [
    "nt_copy_blocks",
    { 0: targets(0n, 0n, 1n, 4n, 4n), 1: 1 },
    "copy_blocks: block 0 has no destination or no source",
  ],
  ["nt_linear_forward", {}, "linear_forward: no weight"],
  ["nt_linear_forward", { 0: 1, 6: "weight" }, "linear_forward: x has dtype 1, the weight 0"],
  ["nt_linear_forward", { 2: 1, 6: "weight" }, "linear_forward: y must have x's dtype or be f32, got 1"],
  ["nt_linear_forward", { 6: "weight", 13: -1 }, "linear_forward: T must be ≥ 0, got -1"],
  [
    "nt_linear_forward",
    { 3: 2, 5: 2, 6: "weight" },
    "linear_forward: rows of 3 and 2 elements do not fit into distances 2 and 2",
  ],
  ["nt_linear_forward", { 3: 2, 5: 3, 6: "weight", 11: 1, 12: 4 }, "1 LoRA blocks of rank 4 need u and B"],
  ["nt_linear_forward", { 3: 2, 5: 3, 6: "weight", 14: 3 }, "linear_forward: unknown kind of rows 3"],
  ["nt_linear_forward", { 3: 2, 5: 3, 6: "weight", 13: 1 }, "linear_forward: y and x must not be null"],
  ["nt_linear_backward_input", {}, "linear_backward_input: no weight"],
  ["nt_linear_backward_input", { 5: "weight", 9: -1 }, "sizes must be ≥ 0, got T 0, rank -1"],
  ["nt_linear_backward_input", { 2: 3, 4: 2, 5: "weight", 9: 1 }, "do not fit into distances 3, 2, 0"],
  ["nt_linear_backward_input", { 2: 3, 4: 2, 5: "weight", 11: 1 }, "dx and dy must not be null"],
  [
    "nt_linear_backward_input",
    { 1: "device", 3: "device", 2: 3, 4: 2, 5: "weight", 7: 1, 9: 1, 11: 1 },
    "linear_backward_input: rank 1 needs g and A",
  ],
  ["nt_linear_backward_weight", { 7: -1 }, "linear_backward_weight: T must be ≥ 0, got -1"],
  ["nt_linear_backward_weight", { 8: -1 }, "linear_backward_weight: sizes must be ≥ 0, got [-1, 0]"],
  ["nt_linear_backward_weight", { 8: 1, 9: 1 }, "rows of 1 and 1 elements do not fit into distances 0 and 0"],
  ["nt_linear_backward_weight", { 4: 1, 7: 1, 8: 1 }, "linear_backward_weight: dy must not be null"],
  [
    "nt_linear_backward_weight",
    { 3: "device", 4: 1, 6: 1, 7: 1, 8: 1, 9: 1 },
    "linear_backward_weight: dweight and x must not be null",
  ],
  ["nt_lora_forward", { 9: -1 }, "lora_forward: sizes must be ≥ 0, got T 0, R -1, in 0"],
  ["nt_lora_forward", { 10: 1 }, "lora_forward: rows of x have 1 elements and do not fit into distance 0"],
  ["nt_lora_forward", { 2: "device", 5: 1, 9: 1, 10: 1 }, "lora_forward: rows of u2 have 1 elements"],
  ["nt_lora_forward", { 11: 3 }, "lora_forward: unknown kind of rows 3"],
  ["nt_lora_forward", { 5: 1, 8: 1, 9: 1, 10: 1 }, "lora_forward: u, x and A must not be null"],
  ["nt_lora_backward", { 11: -1 }, "lora_backward: sizes must be ≥ 0, got T -1, rank 0, 0 targets"],
  ["nt_lora_backward", { 8: 1 }, "lora_backward: targets must not be null"],
  ["nt_lora_backward", { 7: targets(1n, 0n, -1n, 1n, 0n), 8: 1 }, "got row -1, rows 1, column 0"],
  [
    "nt_lora_backward",
    { 7: targets(1n, 0n, 0n, 1n, 0n), 8: 1, 9: 1 },
    "target 0's columns 0 + 1 and 0 + 1 do not fit into distances 0 of dy, 0 of g, 0 of u",
  ],
  [
    "nt_lora_backward",
    { 2: 1, 4: 1, 7: targets(1n, 0n, 0n, 1n, 0n), 8: 1, 9: 1, 11: 1 },
    "lora_backward: g and dy must not be null",
  ],
  ["nt_lora_backward_a", { 7: -1 }, "lora_backward_a: sizes must be ≥ 0, got T 0, R -1, in 0"],
  ["nt_lora_backward_a", { 7: 1 }, "lora_backward_a: rows of g have 1 elements"],
  ["nt_lora_backward_a", { 3: 1, 5: 1, 6: 1, 7: 1, 8: 1 }, "lora_backward_a: dA, g and x must not be null"],
  ["nt_linear_cross_entropy_workspace", { 3: -1 }, "sizes must be ≥ 0, got rows 0, H 0, V -1"],
  ["nt_linear_cross_entropy", {}, "linear_cross_entropy: no weight"],
  ["nt_linear_cross_entropy", { 5: "weight", 8: 2, 9: 1 }, "linear_cross_entropy: 2 rows of 1"],
  ["nt_linear_cross_entropy", { 5: "weight", 8: 1, 9: 1 }, "losses, x, rows and targets must not be null"],
  [
    "nt_linear_cross_entropy",
    { 1: "device", 4: "device", 5: "weight", 6: borders(1), 7: borders(0), 8: 1, 9: 1 },
    "linear_cross_entropy: rows must ascend within 0 … 0, got 1 at 0",
  ],
  [
    "nt_linear_cross_entropy",
    { 1: "device", 4: "device", 5: "weight", 6: borders(0), 7: borders(2), 8: 1, 9: 1 },
    "linear_cross_entropy: a target must be within 0 … 1, got 2 at row 0",
  ],
  [
    "nt_attention_forward",
    {},
    "attention_forward: heads must be a multiple of kv_heads, both > 0, got 0 and 0",
  ],
  ["nt_attention_forward", { 10: 1, 11: 1, 12: 257 }, "head_dim must be between 1 and 256, got 257"],
  [
    "nt_attention_forward",
    { 10: 1, 11: 1, 12: 8, 9: -1 },
    "attention_forward: sequences must be ≥ 0, got -1",
  ],
  ["nt_attention_forward", { 10: 1, 11: 1, 12: 8, 13: -1 }, "attention_forward: window must be ≥ 0, got -1"],
  ["nt_attention_forward", { 10: 1, 11: 1, 12: 8 }, "attention_forward: scale must be finite and > 0, got 0"],
  ["nt_attention_forward", { 10: 1, 11: 1, 12: 8, 14: 1 }, "heads · head_dim = 8, got 0 and 0"],
  [
    "nt_attention_forward",
    { 2: 8, 7: 8, 8: borders(0, 1), 9: 1, 10: 1, 11: 1, 12: 8, 14: 1 },
    "attention_forward: o, q, k and v must not be null",
  ],
  ["nt_attention_backward", { 16: 1, 17: 1, 18: 8, 20: 1 }, "heads · head_dim = 8, got 0, 0 and 0"],
  [
    "nt_attention_backward",
    { 4: 8, 8: 8, 12: 8, 14: borders(0, 1), 15: 1, 16: 1, 17: 1, 18: 8, 20: 1 },
    "attention_backward: no pointer may be null",
  ],
  ["nt_kv_append", { 11: 1 }, "kv_append: head_dim must be between 1 and 256, got 0"],
  ["nt_kv_append", { 11: 1, 12: 8 }, "kv_append: ldkv must be at least kv_heads · head_dim = 8, got 0"],
  [
    "nt_kv_append",
    { 5: 8, 6: borders(0, 1), 9: 1, 11: 1, 12: 8 },
    "kv_append: the caches, k, v, slots and starts must not be null",
  ],
  [
    "nt_kv_append",
    {
      ...{ 1: "device", 2: "device", 3: "device", 4: "device", 5: 8, 6: borders(0, 2), 9: 1 },
      ...{ 7: borders(0), 8: borders(3), 10: 4, 11: 1, 12: 8 },
    },
    "kv_append: sample 0 must fit its slot of 4 positions, got slot 0, positions 3 … 5",
  ],
  [
    "nt_attention_decode",
    { 11: 1 },
    "attention_decode: heads must be a multiple of kv_heads, both > 0, got 1 and 0",
  ],
  ["nt_attention_decode", { 11: 1, 12: 1, 13: 8, 14: -1 }, "attention_decode: window must be ≥ 0, got -1"],
  ["nt_attention_decode", { 9: -1, 11: 1, 12: 1, 13: 8 }, "attention_decode: sequences must be ≥ 0, got -1"],
  ["nt_attention_decode", { 11: 1, 12: 1, 13: 8 }, "attention_decode: scale must be finite and > 0, got 0"],
  ["nt_attention_decode", { 11: 1, 12: 1, 13: 8, 15: 1 }, "heads · head_dim = 8, got 0 and 0"],
  [
    "nt_attention_decode",
    { 2: 8, 4: 8, 9: 1, 11: 1, 12: 1, 13: 8, 15: 1 },
    "attention_decode: o, q, the caches, slots and lengths must not be null",
  ],
  [
    "nt_attention_decode",
    {
      ...{ 1: "device", 2: 8, 3: "device", 4: 8, 5: "device", 6: "device", 7: borders(0), 8: borders(5) },
      ...{ 9: 1, 10: 4, 11: 1, 12: 1, 13: 8, 15: 1 },
    },
    "lengths must be between 0 and the capacity 4, slots ≥ 0, got length 5 of slot 0",
  ],
  [
    "nt_attention_cached",
    {},
    "attention_cached: heads must be a multiple of kv_heads, both > 0, got 0 and 0",
  ],
  ["nt_attention_cached", { 10: -1, 12: 1, 13: 1, 14: 8 }, "attention_cached: sequences must be ≥ 0, got -1"],
  ["nt_attention_cached", { 12: 1, 13: 1, 14: 8, 15: -1 }, "attention_cached: window must be ≥ 0, got -1"],
  ["nt_attention_cached", { 12: 1, 13: 1, 14: 8 }, "attention_cached: scale must be finite and > 0, got 0"],
  ["nt_attention_cached", { 12: 1, 13: 1, 14: 8, 16: 1 }, "heads · head_dim = 8, got 0 and 0"],
  [
    "nt_attention_cached",
    { 2: 8, 4: 8, 7: borders(0, 1), 10: 1, 12: 1, 13: 1, 14: 8, 16: 1 },
    "attention_cached: o, q, the caches, slots and lengths must not be null",
  ],
  ...(
    [
      [0, 1, "got length 1 for 2 tokens of slot 0"],
      [0, 5, "must be between the new tokens and the capacity 4, slots ≥ 0, got length 5"],
      [-1, 2, "got length 2 for 2 tokens of slot -1"],
      [2 ** 30, 2, "at most, got slot 1073741824 of 4 each"],
    ] as const
  ).map(
    ([slot, length, message]): Refusal => [
      "nt_attention_cached",
      {
        ...{ 1: "device", 2: 8, 3: "device", 4: 8, 5: "device", 6: "device", 7: borders(0, 2) },
        ...{ 8: borders(slot), 9: borders(length), 10: 1, 11: 4, 12: 1, 13: 1, 14: 8, 16: 1 },
      },
      message,
    ],
  ),
  ["nt_gradient_norm", { 2: -1 }, "gradient_norm: n must be ≥ 0, got -1"],
  ["nt_gradient_norm", { 2: 1 }, "gradient_norm: result and gradients must not be null"],
  ["nt_adamw", { 5: -1 }, "adamw: n must be ≥ 0, got -1"],
  ["nt_adamw", {}, "adamw: step counts from 1, got 0"],
  ["nt_adamw", { 7: 1, 11: 1 }, "adamw: betas must be in [0, 1), got 1 and 0"],
  ["nt_adamw", { 5: 1, 11: 1 }, "adamw: parameters, gradients, m and v must not be null"],
  ["nt_adamw_8bit", { 7: -1 }, "adamw_8bit: n must be ≥ 0, got -1"],
  ["nt_adamw_8bit", {}, "adamw_8bit: step counts from 1, got 0"],
  ["nt_adamw_8bit", { 10: 1, 13: 1 }, "adamw_8bit: betas must be in [0, 1), got 0 and 1"],
  [
    "nt_adamw_8bit",
    { 7: 1, 13: 1 },
    "adamw_8bit: parameters, gradients, m, v, m_absmax and v_absmax must not be null",
  ],
  ["nt_gather_rows", { 4: -1 }, "gather_rows: sizes must be ≥ 0, got n -1, columns 0"],
  ["nt_gather_rows", { 5: 2 ** 31 }, "gather_rows: at most 2^30 columns, got 2147483648"],
  ["nt_gather_rows", { 4: 1, 5: 1 }, "gather_rows: y, x and rows must not be null"],
  [
    "nt_gather_rows",
    { 1: "device", 2: "device", 3: borders(-1), 4: 1, 5: 1 },
    "gather_rows: rows must be ≥ 0, got -1 at 0",
  ],
  ["nt_sample", { 3: 2 ** 31 }, "sample: B must be ≥ 0 and V in [0, 2^31), got 0 and 2147483648"],
  ["nt_sample", { 2: 1, 3: 1 }, "sample: tokens, logits and rows must not be null"],
  [
    "nt_sample",
    { 0: "device", 1: "device", 2: 1, 3: 1, 4: sampling({ temperature: -1 }) },
    "sample: temperature must be ≥ 0, got -1",
  ],
  [
    "nt_sample",
    { 0: "device", 1: "device", 2: 1, 3: 1, 4: sampling({}) },
    "sample: repetition_penalty must be > 0, got 0",
  ],
  [
    "nt_sample",
    { 0: "device", 1: "device", 2: 1, 3: 1, 4: sampling({ penalty: 2 }) },
    "sample: a repetition penalty needs history and its offsets",
  ],
  [
    "nt_sample",
    {
      ...{ 0: "device", 1: "device", 2: 1, 3: 1, 4: sampling({ penalty: 2 }) },
      ...{ 5: new Int32Array(1), 6: draws(0n, 2n ** 19n + 1n) },
    },
    "sample: at most 524288 tokens of history a row, got 524289",
  ],
];

/**
 * Functions without arguments to refuse, or whose refusals are another test's: device.test.ts, comm.test.ts,
 * test/native/work.test.ts.
 */
const others: FunctionName[] = [
  ...(["nt_probe", "nt_create", "nt_destroy", "nt_describe", "nt_synchronize", "nt_free"] as const),
  ...(["nt_select", "nt_host_free", "nt_timeline_mark", "nt_timeline_read"] as const),
  ...(["nt_file_map", "nt_file_unmap", "nt_file_forget", "nt_weight_destroy"] as const),
];

test("every function is here", () => {
  const here = new Set([...typed, ...others, ...refusals.map(([name]) => name)]);
  const missing = (Object.keys(bindings) as FunctionName[]).filter((name) => !here.has(name));
  expect(missing.filter((name) => !name.startsWith("nt_comm_"))).toEqual([]);
});

forEachBackend((device) => {
  const call = (name: FunctionName, changes: Refusal[1], x: number, weight: number) => () => {
    const args = bindings[name].slice(1).map((type, i): Argument => {
      const change = changes[i];
      if (change === "device") return x;
      if (change === "weight") return weight;
      return change ?? (type === "ptr" ? null : 0);
    });
    device.call(name, ...args);
  };

  test("wrong arguments are refused in one backend's words", () => {
    const data = device.allocate("f32", [16]);
    const weight = Weight.dense(device, data.reshapeTo([2, 3]));
    for (const name of typed) {
      const refused = call(name, { 0: 7 }, data.ptr, weight.handle);
      expect(refused).toThrow(NativeError);
      expect(refused).toThrow(`${name.slice(3)}: ${dtype}`);
    }
    for (const [name, changes, message] of refusals) {
      const refused = call(name, changes, data.ptr, weight.handle);
      expect(refused, name).toThrow(NativeError);
      expect(refused, name).toThrow(message);
    }
    weight.destroy();
    device.free(data.ptr);
  });
});
