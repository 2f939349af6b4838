// The fewest bytes and floating-point operations of everything that a training step makes a GPU run: the one place where
// they are counted. Products and copies say themselves what they are; kernels of our own are listed by native call, with
// their work over all launches of that call. Bytes are those of device memory, each tensor read or written once; tables,
// statistics and partial sums (which stay in the L2 cache) are left out.

import type { Argument, FunctionName } from "./bindings.ts";
import type { Launch, Product, RecordedCall } from "./timeline.ts";

export interface Work {
  bytes: number;
  flops: number;
}

/** The words of a text. */
type Words<S extends string> = S extends `${infer First} ${infer Rest}` ? First | Words<Rest> : S;

/** A call's numbers by parameter, pointers too (0: null), and what else its work depends on. */
interface Call<Name extends string> {
  n: Record<Name, number>;
  arrays: Partial<Record<Name, ArrayLike<number | bigint>>>;
  /** Bytes of an activation. */
  size: number;
  /** The call's largest product, the first among equals: its shape is the weight's. */
  product: Product;
}

interface Operation {
  parameters: string;
  kernels: Record<string, (call: Call<string>) => Work>;
}

/** `parameters`: the function's in neftune.h, behind the context. */
const operation = <S extends string>(
  parameters: S,
  kernels: Record<string, (call: Call<Words<S>>) => Work>,
): Operation => ({ parameters, kernels: kernels as Operation["kernels"] });

const moves = (bytes: number, flops = 0): Work => ({ bytes, flops });
/** What writes and reads partial sums alone. */
const little = () => moves(0);
const present = (pointer: number) => (pointer === 0 ? 0 : 1);
const bytesOf = (dtype: number) => (dtype === 0 ? 4 : 2);

/** Positions that attend to one another, over all samples: Σ over positions of what each sees. */
export function attentionPairs(borders: ArrayLike<number | bigint>, window: number): number {
  let pairs = 0;
  for (let i = 1; i < borders.length; i++) {
    const length = Number(borders[i]) - Number(borders[i - 1]);
    const full = window > 0 ? Math.min(length, window) : length;
    pairs += (full * (full + 1)) / 2 + (length - full) * full;
  }
  return pairs;
}

interface AttentionSizes {
  tokens: number;
  /** Columns. */
  queries: number;
  keys: number;
  /** FLOPs of one product over all pairs and heads: scores, or their gradient's. */
  product: number;
}

function attentionSizes({
  n,
  arrays,
}: Call<"host_cu_seqlens" | "heads" | "kv_heads" | "head_dim" | "window">): AttentionSizes {
  const borders = arrays.host_cu_seqlens ?? [0];
  return {
    tokens: Number(borders[borders.length - 1] ?? 0),
    queries: n.heads * n.head_dim,
    keys: n.kv_heads * n.head_dim,
    product: 2 * attentionPairs(borders, n.window) * n.head_dim * n.heads,
  };
}

/** Columns of dy that the targets of nt_lora_backward read, and those of them with a trained B: five words a target. */
function loraColumns(targets: ArrayLike<number | bigint>): [all: number, trained: number] {
  let [all, trained] = [0, 0];
  for (let at = 0; at < targets.length; at += 5) {
    const rows = Number(targets[at + 3]);
    all += rows;
    if (Number(targets[at + 1]) !== 0) trained += rows;
  }
  return [all, trained];
}

/** What nt_copy_blocks copies: five words a block. */
function copiedBytes(blocks: ArrayLike<number | bigint>): number {
  let bytes = 0;
  for (let at = 0; at < blocks.length; at += 5) bytes += Number(blocks[at + 2]) * Number(blocks[at + 3]);
  return bytes;
}

/** `n` NF4 codes with their scales in, values of `size` bytes out. */
const expanded = (n: number, size: number) => moves(n * (0.5 + 1 / 64 + size));
const expand = ({ product: { n, k }, size }: Pick<Call<string>, "product" | "size">) => expanded(n * k, size);

const loraParameters = "dtype g ldg dy lddy u ldu host_targets targets rank scale T" as const;
const attentionTail = "host_cu_seqlens sequences heads kv_heads head_dim window scale" as const;

