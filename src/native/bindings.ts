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
  nt_matmul_choices: list("ptr ptr i64 ptr"),
  nt_use_matmul_choices: list("ptr ptr"),
  nt_select: list("ptr"),
  nt_timeline_mark: list("ptr i64"),
  nt_timeline_read: list("ptr ptr i64 ptr"),
  nt_malloc: list("ptr i64 ptr"),
  nt_free: list("ptr ptr"),
  nt_memset: list("ptr ptr i32 i64"),
  nt_copy_to_device: list("ptr ptr ptr i64"),
  nt_copy_to_host: list("ptr ptr ptr i64"),
  nt_copy_to_host_later: list("ptr ptr ptr i64"),
  nt_host_malloc: list("ptr i64 ptr"),
  nt_host_free: list("ptr ptr"),
  nt_copy: list("ptr ptr ptr i64"),
  nt_copy_blocks: list("ptr ptr i64"),
  nt_file_map: list("ptr ptr ptr ptr ptr"),
  nt_file_unmap: list("ptr ptr i64"),
  nt_file_forget: list("ptr ptr i64"),
  nt_upload: list("ptr ptr i32 ptr i32 i64"),
  nt_cast: list("ptr ptr i32 ptr i32 i64"),
  nt_count_non_finite: list("ptr ptr ptr i32 i64"),
  nt_random: list("ptr i32 ptr i64 i32 f32 u64 u32 i32"),
  nt_embedding_forward: list("ptr i32 ptr ptr i32 ptr i64 i64 i64 i32 u64 ptr ptr ptr i64 ptr"),
  nt_learned_scale_backward: list("ptr i32 ptr ptr i64 i64 i64 i32 u64 ptr ptr ptr i64"),
  nt_embedding_backward: list("ptr i32 ptr ptr ptr i64 i64 i64"),
  nt_rmsnorm_forward: list("ptr i32 ptr i64 ptr ptr ptr ptr ptr i64 i64 f32"),
  nt_rmsnorm_backward: list("ptr i32 ptr i64 ptr ptr ptr ptr ptr ptr i64 i64"),
  nt_rope: list("ptr i32 ptr i64 ptr ptr ptr i64 i64 i64 i32"),
  nt_rmsnorm_rope_forward: list("ptr i32 ptr i64 ptr i64 ptr ptr ptr ptr i64 i64 i64 f32"),
  nt_rmsnorm_rope_backward: list("ptr i32 ptr i64 ptr ptr i64 ptr ptr ptr ptr i64 i64 i64 f32"),
  nt_swiglu_forward: list("ptr i32 ptr i64 ptr i64 i64 i64"),
  nt_swiglu_backward: list("ptr i32 ptr i64 ptr ptr i64 i64 i64"),
  nt_swiglu_backward_lora: list("ptr i32 ptr i64 ptr ptr i64 ptr i64 i64 i64 i64"),
  nt_dropout: list("ptr i32 ptr i64 ptr i64 i64 i64 f32 u64 i32 i32 ptr ptr i64"),
  nt_weight_create: list("ptr i32 i64 i64 ptr i64 ptr"),
  nt_weight_destroy: list("ptr ptr"),
  nt_weight_create_nf4: list("ptr i32 i64 i64 ptr ptr ptr"),
  nt_weight_create_stack: list("ptr ptr i64 ptr"),
  nt_nf4_quantize: list("ptr ptr ptr ptr i32 i64 ptr"),
  nt_nf4_quantize_absmax: list("ptr ptr ptr ptr i64"),
  nt_nf4_dequantize: list("ptr ptr i32 ptr i64 i64 i64"),
  nt_linear_forward: list("ptr i32 ptr i32 i64 ptr i64 ptr ptr ptr i64 ptr i64 i64 i64 i32"),
  nt_linear_backward_input: list("ptr i32 ptr i64 ptr i64 ptr ptr i64 ptr i64 i32 i64"),
  nt_linear_backward_weight: list("ptr i32 ptr ptr ptr i64 ptr i64 i64 i64 i64"),
  nt_lora_forward: list("ptr i32 ptr ptr i64 ptr i64 ptr f32 i64 i64 i64 i32"),
  nt_lora_backward: list("ptr i32 ptr i64 ptr i64 ptr i64 ptr i64 i64 f32 i64"),
  nt_lora_backward_a: list("ptr i32 ptr ptr i64 ptr i64 i64 i64 i64"),
  nt_linear_cross_entropy_workspace: list("ptr i32 i64 i64 i64 i32 ptr"),
  nt_linear_cross_entropy: list("ptr i32 ptr ptr ptr ptr ptr ptr ptr i64 i64 f32 ptr i64"),
  nt_attention_forward: list("ptr i32 ptr i64 ptr ptr ptr ptr i64 ptr i64 i64 i64 i64 i64 f32"),
  nt_attention_backward: list(
    "ptr i32 ptr ptr ptr i64 ptr ptr ptr i64 ptr ptr ptr i64 ptr ptr i64 i64 i64 i64 i64 f32 ptr ptr ptr",
  ),
  nt_kv_append: list("ptr i32 ptr ptr ptr ptr i64 ptr ptr ptr i64 i64 i64 i64"),
  nt_attention_cached: list("ptr i32 ptr i64 ptr i64 ptr ptr ptr ptr ptr i64 i64 i64 i64 i64 i64 f32"),
  nt_attention_decode: list("ptr i32 ptr i64 ptr i64 ptr ptr ptr ptr i64 i64 i64 i64 i64 i64 f32"),
  nt_gradient_norm: list("ptr ptr ptr i64 f32"),
  nt_adamw: list("ptr ptr ptr ptr ptr ptr i64 f32 f32 f32 f32 f32 i64 ptr"),
  nt_adamw_8bit: list("ptr ptr ptr ptr ptr ptr ptr ptr i64 f32 f32 f32 f32 f32 i64 ptr"),
  nt_gather_rows: list("ptr i32 ptr ptr ptr i64 i64"),
  nt_sample: list("ptr ptr ptr i64 i64 ptr ptr ptr"),
  nt_comm_probe: list("ptr i64"),
  nt_comm_id: list("ptr ptr"),
  nt_comm_create: list("ptr i32 i32 ptr ptr ptr"),
  nt_comm_destroy: list("ptr ptr"),
  nt_comm_abort: list("ptr ptr"),
  nt_comm_describe: list("ptr ptr ptr i64"),
  nt_comm_all_reduce: list("ptr ptr i32 ptr i64"),
  nt_comm_reduce_scatter: list("ptr ptr i32 ptr ptr i64"),
  nt_comm_all_gather: list("ptr ptr i32 ptr ptr i64"),
  nt_comm_broadcast: list("ptr ptr i32 ptr i64 i32"),
  nt_comm_barrier: list("ptr ptr"),
  nt_comm_overlap: list("ptr ptr i32"),
  nt_comm_wait: list("ptr ptr"),
} as const satisfies Record<string, ParameterType[]>;

export type FunctionName = keyof typeof bindings;

/** A value for a native parameter: a number, an address, or a typed array whose memory is read or written. */
export type Argument = number | bigint | null | NodeJS.TypedArray;

export interface NativeLibrary {
  readonly functions: Record<FunctionName, (...args: Argument[]) => number>;
  lastError(): string;
  /** The context whose device is this thread's; 0: not known. */
  selected: number;
}
