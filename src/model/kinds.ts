// What differs between Llama and its near kin. What all have in common is in architecture.ts.

import type { WindowFields } from "./window-config.ts";

/** Whether linears have a bias: yes or no, or as this field of the config says. */
export type Bias = boolean | "attentionBias" | "mlpBias";

/** What one model_type has that another lacks. */
export interface Kind {
  /** Transformers' class: config.json's architectures. */
  className: string;
  /** What Transformers takes for fields of config.json that are absent; null: as with Llama, from other fields. */
  defaults: { numKeyValueHeads: number | null; headDim: number | null; maxPositionEmbeddings: number };
  bias: { qkv: Bias; o: Bias; mlp: Bias };
  /** RMSNorm over each head of q and k, before RoPE. */
  headNorms: boolean;
  /** Which fields of config.json tell of a window. */
  window: WindowFields;
  /** How llama.cpp has it: its architecture, and whether RoPE turns neighboring rows of a head there, not its halves. */
  gguf: { architecture: string; hasNeighborRope: boolean };
}

export const kinds = {
  llama: {
    className: "LlamaForCausalLM",
    defaults: { numKeyValueHeads: null, headDim: null, maxPositionEmbeddings: 2048 },
    bias: { qkv: "attentionBias", o: "attentionBias", mlp: "mlpBias" },
    headNorms: false,
    window: "none",
    gguf: { architecture: "llama", hasNeighborRope: true },
  },
  mistral: {
    className: "MistralForCausalLM",
    defaults: { numKeyValueHeads: 8, headDim: null, maxPositionEmbeddings: 131072 },
    bias: { qkv: false, o: false, mlp: false },
    headNorms: false,
    window: "all layers",
    gguf: { architecture: "llama", hasNeighborRope: true },
  },
  qwen2: {
    className: "Qwen2ForCausalLM",
    defaults: { numKeyValueHeads: 32, headDim: null, maxPositionEmbeddings: 32768 },
    bias: { qkv: true, o: false, mlp: false },
    headNorms: false,
    window: "by layer",
    gguf: { architecture: "qwen2", hasNeighborRope: false },
  },
  qwen3: {
    className: "Qwen3ForCausalLM",
    defaults: { numKeyValueHeads: 32, headDim: 128, maxPositionEmbeddings: 32768 },
    bias: { qkv: "attentionBias", o: "attentionBias", mlp: false },
    headNorms: true,
    window: "by layer",
    gguf: { architecture: "qwen3", hasNeighborRope: false },
  },
} as const satisfies Record<string, Kind>;

/** config.json's model_type. */
export type ModelType = keyof typeof kinds;

export const isModelType = (value: unknown): value is ModelType =>
  typeof value === "string" && Object.hasOwn(kinds, value);