const operations: Partial<Record<FunctionName, Operation>> = {
  nt_copy_blocks: operation("host_blocks count", {
    copy_blocks_kernel: ({ arrays }) => moves(2 * copiedBytes(arrays.host_blocks ?? [])),
  }),
  nt_nf4_dequantize: operation("destination destination_dtype host_nf4 n columns ld", {
    dequantize_kernel: ({ n }) => expanded(n.n, bytesOf(n.destination_dtype)),
  }),
  nt_count_non_finite: operation("count source source_dtype n", {
    count_non_finite_kernel: ({ n }) => moves(n.n * bytesOf(n.source_dtype)),
  }),
  nt_embedding_forward: operation(
    "dtype y table table_dtype ids T H V noise seed host_cu_seqlens host_scales host_draws sequences learned_scale",
    {
      embedding_forward_kernel: ({ n, size }) => moves(n.T * n.H * (bytesOf(n.table_dtype) + size)),
    },
  ),
  nt_learned_scale_backward: operation(
    "dtype dlearned_scale dy lddy T H noise seed host_cu_seqlens host_scales host_draws sequences",
    {
      learned_scale_backward_kernel: ({ n, size }) => moves(n.T * n.H * size),
      add_partials_kernel: little,
    },
  ),
  nt_embedding_backward: operation("dtype dtable dy ids T H V", {
    embedding_backward_kernel: ({ n, size }) => moves(n.T * n.H * (size + 8)),
  }),
  nt_rmsnorm_forward: operation("dtype y ldy sum rstd x delta weight T H eps", {
    rmsnorm_forward_kernel: ({ n, size }) => moves(n.T * n.H * size * (2 + 2 * present(n.delta))),
  }),
  nt_rmsnorm_backward: operation("dtype dx lddx dweight dy x weight rstd residual T H", {
    rmsnorm_backward_kernel: ({ n, size }) => moves(n.T * n.H * size * (3 + present(n.residual))),
    add_partials_kernel: little,
  }),
  nt_rope: operation("dtype x ldx cosine sine positions T heads head_dim inverse", {
    rope_kernel: ({ n, size }) => moves(2 * n.T * n.heads * n.head_dim * size),
  }),
  nt_rmsnorm_rope_forward: operation(
    "dtype x ldx kept ldkept weight cosine sine positions T heads head_dim eps",
    {
      rmsnorm_rope_forward_kernel: ({ n, size }) =>
        moves((2 + present(n.kept)) * n.T * n.heads * n.head_dim * size),
    },
  ),
  nt_rmsnorm_rope_backward: operation(
    "dtype dx lddx dweight x ldx weight cosine sine positions T heads head_dim eps",
    {
      rmsnorm_rope_backward_kernel: ({ n, size }) => moves(3 * n.T * n.heads * n.head_dim * size),
      add_partials_kernel: little,
    },
  ),
  nt_swiglu_forward: operation("dtype h ldh gate_up ldgate_up T I", {
    swiglu_forward_kernel: ({ n, size }) => moves(3 * n.T * n.I * size),
  }),
  nt_swiglu_backward: operation("dtype gate_up ldgate_up h dh lddh T I", {
    swiglu_backward_kernel: ({ n, size }) => moves((5 + present(n.h)) * n.T * n.I * size),
  }),
  nt_swiglu_backward_lora: operation("dtype gate_up ldgate_up da g ldg dh lddh T R I", {
    swiglu_backward_lora_kernel: ({ n, size }) =>
      moves((5 * n.T * n.I + n.T * n.R) * size + 8 * n.R * n.I, 2 * n.T * n.R * n.I),
    swiglu_backward_kernel: ({ n, size }) => moves(6 * n.T * n.I * size),
    lora_outer_kernel: ({ n, size }) =>
      moves((n.T * n.I + n.T * n.R) * size + 8 * n.R * n.I, 2 * n.T * n.R * n.I),
  }),
  nt_dropout: operation(
    "dtype y ldy x ldx T columns p seed module accumulate host_cu_seqlens host_draws sequences",
    {
      dropout_kernel: ({ n, size }) => moves((2 + n.accumulate) * n.T * n.columns * size),
    },
  ),
  nt_linear_forward: operation("dtype y y_dtype ldy x ldx weight bias u ldu host_blocks blocks rank T rows", {
    lora_up_kernel: ({ n, size, product: { n: out } }) =>
      moves(
        n.T * out * bytesOf(n.y_dtype) + n.T * n.blocks * n.rank * size + out * n.rank * size,
        2 * n.T * n.rank * out,
      ),
    dequantize_kernel: expand,
    bias_to_bf16_kernel: little,
    clear_columns_kernel: little,
  }),
  nt_linear_backward_input: operation("dtype dx lddx dy lddy weight g ldg a rank accumulate T", {
    lora_up_kernel: ({ n, size, product: { n: inputs } }) =>
      moves(
        (n.T * inputs * (1 + n.accumulate) + n.T * n.rank + n.rank * inputs) * size,
        2 * n.T * n.rank * inputs,
      ),
    dequantize_kernel: expand,
  }),
  nt_linear_backward_weight: operation("dtype dweight dbias dy lddy x ldx T out in", {
    column_sum_part_kernel: ({ n, size }) => moves(n.T * n.out * size),
    column_sum_kernel: little,
  }),
  nt_lora_forward: operation("dtype u u2 ldu2 x ldx a scale T R in rows", {
    lora_down_kernel: ({ n, size }) =>
      moves((n.T * n.in + n.T * n.R * (1 + present(n.u2)) + n.R * n.in) * size, 2 * n.T * n.R * n.in),
  }),
  nt_lora_backward: operation(loraParameters, {
    lora_backward_kernel: ({ n, arrays, size }) => {
      const [out, trained] = loraColumns(arrays.host_targets ?? []);
      const products = out + trained; // dy·B, and dyᵀ·u where B is trained
      const narrow = present(n.u) + 1; // g is written, and u read for dB
      return moves(
        (n.T * products + narrow * n.T * n.rank * n.targets + out * n.rank) * size + 8 * trained * n.rank,
        2 * n.T * n.rank * products,
      );
    },
  }),
  nt_lora_backward_a: operation("dtype da g ldg x ldx T R in", {
    lora_outer_kernel: ({ n, size }) =>
      moves((n.T * n.in + n.T * n.R) * size + 8 * n.R * n.in, 2 * n.T * n.R * n.in),
  }),
  nt_linear_cross_entropy: operation(
    "dtype losses dx dweight x weight host_rows host_targets n T gradient_scale workspace workspace_bytes",
    {
      cross_entropy_kernel: ({ n, size, product: { n: V } }) =>
        moves(n.n * V * (4 + (present(n.dx) || present(n.dweight)) * (4 + size))),
      chunk_rows_kernel: ({ n, size, product: { k: H } }) => moves(2 * (1 + present(n.dx)) * n.n * H * size),
    },
  ),
  nt_attention_forward: operation(`dtype o ldo lse q k v ldqkv ${attentionTail}`, {
    attention_forward_kernel: (call) => {
      const { tokens, queries, keys, product } = attentionSizes(call);
      return moves(2 * tokens * (queries + keys) * call.size, 2 * product);
    },
  }),
  // dK and dV need the scores again, dP and two products of their own; dQ the scores, dP and one.
  nt_attention_backward: operation(
    `dtype dq dk dv lddqkv delta dout o ldo q k v ldqkv lse ${attentionTail} cosine sine positions`,
    {
      attention_delta_kernel: (call) => {
        const { tokens, queries } = attentionSizes(call);
        return moves(2 * tokens * queries * call.size);
      },
      rope_kernel: (call) => {
        const { tokens, queries, keys } = attentionSizes(call);
        return moves(2 * tokens * (queries + keys) * call.size);
      },
      attention_backward_kv_kernel: (call) => {
        const { tokens, queries, keys, product } = attentionSizes(call);
        return moves(tokens * (2 * queries + 4 * keys) * call.size, 4 * product);
      },
      attention_backward_q_kernel: (call) => {
        const { tokens, queries, keys, product } = attentionSizes(call);
        return moves(tokens * (4 * queries + 2 * keys) * call.size, 3 * product);
      },
    },
  ),
  nt_gradient_norm: operation("result gradients n max_norm", {
    gradient_norm_kernel: ({ n }) => moves(4 * n.n),
    gradient_factor_kernel: little,
  }),
  nt_adamw: operation(
    "parameters copy gradients m v n learning_rate beta1 beta2 eps weight_decay step gradient_scale",
    {
      adamw_kernel: ({ n }) => moves(n.n * (28 + 2 * present(n.copy))),
    },
  ),
  nt_adamw_8bit: operation(
    "parameters copy gradients m v m_absmax v_absmax n learning_rate beta1 beta2 eps weight_decay step gradient_scale",
    {
      adamw_8bit_kernel: ({ n }) => moves(n.n * (16 + 2 * present(n.copy))),
    },
  ),
};

