// The live line of a run on a terminal; plain lines elsewhere.

import type { EvalMetrics, Reporter, RunPlan, StepMetrics } from "../train/index.ts";
import type { Context } from "./command.ts";
import { formatBytes, formatCount, formatSeconds } from "./format.ts";
import { describePlan } from "./train-run.ts";

/** Off a terminal at most one line in so many seconds, beside the first and the last. */
const PLAIN_INTERVAL = 5;
const LIVE_INTERVAL = 0.1;
/** Share of the newest step in the smoothed speed. */
const SMOOTHING = 0.1;

const bar = (share: number, width: number) => {
  const full = Math.round(share * width);
  return "█".repeat(full) + "░".repeat(width - full);
};

/** "loss 1.2345, perplexity 3.44". */
export function evaluationText({ loss, perplexity }: EvalMetrics): string {
  return `loss ${loss?.toFixed(4) ?? "not finite"}, perplexity ${perplexity?.toFixed(2) ?? "not finite"}`;
}

/** Shows a run: step, loss, tokens per second, time left, memory. `label` tells several runs of a command apart. */
export function progressReporter(context: Context, label = ""): Reporter {
  let secondsPerStep = 0;
  let tokensPerSecond = 0;
  let shownAt = Number.NEGATIVE_INFINITY;
  const prefix = label === "" ? "" : `${label}: `;

  const line = (metrics: StepMetrics, plan: RunPlan) => {
    const left = formatSeconds(secondsPerStep * (plan.totalSteps - metrics.step));
    const loss = metrics.loss === null ? "loss none" : `loss ${metrics.loss.toFixed(4)}`;
    return [
      `${prefix}step ${metrics.step}/${plan.totalSteps}`,
      loss,
      `${formatCount(tokensPerSecond)} tokens/s`,
      `${left} left`,
      formatBytes(metrics.peakMemoryBytes),
    ].join("  ");
  };

  return {
    onPlan: (plan) => context.note(prefix + describePlan(plan)),
    onNote: (text) => context.note(prefix + text),
    onStep(metrics, plan) {
      // The first step makes what later ones reuse.
      const weight = secondsPerStep === 0 || metrics.step === plan.startStep + 2 ? 1 : SMOOTHING;
      secondsPerStep += weight * (metrics.seconds - secondsPerStep);
      tokensPerSecond += weight * (metrics.tokensPerSecond - tokensPerSecond);
      const now = performance.now() / 1000;
      const isEdge = metrics.step === plan.startStep + 1 || metrics.step === plan.totalSteps;
      if (!isEdge && now - shownAt < (context.isTerminal ? LIVE_INTERVAL : PLAIN_INTERVAL)) return;
      shownAt = now;
      const text = line(metrics, plan);
      if (context.isTerminal) context.draw(`${bar(metrics.step / plan.totalSteps, 16)} ${text}`);
      else context.note(text);
    },
    onSkip: (step, reason, skipped) =>
      context.note(`${prefix}step ${step} made no update: ${reason} (${skipped} so far)`),
    onEvalProgress: (samples, total) => context.draw(`${prefix}evaluating ${samples}/${total}`),
    onEval: (metrics: EvalMetrics) =>
      context.note(`${prefix}step ${metrics.step}: evaluation ${evaluationText(metrics)}`),
    onSave: (step, path) => context.note(`${prefix}step ${step}: saved ${path}`),
    onDone: () => context.draw(""),
  };
}
