// What a report says in figures: of each run, and of the others against the first.

import type { Measures } from "../analysis/outputs.ts";
import { measuresOf } from "./measures.ts";
import type { Run } from "./run.ts";
import {
  arePaired,
  type Bootstrap,
  closingLosses,
  type Interval,
  meanOf,
  pairedBootstrap,
  type SampleLosses,
} from "./statistics.ts";

export interface Figures {
  name: string;
  path: string;
  state: Run["state"];
  steps: number;
  total_steps: number | null;
  /** Mean of closingLosses. */
  train_loss: number | null;
  /** Of the last evaluation; null where there is none, or its loss is not finite. */
  eval_loss: number | null;
  /** 95 % intervals, where evaluations were kept sample by sample. */
  eval_loss_interval: Interval | null;
  /** Evaluation loss minus the first run's, over the same samples; null of the first. */
  difference: number | null;
  difference_interval: Interval | null;
  /** Of the evaluations after the first step: one before it is no model of the run. */
  best_eval_loss: number | null;
  best_eval_step: number | null;
  tokens_per_second: number | null;
  peak_memory_bytes: number | null;
  /** Of training steps, evaluations not counted. */
  seconds: number | null;
  skipped: number;
  /** Its answers, measured; null where it has none. */
  answers: Measures | null;
}

function trainLoss({ metrics }: Run): number | null {
  const losses = metrics.curves.loss.y;
  const closing = closingLosses(losses, losses.length);
  return closing.length === 0 ? null : meanOf(closing);
}

function bestEvaluation({ metrics }: Run): { loss: number | null; step: number | null } {
  const { x, y } = metrics.evalLoss;
  let best = -1;
  for (const [i, loss] of y.entries())
    if (x[i]! > 0 && loss !== null && (best < 0 || loss < y[best]!)) best = i;
  return best < 0 ? { loss: null, step: null } : { loss: y[best]!, step: x[best]! };
}

const hasFiniteLosses = ({ losses, targetTokens }: SampleLosses) =>
  losses.every((loss, i) => Number.isFinite(loss) || targetTokens[i] === 0);

/**
 * Intervals by run; null where the run keeps no losses of single samples, of other samples than the first run, or one
 * that is not finite.
 */
function bootstrap(runs: readonly Run[]): { result: Bootstrap | null; place: (number | null)[] } {
  // Of the last evaluation only: it is that one's loss that stands beside the interval.
  const evaluations = runs.map(({ evaluation, metrics }) =>
    evaluation !== null && evaluation.step === metrics.evalLoss.x.at(-1) && hasFiniteLosses(evaluation)
      ? evaluation
      : null,
  );
  const first = evaluations.find((evaluation) => evaluation !== null) ?? null;
  if (first === null || first.targetTokens.filter((count) => count > 0).length < 2)
    return { result: null, place: runs.map(() => null) };
  const paired = evaluations.filter((evaluation) => evaluation !== null && arePaired(first, evaluation));
  const place = evaluations.map((evaluation) => (evaluation === null ? -1 : paired.indexOf(evaluation)));
  return {
    result: pairedBootstrap(paired.filter((evaluation) => evaluation !== null)),
    place: place.map((at) => (at < 0 ? null : at)),
  };
}

/** The figures of all runs. */
export function compare(runs: readonly Run[]): Figures[] {
  const { result, place } = bootstrap(runs);
  const firstLoss = runs[0]?.metrics.evalLoss.y.at(-1) ?? null;
  return runs.map((run, i) => {
    const { name, path, state, totalSteps, metrics } = run;
    const evalLoss = metrics.evalLoss.y.at(-1) ?? null;
    const best = bestEvaluation(run);
    const at = place[i]!;
    const isCompared = i > 0 && at !== null && place[0] === 0 && evalLoss !== null && firstLoss !== null;
    const memory = metrics.curves.peak_memory_bytes.y.filter((bytes) => bytes !== null);
    return {
      name,
      path,
      state,
      steps: metrics.lastStep,
      total_steps: totalSteps,
      train_loss: trainLoss(run),
      eval_loss: evalLoss,
      eval_loss_interval: at === null ? null : result!.losses[at]!,
      difference: isCompared ? evalLoss - firstLoss : null,
      difference_interval: isCompared ? result!.differences[at]! : null,
      best_eval_loss: best.loss,
      best_eval_step: best.step,
      tokens_per_second: metrics.seconds > 0 ? metrics.tokens / metrics.seconds : null,
      peak_memory_bytes: memory.length === 0 ? null : Math.max(...memory),
      // Where only every Nth step has a line, the others are taken to have been as fast.
      seconds: metrics.lines === 0 ? null : (metrics.seconds / metrics.lines) * metrics.lastStep,
      skipped: metrics.skipped,
      answers: measuresOf(run),
    };
  });
}

/** The options that are not the same in all runs: a name, then each run's value; "–" where it records none. */
export function differingOptions(runs: readonly Run[]): [name: string, ...values: string[]][] {
  const known = runs.filter(({ options }) => options.size > 0);
  const names = [...new Set(known.flatMap(({ options }) => [...options.keys()]))].sort();
  const values = (name: string) => runs.map(({ options }) => options.get(name) ?? "–");
  return names
    .filter((name) => new Set(known.map(({ options }) => options.get(name))).size > 1)
    .map((name) => [name, ...values(name)]);
}
