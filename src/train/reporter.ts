// What a trainer tells whoever watches: the command line's progress, a notebook, a test.

import type { BestEvaluation } from "./best.ts";
import type { EvalMetrics, StepMetrics } from "./metrics.ts";

export interface RunPlan {
  output: string;
  samples: number;
  evalSamples: number;
  stepsPerEpoch: number;
  totalSteps: number;
  /** Of a step, over all ranks. */
  microBatches: number;
  /** Up to how many tokens they are merged; absent: they are not. */
  microBatchTokens?: number;
  ranks: number;
  warmupSteps: number;
  /** Steps that are done already: 0 unless resumed. */
  startStep: number;
  /** The checkpoint that is gone on with. */
  resumedFrom: string | null;
  trainedParameters: number;
  plannedMemoryBytes: number;
}

export interface TrainResult {
  output: string;
  steps: number;
  /** Steps without an update. */
  skipped: number;
  /** Of the last step that had one. */
  loss: number | null;
  evaluation: EvalMetrics | null;
  /** Of this session: a resumed run's earlier ones are not counted. */
  seconds: number;
  tokens: number;
}

export interface Reporter {
  onPlan?(plan: RunPlan): void;
  /** Something that a person should know before the first step. */
  onNote?(text: string): void;
  /** After every step, also those that leave no line in metrics.jsonl. */
  onStep?(metrics: StepMetrics, plan: RunPlan): void;
  /** A step brought no update; `skipped` counts them so far. */
  onSkip?(step: number, reason: string, skipped: number): void;
  onEvalProgress?(samples: number, total: number): void;
  onEval?(metrics: EvalMetrics): void;
  /** The run's result is that of its best evaluation, read from the checkpoint at `path`. */
  onBest?(best: BestEvaluation, path: string): void;
  onSave?(step: number, path: string): void;
  onDone?(result: TrainResult): void;
}

/** A reporter that passes everything on to several, in order. */
export function together<R extends Reporter>(...reporters: readonly R[]): R {
  type Hooks = Record<string, ((...told: unknown[]) => void) | undefined>;
  const all = reporters as readonly unknown[] as readonly Hooks[];
  const passed: Hooks = {};
  for (const name of new Set(all.flatMap(Object.keys)))
    passed[name] = (...told) => {
      for (const hooks of all) hooks[name]?.(...told);
    };
  return passed as unknown as R;
}
