// What a model of each kind is made of: its tensors in order, the linears of a layer with their names, shapes and biases,
// norms, windows, head. Config, loading, the memory plan, LoRA, quantizing, merging and the layer loop ask here; what
// differs between Llama and its near kin stands in kinds.ts.

import type { LlamaConfig } from "./config.ts";
import { type Bias, type Kind, kinds } from "./kinds.ts";

/** The linears of a layer that LoRA may adapt, in the layer's order. */
export const linearModules = [
  "q_proj",
  "k_proj",
  "v_proj",
  "o_proj",
  "gate_proj",
  "up_proj",
  "down_proj",
] as const;
export type LinearModule = (typeof linearModules)[number];

/** The linears of a layer that read the same input. */
export const groupNames = ["qkv", "o", "gateUp", "down"] as const;
export type GroupName = (typeof groupNames)[number];

export const groupModules: Readonly<Record<GroupName, readonly LinearModule[]>> = {
  qkv: ["q_proj", "k_proj", "v_proj"],
  o: ["o_proj"],
  gateUp: ["gate_proj", "up_proj"],
  down: ["down_proj"],
};

export interface TensorSpec {
  name: string;
  shape: number[];
}

/** One linear of one layer. */
export interface Linear {
  module: LinearModule;
  /** Where its tensors are in a checkpoint: "model.layers.3.self_attn.q_proj". */
  path: string;
  out: number;
  in: number;
  bias: boolean;
  /** Over the whole model: tells dropout masks and random draws apart. */
  index: number;
}

/** Widths of a layer's tensors. */
export interface Widths {
  hidden: number;
  intermediate: number;
  /** heads · headDim */
  queries: number;
  /** kvHeads · headDim */
  keys: number;
}

export function widthsOf(config: LlamaConfig): Widths {
  return {
    hidden: config.hiddenSize,
    intermediate: config.intermediateSize,
    queries: config.numAttentionHeads * config.headDim,
    keys: config.numKeyValueHeads * config.headDim,
  };
}

/** [out, in] of a linear. */
export function linearShape(config: LlamaConfig, module: LinearModule): [number, number] {
  const { hidden, intermediate, queries, keys } = widthsOf(config);
  switch (module) {
    case "q_proj":
      return [queries, hidden];
    case "k_proj":
    case "v_proj":
      return [keys, hidden];
    case "o_proj":
      return [hidden, queries];
    case "gate_proj":
    case "up_proj":
      return [intermediate, hidden];
    case "down_proj":
      return [hidden, intermediate];
  }
}

/** Weights of the linears of one layer. */
export function layerWeights(config: LlamaConfig): number {
  return linearModules.reduce((sum, module) => {
    const [out, inputs] = linearShape(config, module);
    return sum + out * inputs;
  }, 0);
}

export const EMBEDDING = "model.embed_tokens.weight";
export const FINAL_NORM = "model.norm.weight";
export const HEAD = "lm_head.weight";

/** The tensor that logits are computed with. */
export const headOf = (config: LlamaConfig) => (config.tieWordEmbeddings ? EMBEDDING : HEAD);

/** Where a linear's tensors are in a checkpoint: "model.layers.3.self_attn.q_proj". */
export function modulePath(layer: number, module: LinearModule): string {
  return `model.layers.${layer}.${isInMlp(module) ? "mlp" : "self_attn"}.${module}`;
}

const isInMlp = (module: LinearModule) =>
  groupModules.gateUp.includes(module) || groupModules.down.includes(module);

/** A linear's index over the whole model: tells dropout masks and random draws apart. */
const moduleIndex = (layer: number, module: LinearModule) =>
  layer * linearModules.length + linearModules.indexOf(module);

/** One layer: names of its norms' weights, its linears and its window. */
export interface Layer {
  /** [H], of the layer's input. */
  norm1: string;
  /** [H], of the residual stream after attention. */
  norm2: string;
  /** [headDim] each, of the heads of q and k; null: none. */
  headNorms: { q: string; k: string } | null;
  linears: Readonly<Record<LinearModule, Linear>>;
  /** Positions that a position sees, itself included; null: every position before it. */
  window: number | null;
}

export function layerOf(config: LlamaConfig, layer: number): Layer {
  const path = `model.layers.${layer}`;
  const kind: Kind = kinds[config.modelType];
  const hasBias = (bias: Bias) => (typeof bias === "string" ? config[bias] : bias);
  const { window } = config;
  const linear = (module: LinearModule): [LinearModule, Linear] => {
    const [out, inputs] = linearShape(config, module);
    const { qkv, o, mlp } = kind.bias;
    const bias = hasBias(isInMlp(module) ? mlp : module === "o_proj" ? o : qkv);
    const index = moduleIndex(layer, module);
    return [module, { module, path: modulePath(layer, module), out, in: inputs, bias, index }];
  };
  return {
    norm1: `${path}.input_layernorm.weight`,
    norm2: `${path}.post_attention_layernorm.weight`,
    headNorms: kind.headNorms
      ? { q: `${path}.self_attn.q_norm.weight`, k: `${path}.self_attn.k_norm.weight` }
      : null,
    linears: Object.fromEntries(linearModules.map(linear)) as Record<LinearModule, Linear>,
    window: window === null || window.layers?.[layer] === false ? null : window.size,
  };
}

/** Every tensor of a checkpoint with this config, in the order of the computation. */
export function tensorSpecs(config: LlamaConfig): TensorSpec[] {
  const { hiddenSize: H, vocabSize: V, headDim } = config;
  const specs: TensorSpec[] = [{ name: EMBEDDING, shape: [V, H] }];
  for (let i = 0; i < config.numHiddenLayers; i++) {
    const { norm1, norm2, headNorms, linears } = layerOf(config, i);
    const add = (module: LinearModule) => {
      const { path, out, in: inputs, bias } = linears[module];
      specs.push({ name: `${path}.weight`, shape: [out, inputs] });
      if (bias) specs.push({ name: `${path}.bias`, shape: [out] });
    };
    specs.push({ name: norm1, shape: [H] });
    for (const module of groupModules.qkv) add(module);
    if (headNorms !== null)
      specs.push({ name: headNorms.q, shape: [headDim] }, { name: headNorms.k, shape: [headDim] });
    for (const module of groupModules.o) add(module);
    specs.push({ name: norm2, shape: [H] });
    for (const module of [...groupModules.gateUp, ...groupModules.down]) add(module);
  }
  specs.push({ name: FINAL_NORM, shape: [H] });
  if (!config.tieWordEmbeddings) specs.push({ name: HEAD, shape: [V, H] });
  return specs;
}
