// neftune bench --mode generate: how fast prompts are read and tokens made, beside the rate at which memory is read. Each
// step of a single sequence reads all weights once, so that rate is its ceiling.

import { InterruptedError } from "../../errors.ts";
import { GenerationSession, Llama, type LlamaConfig, layerWeights, randomSource } from "../../model/index.ts";
import { addNonFinite, type Device, dtypeBytes } from "../../native/index.ts";
import type { Context } from "../command.ts";
import { formatBytes, formatCount, formatList } from "../terminal/format.ts";
import { denseSamples, median } from "./work.ts";

/** Sequences that advance together, beside a single one. */
const TOGETHER = 8;
const NEW_TOKENS = 64;
/** Memory is read in as many bytes as a token's weights have, so that caches hold as much of both; at most so many. */
const MOST_MEMORY_BYTES = 2 ** 30;

export interface GenerationReport {
  shape: string;
  dtype: "f32" | "bf16";
  prompt_tokens: number;
  prefill_tokens_per_second: number;
  decode_tokens_per_second: number;
  /** Of all sequences together. */
  decode_8_tokens_per_second: number;
  /** Weights that a token of a single sequence reads. */
  bytes_per_token: number;
  memory_bytes_per_second: number;
  share_of_memory_rate: number;
}

export async function benchGeneration(
  device: Device,
  config: LlamaConfig,
  settings: { shape: string; dtype: "f32" | "bf16"; promptTokens: number; seed: number },
  context: Pick<Context, "signal" | "draw">,
): Promise<GenerationReport> {
  const { shape, dtype, promptTokens, seed } = settings;
  const capacity = promptTokens + NEW_TOKENS + 1;
  const model = Llama.load(device, randomSource({ ...config, dtype }, seed), {
    ...({ tune: "none", recompute: "layer", maxTargets: 1, seed } as const),
    ...{ dtype, maxTokens: Math.max(promptTokens, TOGETHER), maxPosition: capacity },
  });
  try {
    const prompts = denseSamples(TOGETHER, promptTokens, config.vocabSize, seed).map(({ ids }) => ids);
    context.draw("generating with one sequence");
    const one = await measure(model, prompts.slice(0, 1), capacity, context);
    context.draw(`generating with ${TOGETHER} sequences`);
    const many = await measure(model, prompts, capacity, context);
    context.draw("measuring the memory's rate");
    // The linears and the head: what a step reads, whatever is in its batch.
    const weights = config.numHiddenLayers * layerWeights(config) + config.vocabSize * config.hiddenSize;
    const bytes = weights * dtypeBytes[dtype];
    const rate = memoryRate(device, Math.min(bytes, MOST_MEMORY_BYTES));
    return {
      shape,
      dtype,
      prompt_tokens: promptTokens,
      prefill_tokens_per_second: one.prefill,
      decode_tokens_per_second: one.decode,
      decode_8_tokens_per_second: many.decode,
      bytes_per_token: bytes,
      memory_bytes_per_second: rate,
      share_of_memory_rate: (one.decode * bytes) / rate,
    };
  } finally {
    context.draw("");
    model.close();
  }
}

/** Tokens per second of reading the prompts, and of all sequences' new tokens. */
async function measure(
  model: Llama,
  prompts: readonly Int32Array[],
  capacity: number,
  { signal }: Pick<Context, "signal">,
): Promise<{ prefill: number; decode: number }> {
  const session = new GenerationSession(model, { slots: prompts.length, capacity });
  const timed = (work: () => void) => {
    const start = performance.now();
    work();
    return (performance.now() - start) / 1000;
  };
  try {
    const options = { maxNewTokens: NEW_TOKENS + 1, eosIds: [] };
    // The first pass makes what the kernels keep; what is left of it in the cache begins otherwise.
    session.add(prompts[0]!.toReversed(), { ...options, maxNewTokens: 2 });
    while (!session.isIdle) session.step();
    const sequences = prompts.map((prompt) => session.add(prompt, options));
    const reading = timed(() => {
      while (sequences.some(({ output }) => output.length === 0)) session.step();
    });
    const steps: number[] = [];
    while (!session.isIdle) {
      await Bun.sleep(0); // Ctrl-C gets its turn
      if (signal.aborted) throw new InterruptedError("bench was stopped");
      steps.push(timed(() => session.step()));
    }
    const tokens = prompts.reduce((sum, { length }) => sum + length, 0);
    return { prefill: tokens / reading, decode: prompts.length / median(steps) };
  } finally {
    session.close();
  }
}

/** Bytes per second that the device reads, the best of a few passes over a tensor of so many bytes. */
function memoryRate(device: Device, bytes: number): number {
  const values = device.allocate("f32", [Math.ceil(bytes / dtypeBytes.f32)]);
  const count = device.allocate("i32", [1]);
  try {
    device.fill(values, 0);
    device.fill(count, 0);
    const seconds = Array.from({ length: 6 }, () => {
      const start = performance.now();
      addNonFinite(device, count, values);
      device.synchronize();
      return (performance.now() - start) / 1000;
    });
    return values.bytes / Math.min(...seconds);
  } finally {
    device.free(values.ptr);
    device.free(count.ptr);
  }
}

/** For a terminal of `columns`; undefined: any. */
export function describeGeneration(report: GenerationReport, columns?: number): string {
  const rate = (tokens: number) => `${formatCount(tokens)} tokens/s`;
  const rows: [string, string][] = [
    ["work", `${report.shape}, ${report.dtype}, a prompt of ${report.prompt_tokens} tokens`],
    ["reading the prompt", rate(report.prefill_tokens_per_second)],
    ["one sequence", rate(report.decode_tokens_per_second)],
    [`${TOGETHER} sequences together`, rate(report.decode_8_tokens_per_second)],
    ["weights per token", formatBytes(report.bytes_per_token)],
    ["memory", `${formatBytes(report.memory_bytes_per_second)}/s`],
    ["share of that", `${(100 * report.share_of_memory_rate).toFixed(1)} % by one sequence`],
  ];
  return formatList(rows, columns);
}
