// Loss and perplexity of a model on a data set: noise and dropout off, nothing changed.

import { countTargets } from "../data/sample.ts";
import { type SampleSource, samplesOf } from "../data/samples.ts";
import { InterruptedError, NeftuneError } from "../errors.ts";
import type { EvaluableModel } from "./model.ts";
import { layOut } from "./order.ts";

export interface EvaluateOptions {
  /** Samples at a time. */
  batchSize: number;
  packing: boolean;
  signal?: AbortSignal;
  /** Told after every batch how many samples are done. */
  onProgress?: (samples: number) => void;
}

export interface Evaluation {
  /** Mean cross-entropy over all target tokens. */
  loss: number;
  perplexity: number;
  samples: number;
  targetTokens: number;
  seconds: number;
  /** In the order of the data set. */
  perSample: {
    /** Over a sample's own targets; NaN where it has none. */
    losses: Float64Array; // [samples]
    targetTokens: Uint32Array; // [samples]
  };
}

/** Throws InterruptedError when `signal` aborts, NeftuneError where the data set has no target token. */
export async function evaluate(
  model: EvaluableModel,
  source: SampleSource,
  options: EvaluateOptions,
): Promise<Evaluation> {
  const start = performance.now();
  const samples = samplesOf(source);
  const perSample: Evaluation["perSample"] = {
    losses: new Float64Array(samples.length),
    targetTokens: new Uint32Array(samples.length),
  };
  let [sum, targetTokens] = [0, 0];
  for (let at = 0; at < samples.length; at += options.batchSize) {
    await eventLoopTurn();
    if (options.signal?.aborted) throw new InterruptedError(`the evaluation was stopped after ${at} samples`);
    const size = Math.min(options.batchSize, samples.length - at);
    const part = Array.from({ length: size }, (_, i) => samples.get(at + i));
    const batch = layOut(part, options.packing);
    const losses = batch.targets.length === 0 ? new Float32Array() : model.evaluate(batch);
    let next = 0;
    for (const [i, { labels }] of part.entries()) {
      const count = countTargets(labels);
      const own = losses.subarray(next, next + count).reduce((total, loss) => total + loss, 0);
      perSample.losses[at + i] = count === 0 ? Number.NaN : own / count;
      perSample.targetTokens[at + i] = count;
      sum += own;
      next += count;
    }
    targetTokens += next;
    options.onProgress?.(at + size);
  }
  if (targetTokens === 0) {
    throw new NeftuneError("data", `none of the ${samples.length} samples to evaluate has a target token`);
  }
  const loss = sum / targetTokens;
  const seconds = (performance.now() - start) / 1000;
  return { loss, perplexity: Math.exp(loss), samples: samples.length, targetTokens, seconds, perSample };
}

/** Lets timers and signals in: native calls block the thread. */
export function eventLoopTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
