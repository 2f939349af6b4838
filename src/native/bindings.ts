// The functions of kernels/neftune.h and their parameter types, in its order; test/native compares the two.
// Every function returns an nt_status, except nt_last_error.

/** bun:ffi type names: i32, i64, u32, u64, f32 and ptr (a device or host address, or a typed array). */
export type ParameterType = "i32" | "i64" | "u32" | "u64" | "f32" | "ptr";

const list = (types: string): ParameterType[] => types.split(" ") as ParameterType[];

export const bindings = {
  nt_probe: list("ptr i64"),
  nt_create: list("i32 i32 ptr"),
  nt_destroy: list("ptr"),
  nt_describe: list("ptr ptr i64"),
  nt_synchronize: list("ptr"),
  nt_malloc: list("ptr i64 ptr"),
  nt_free: list("ptr ptr"),
  nt_memset: list("ptr ptr i32 i64"),
  nt_copy_to_device: list("ptr ptr ptr i64"),
  nt_copy_to_host: list("ptr ptr ptr i64"),
  nt_copy: list("ptr ptr ptr i64"),
  nt_file_map: list("ptr ptr ptr ptr ptr"),
  nt_file_unmap: list("ptr ptr i64"),
  nt_file_forget: list("ptr ptr i64"),
  nt_upload: list("ptr ptr i32 ptr i32 i64"),
  nt_cast: list("ptr ptr i32 ptr i32 i64"),
  nt_count_non_finite: list("ptr ptr ptr i32 i64"),
  nt_random: list("ptr i32 ptr i64 i32 f32 u64 u32 i32"),
  nt_embedding_forward: list("ptr i32 ptr ptr i32 ptr i64 i64 i64 i32 u64 ptr ptr ptr i64 ptr"),
  nt_learned_scale_backward: list("ptr i32 ptr ptr i64 i64 i32 u64 ptr ptr ptr i64"),
  nt_embedding_backward: list("ptr i32 ptr ptr ptr i64 i64 i64"),
  nt_rmsnorm_forward: list("ptr i32 ptr ptr ptr ptr ptr ptr i64 i64 f32"),
  nt_rmsnorm_backward: list("ptr i32 ptr ptr ptr ptr ptr ptr ptr i64 i64"),
  nt_rope: list("ptr i32 ptr i64 ptr ptr ptr i64 i64 i64 i32"),
  nt_rmsnorm_rope_forward: list("ptr i32 ptr i64 ptr i64 ptr ptr ptr ptr i64 i64 i64 f32"),
  nt_rmsnorm_rope_backward: list("ptr i32 ptr i64 ptr ptr i64 ptr ptr ptr ptr i64 i64 i64 f32"),
  nt_swiglu_forward: list("ptr i32 ptr ptr i64 i64"),
  nt_swiglu_backward: list("ptr i32 ptr ptr ptr i64 i64"),
  nt_dropout: list("ptr i32 ptr ptr i64 i64 f32 u64 i32 i32 ptr ptr i64"),
  nt_weight_create: list("ptr i32 i64 i64 ptr i32 ptr"),
  nt_weight_refresh: list("ptr ptr"),
  nt_weight_destroy: list("ptr ptr"),
  nt_weight_extra_bytes: list("ptr i32 i64 i64 i32 ptr"),
  nt_weight_create_nf4: list("ptr i32 i64 i64 ptr ptr ptr"),
  nt_nf4_quantize: list("ptr ptr ptr ptr i32 i64 ptr"),
  nt_nf4_quantize_absmax: list("ptr ptr ptr ptr i64"),
  nt_nf4_dequantize: list("ptr ptr i32 ptr i64"),
  nt_linear_forward: list("ptr i32 ptr i32 i64 ptr i64 ptr ptr ptr i64 ptr i64 i64 i64"),
  nt_linear_backward_input: list("ptr i32 ptr i64 ptr i64 ptr ptr i64 ptr i64 i32 i64"),
  nt_linear_backward_weight: list("ptr i32 ptr ptr ptr i64 ptr i64 i64 i64 i64"),
  nt_lora_forward: list("ptr i32 ptr ptr i64 ptr f32 i64 i64 i64"),
  nt_lora_backward: list("ptr i32 ptr i64 ptr ptr i64 ptr i64 ptr f32 i64 i64 i64"),
  nt_lora_backward_a: list("ptr i32 ptr ptr ptr i64 i64 i64 i64"),
  nt_linear_cross_entropy_workspace: list("ptr i32 i64 i64 i64 ptr"),
  nt_linear_cross_entropy: list("ptr i32 ptr ptr ptr ptr ptr ptr ptr i64 i64 f32 ptr i64"),
  nt_attention_forward: list("ptr i32 ptr i64 ptr ptr ptr ptr i64 ptr i64 i64 i64 i64 i64 f32"),
  nt_attention_backward: list(
    "ptr i32 ptr ptr ptr i64 ptr ptr ptr i64 ptr ptr ptr i64 ptr ptr i64 i64 i64 i64 i64 f32",
  ),
  nt_kv_append: list("ptr i32 ptr ptr ptr ptr i64 ptr ptr ptr i64 i64 i64 i64"),
  nt_attention_decode: list("ptr i32 ptr i64 ptr i64 ptr ptr ptr ptr i64 i64 i64 i64 i64 i64 f32"),
  nt_gradient_norm: list("ptr ptr ptr i64 f32"),
  nt_adamw: list("ptr ptr ptr ptr ptr ptr i64 f32 f32 f32 f32 f32 i64 ptr"),
  nt_gather_rows: list("ptr i32 ptr ptr ptr i64 i64"),
  nt_sample: list("ptr ptr ptr i64 i64 f32 i64 f32 f32 ptr ptr u64 ptr i64"),
} as const satisfies Record<string, ParameterType[]>;

export type FunctionName = keyof typeof bindings;
