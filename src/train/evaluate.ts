// Loss and perplexity of a model on a data set: noise and dropout off, nothing changed.

import { countTargets, type Sample } from "../data/sample.ts";
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
  /** In the order of the data set, each over its own targets; null where a sample has none. */
  perSample: { loss: number | null; targetTokens: number }[];
}

/** Throws InterruptedError when `signal` aborts, NeftuneError where the data set has no target token. */
export async function evaluate(
  model: EvaluableModel,
  samples: readonly Sample[],
  options: EvaluateOptions,
): Promise<Evaluation> {
  const start = performance.now();
  const perSample: Evaluation["perSample"] = [];
  let [sum, targetTokens] = [0, 0];
  for (let at = 0; at < samples.length; at += options.batchSize) {
    await eventLoopTurn();
    if (options.signal?.aborted) throw new InterruptedError(`the evaluation was stopped after ${at} samples`);
    const part = samples.slice(at, at + options.batchSize);
    const batch = layOut(part, options.packing);
    const losses = batch.targets.length === 0 ? new Float32Array() : model.evaluate(batch);
    let next = 0;
    for (const { labels } of part) {
      const count = countTargets(labels);
      const own = losses.subarray(next, next + count).reduce((total, loss) => total + loss, 0);
      perSample.push({ loss: count === 0 ? null : own / count, targetTokens: count });
      sum += own;
      next += count;
    }
    targetTokens += next;
    options.onProgress?.(perSample.length);
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