/** The parameters' names of every function that has an entry, to be held against neftune.h. */
export const workParameters: Readonly<Record<string, readonly string[]>> = Object.fromEntries(
  Object.entries(operations).map(([name, { parameters }]) => [name, parameters.split(" ")]),
);

export const productWork = ({ m, n, k, operandBytes, resultBytes, accumulates }: Product): Work => ({
  bytes: (m * k + k * n) * operandBytes + m * n * resultBytes * (accumulates ? 2 : 1),
  flops: 2 * m * n * k,
});

/** By parameter: numbers, and arrays of host memory. */
function valuesOf(names: readonly string[], args: readonly Argument[]) {
  const n: Record<string, number> = {};
  const arrays: Record<string, ArrayLike<number | bigint>> = {};
  for (const [i, name] of names.entries()) {
    const value = args[i] ?? null;
    if (value !== null && typeof value === "object") arrays[name] = value;
    n[name] = value === null ? 0 : typeof value === "object" ? 1 : Number(value);
  }
  return { n, arrays };
}

/** Launches of one kernel, or products of one shape, by one call. */
export interface KernelRun {
  name: string;
  launches: Launch[];
  /** Of all of them; null: there is no count of this kernel's. */
  work: Work | null;
}

const none: Product = { m: 0, n: 0, k: 0, operandBytes: 0, resultBytes: 0, accumulates: false };
const shapeOf = (name: string, { m, k, n, accumulates }: Product) =>
  `${name} ${m}x${k}x${n}${accumulates ? ", added" : ""}`;

