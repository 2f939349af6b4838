// Tensors of a model under llama.cpp's names, and which of them have their rows in another order there.

import { EMBEDDING, FINAL_NORM, HEAD, type LinearModule, layerOf, linearModules } from "../architecture.ts";
import type { LlamaConfig } from "../config.ts";
import { kinds } from "../kinds.ts";

export interface GgufName {
  name: string;
  /** Heads whose rows lie in another order in GGUF; null: none. */
  heads: number | null;
}

const linearNames: Readonly<Record<LinearModule, string>> = {
  q_proj: "attn_q",
  k_proj: "attn_k",
  v_proj: "attn_v",
  o_proj: "attn_output",
  gate_proj: "ffn_gate",
  up_proj: "ffn_up",
  down_proj: "ffn_down",
};

/** How each tensor of a checkpoint is called in GGUF, and what is on its rows. */
export function ggufNames(config: LlamaConfig): ReadonlyMap<string, GgufName> {
  const names = new Map<string, GgufName>();
  const add = (name: string, gguf: string, heads: number | null = null) =>
    names.set(name, { name: gguf, heads });
  add(EMBEDDING, "token_embd.weight");
  add(FINAL_NORM, "output_norm.weight");
  add(HEAD, "output.weight");
  for (let i = 0; i < config.numHiddenLayers; i++) {
    const { norm1, norm2, headNorms, linears } = layerOf(config, i);
    add(norm1, `blk.${i}.attn_norm.weight`);
    add(norm2, `blk.${i}.ffn_norm.weight`);
    if (headNorms !== null) {
      add(headNorms.q, `blk.${i}.attn_q_norm.weight`);
      add(headNorms.k, `blk.${i}.attn_k_norm.weight`);
    }
    for (const module of linearModules) {
      const { path, bias } = linears[module];
      const heads = turnedHeads(config, module);
      add(`${path}.weight`, `blk.${i}.${linearNames[module]}.weight`, heads);
      if (bias) add(`${path}.bias`, `blk.${i}.${linearNames[module]}.bias`, heads);
    }
  }
  return names;
}

/** Heads of q or k, which RoPE turns, where llama.cpp wants their rows in another order. */
function turnedHeads(config: LlamaConfig, module: LinearModule): number | null {
  if (!kinds[config.modelType].gguf.hasNeighborRope) return null;
  if (module === "q_proj") return config.numAttentionHeads;
  return module === "k_proj" ? config.numKeyValueHeads : null;
}

/**
 * The rows of one head as llama.cpp's llama has them: Transformers' RoPE turns row i with row i + rows / 2, llama.cpp's
 * row 2i with 2i + 1. `head`: [rows, width].
 */
export function interleaved(head: Float32Array, rows: number): Float32Array<ArrayBuffer> {
  const width = head.length / rows;
  const out = new Float32Array(head.length);
  for (let i = 0; i < rows / 2; i++) {
    for (const part of [0, 1]) {
      const from = (part * (rows / 2) + i) * width;
      out.set(head.subarray(from, from + width), (2 * i + part) * width);
    }
  }
  return out;
}
