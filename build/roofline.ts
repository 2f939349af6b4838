// The fewest bytes and operations of every native call of a LoRA training step, and the time they take at a device's
// measured rates: what a profile is to be held against. bf16; dense rows; nothing recomputed but norms and SwiGLU.

import { type LlamaConfig, linearModules, linearShape } from "../src/model/index.ts";
import { readShape } from "../src/presets/shapes.ts";

/** A device's measured rates. */
export interface Rates {
  name: string;
  /** Bytes per second of a large copy, reads and writes both counted. */
  bandwidth: number;
  /** FLOP/s of a large bf16 matrix product. */
  matmul: number;
}

/** Measured on one H200: a device-to-device copy and an 8192³ bf16 product on random data. */
export const h200: Rates = { name: "H200", bandwidth: 4.3e12, matmul: 790e12 };

export interface Work {
  operation: string;
  /** Calls in a step. */
  calls: number;
  /** Of one call. */
  bytes: number;
  flops: number;
}

export interface StepShape {
  config: LlamaConfig;
  /** Tokens of a micro-batch, and of each of its rows. */
  tokens: number;
  length: number;
  rank: number;
}

/** Every call of one optimizer step with one micro-batch, LoRA on all seven linears. */
export function stepWork({ config, tokens: T, length, rank: r }: StepShape): Work[] {
  const { hiddenSize: H, intermediateSize: I, numHiddenLayers: layers, vocabSize: V } = config;
  const q = config.numAttentionHeads * config.headDim;
  const kv = config.numKeyValueHeads * config.headDim;
  const groups = [
    { in: H, outs: [q, kv, kv] },
    { in: q, outs: [H] },
    { in: H, outs: [I, I] },
    { in: I, outs: [H] },
  ];
  const sum = (values: number[]) => values.reduce((total, value) => total + value, 0);
  const perLayer: Work[] = [];
  const add = (operation: string, bytes: number, flops: number, calls = 1) =>
    perLayer.push({ operation, calls: calls * layers, bytes, flops });
  for (const group of groups) {
    const out = sum(group.outs);
    const R = r * group.outs.length;
    const product = 2 * T * group.in * out;
    const weights = 2 * group.in * out;
    add("linear_forward", 2 * T * (group.in + out + R) + weights, product + 2 * T * r * out);
    add("linear_backward_input", 2 * T * (group.in + out + R) + weights, product + 2 * T * R * group.in);
    add("lora_forward", 2 * T * (group.in + R), 2 * T * R * group.in);
    for (const rows of group.outs) add("lora_backward", 2 * T * (2 * rows + 2 * r), 4 * T * r * rows);
    add("lora_backward_a", 2 * T * (group.in + R), 2 * T * R * group.in);
  }
  const pairs = (T * (length + 1)) / 2; // causal scores of one head
  const product = 2 * pairs * config.headDim * config.numAttentionHeads;
  add("attention_forward", 2 * T * (2 * q + 2 * kv), 2 * product);
  add("attention_backward", 2 * T * (4 * q + 4 * kv), 5 * product);
  add("rope", 4 * T * (q + kv), 0, 2);
  add("rmsnorm_forward", 8 * T * H, 0, 2);
  add("rmsnorm_forward again", 4 * T * H, 0, 2);
  add("rmsnorm_backward", 8 * T * H, 0, 2);
  add("swiglu_forward", 6 * T * I, 0);
  add("swiglu_backward", 12 * T * I, 0);
  const adapters = layers * sum(linearModules.map((module) => r * sum([...linearShape(config, module)])));
  return [
    ...perLayer,
    { operation: "embedding_forward", calls: 1, bytes: 4 * T * H, flops: 0 },
    {
      operation: "linear_cross_entropy",
      calls: 1,
      bytes: 4 * T * H + 16 * T * V,
      flops: 4 * T * H * V,
    },
    { operation: "gradient_norm", calls: 1, bytes: 4 * adapters, flops: 0 },
    { operation: "adamw", calls: 1, bytes: 30 * adapters, flops: 0 },
  ];
}

/** Seconds that a call needs at least: its bytes or its operations, whichever takes longer. */
export const floorSeconds = (work: Work, rates: Rates): number =>
  Math.max(work.bytes / rates.bandwidth, work.flops / rates.matmul);

/** The table for one shape, calls of one operation summed; the last row is the step. */
export function rooflineRows(name: string, tokens: number, length: number, rates: Rates): string[][] {
  const work = stepWork({ config: readShape(name), tokens, length, rank: 16 });
  const total = work.reduce((time, one) => time + one.calls * floorSeconds(one, rates), 0);
  const names = [...new Set(work.map(({ operation }) => operation))];
  const rows = names.map((operation) => {
    const calls = work.filter((one) => one.operation === operation);
    const of = (value: (one: Work) => number) => calls.reduce((sum, one) => sum + one.calls * value(one), 0);
    const time = of((one) => floorSeconds(one, rates));
    return [
      operation,
      `${of(() => 1)}`,
      (of((one) => one.bytes) / 1e9).toFixed(2),
      (of((one) => one.flops) / 1e12).toFixed(2),
      (time * 1e3).toFixed(2),
      `${((time / total) * 100).toFixed(1)} %`,
    ];
  });
  return [
    ...rows,
    [
      "step",
      "",
      "",
      "",
      (total * 1e3).toFixed(1),
      `${Math.round(tokens / total).toLocaleString("en")} tokens/s`,
    ],
  ];
}