/** What a recorded call ran, kernel by kernel. */
export function kernelRuns({ name, args, launches }: RecordedCall): KernelRun[] {
  const { parameters, kernels } = operations[name] ?? { parameters: "", kernels: {} };
  const values = valuesOf(parameters.split(" "), args);
  const product = launches.reduce(
    (largest, { product: one }) =>
      one !== null && one.m * one.n * one.k > largest.m * largest.n * largest.k ? one : largest,
    none,
  );
  const call = { ...values, size: bytesOf(values.n.dtype ?? 0), product };
  const runs = new Map<string, KernelRun>();
  for (const launch of launches) {
    const key = launch.product === null ? launch.name : shapeOf(launch.name, launch.product);
    const run = runs.get(key) ?? { name: key, launches: [], work: null };
    run.launches.push(launch);
    runs.set(key, run);
  }
  for (const run of runs.values()) {
    const own = run.launches.map(({ product: one, copiedBytes }) => {
      if (one === null) return moves(copiedBytes);
      const { bytes, flops } = productWork(one);
      return moves(copiedBytes || bytes, flops);
    });
    // A plain kernel, for what the fast one cannot take, does the same work.
    const listed = kernels[run.name.replace("_plain_kernel", "_kernel")];
    if (listed !== undefined) run.work = listed(call);
    else if (own.every(({ bytes }) => bytes > 0))
      run.work = own.reduce((sum, { bytes, flops }) => moves(sum.bytes + bytes, sum.flops + flops));
  }
  return [...runs.values()];
}
