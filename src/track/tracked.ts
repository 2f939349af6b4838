// What trackers are told of a run: names and values, the same for each of them.

import type { EvalMetrics, StepMetrics } from "../train/metrics.ts";

/** A step's numbers under the names that Transformers gives them. Values that are not finite are left out. */
export function trackedStep(metrics: StepMetrics): Record<string, number> {
  return known({
    "train/loss": metrics.loss,
    "train/grad_norm": metrics.gradNorm,
    "train/learning_rate": metrics.learningRate,
    "train/epoch": metrics.epoch,
    "train/tokens_per_second": metrics.tokensPerSecond,
    "train/peak_memory_bytes": metrics.peakMemoryBytes,
    "train/neft_scale_mean": metrics.neftScale?.mean ?? null,
  });
}

export function trackedEvaluation({ loss, perplexity }: EvalMetrics): Record<string, number> {
  return known({ "eval/loss": loss, "eval/perplexity": perplexity });
}

function known(values: Readonly<Record<string, number | null>>): Record<string, number> {
  const entries = Object.entries(values).filter(([, value]) => value !== null && Number.isFinite(value));
  return Object.fromEntries(entries) as Record<string, number>;
}

/** A run's options, as trackers show them: by name, as text. */
export type TrackedOptions = Readonly<Record<string, string>>;

/** A tracker: a reporter of a run that also has to be closed. What goes wrong in it is noted and never stops the run. */
export interface Tracker {
  onPlan(startStep: number): void;
  onStep(metrics: StepMetrics): void;
  onEval(metrics: EvalMetrics): void;
  /** After the run, whether it was finished or not. `files` are those to keep with it, by their names there. */
  close(status: "finished" | "failed" | "stopped", files: Readonly<Record<string, string>>): Promise<void>;
}
