// The best evaluation of a run and when to stop for want of a better one: the meanings of Transformers'
// metric_for_best_model and EarlyStoppingCallback.

import { countOf } from "../numbers.ts";
import type { EvalMetrics } from "./metrics.ts";
import type { TrainerOptions } from "./options.ts";

export interface BestEvaluation {
  step: number;
  /** Of --metric-for-best-model; lower is better. */
  value: number;
}

/** What a run remembers of its evaluations. */
export interface Judgement {
  best: BestEvaluation | null;
  /** Evaluations in a row that were not better than the best by more than the threshold. */
  waited: number;
}

export const noJudgement: Readonly<Judgement> = { best: null, waited: 0 };

type JudgeOptions = Pick<TrainerOptions, "metricForBestModel" | "earlyStoppingThreshold">;

/**
 * Takes in an evaluation. Any lower value is the new best; only one lower by more than the threshold starts the waiting
 * anew. An evaluation before the first step is no model of this run, and counts as neither.
 */
export function judge(before: Judgement, evaluation: EvalMetrics, options: JudgeOptions): Judgement {
  if (evaluation.step === 0) return before;
  const value = options.metricForBestModel === "eval_loss" ? evaluation.loss : evaluation.perplexity;
  const { best } = before;
  const gain = value === null ? Number.NEGATIVE_INFINITY : (best?.value ?? Number.POSITIVE_INFINITY) - value;
  const waited = gain > options.earlyStoppingThreshold ? 0 : before.waited + 1;
  return { best: gain > 0 && value !== null ? { step: evaluation.step, value } : best, waited };
}

/** What was waited for in vain, for a person. */
export function whyStopped({ best, waited }: Judgement, { earlyStoppingThreshold }: JudgeOptions): string {
  const least = earlyStoppingThreshold > 0 ? `by more than ${earlyStoppingThreshold} ` : "";
  const found = best === null ? "none was finite" : `the best is that of step ${best.step}`;
  return `the last ${countOf(waited, "evaluation")} did not improve ${least}on the best before; ${found}`;
}

/** Whether the run ends here, with steps left. */
export function isOutOfPatience(
  { waited }: Judgement,
  { earlyStoppingPatience: patience }: Pick<TrainerOptions, "earlyStoppingPatience">,
): boolean {
  return patience !== null && waited >= patience;
}
