// The live line of a run on a terminal; plain lines elsewhere.

import type { EvalMetrics, Reporter, RunPlan, Sampling, StepMetrics } from "../../train/index.ts";
import type { Context } from "../command.ts";
import { describePlan, evaluationText, rateText } from "../run/lines.ts";
import { countOf, formatBytes, formatCount, formatSeconds } from "./format.ts";
import type { LinePart } from "./text.ts";

/** Seconds between lines off a terminal; the first and last lines always come. */
const PLAIN_INTERVAL = 5;
const LIVE_INTERVAL = 0.1;
/** Weight of the newest step in the smoothed loss and speed. */
const SMOOTHING = 0.1;
const BAR_COLUMNS = 16;

const bar = (share: number, width: number) => {
  const full = Math.round(share * width);
  return "█".repeat(full) + "░".repeat(width - full);
};

/** An exponential moving average with bias correction, as in Adam. */
class SmoothedLoss {
  #sum = 0;
  #weight = 0;

  add(loss: number | null): void {
    if (loss === null) return;
    this.#sum += SMOOTHING * (loss - this.#sum);
    this.#weight += SMOOTHING * (1 - this.#weight);
  }

  get mean(): number | null {
    return this.#weight === 0 ? null : this.#sum / this.#weight;
  }
}

/** Progress of an evaluation. */
export class EvaluationProgress {
  readonly #label: string;
  #start = 0;
  #last = Number.POSITIVE_INFINITY;

  constructor(label = "") {
    this.#label = label;
  }

  /** For `samples` of `total`; fewer than before are a new evaluation's. */
  parts(samples: number, total: number): LinePart[] {
    const now = performance.now();
    if (samples < this.#last) this.#start = now;
    this.#last = samples;
    const left = ((now - this.#start) / 1000) * (total / samples - 1);
    const prefix = this.#label === "" ? "" : `${this.#label}: `;
    return [
      { text: `${prefix}evaluating ${formatCount(samples)} of ${formatCount(total)} samples`, rank: 0 },
      ...(left > 0 ? [{ text: `${formatSeconds(left)} left`, rank: 1 }] : []),
    ];
  }
}

/** Progress of answering --sample-prompts between steps. */
export function samplingParts(
  { prompts, maxNewTokens }: Pick<Sampling, "prompts" | "maxNewTokens">,
  tokens: number,
): LinePart[] {
  return [
    { text: `answering ${countOf(prompts.length, "prompt")}`, rank: 0 },
    { text: `token ${tokens} of up to ${maxNewTokens}`, rank: 1 },
  ];
}

interface Shown {
  step: StepMetrics;
  plan: RunPlan;
  /** Smoothed. */
  loss: number | null;
  tokensPerSecond: number;
  secondsLeft: number;
  /** Of the time of a step, spent on exchanges between ranks; null: there are none. */
  exchangeShare?: number | null;
}

/** What the line of a step says, in order; see LinePart for what a narrow terminal leaves out. */
export function stepParts(shown: Shown): LinePart[] {
  const { step, plan, loss, tokensPerSecond, secondsLeft, exchangeShare = null } = shown;
  const exchanges =
    exchangeShare === null ? [] : [{ text: `${(100 * exchangeShare).toFixed(0)} % in exchanges`, rank: 6 }];
  return [
    { text: `step ${step.step}/${plan.totalSteps}`, rank: 0 },
    { text: `epoch ${step.epoch.toFixed(2)}`, rank: 5 },
    { text: `loss ${loss?.toFixed(4) ?? "none"}`, rank: 1 },
    { text: `lr ${rateText(step.learningRate)}`, rank: 4 },
    { text: `${formatCount(tokensPerSecond)} tokens/s`, rank: 3 },
    ...exchanges,
    { text: `${formatSeconds(secondsLeft)} left`, rank: 2 },
    { text: formatBytes(step.peakMemoryBytes), rank: 7 },
  ];
}

/** Shows a run: step, loss, learning rate, tokens per second, time left. `label` tells several runs of a command apart. */
export function progressReporter(context: Context, label = ""): Reporter {
  const smoothed = new SmoothedLoss();
  const evaluating = new EvaluationProgress(label);
  let secondsPerStep = 0;
  let tokensPerSecond = 0;
  let exchangeSeconds = 0;
  let shownAt = Number.NEGATIVE_INFINITY;
  const prefix = label === "" ? "" : `${label}: `;

  return {
    onPlan(plan) {
      context.note(prefix + describePlan(plan));
      const left = plan.totalSteps - plan.startStep;
      if (left > 0) context.draw(`${prefix}first step of ${left}`);
    },
    onNote: (text) => context.note(prefix + text),
    onStep(step, plan) {
      smoothed.add(step.loss);
      // The first step makes what later ones reuse.
      const first = secondsPerStep === 0 || step.step === plan.startStep + 2 ? 1 : SMOOTHING;
      // A step without targets runs nothing: its time says nothing of the others'.
      const weight = step.targetTokens === 0 ? 0 : first;
      secondsPerStep += weight * (step.seconds - secondsPerStep);
      tokensPerSecond += weight * (step.tokensPerSecond - tokensPerSecond);
      const { communicationSeconds = null } = step;
      exchangeSeconds += weight * ((communicationSeconds ?? 0) - exchangeSeconds);
      const now = performance.now() / 1000;
      const isEdge = step.step === plan.startStep + 1 || step.step === plan.totalSteps;
      if (!isEdge && now - shownAt < (context.isTerminal ? LIVE_INTERVAL : PLAIN_INTERVAL)) return;
      shownAt = now;
      const secondsLeft = secondsPerStep * (plan.totalSteps - step.step);
      const exchangeShare =
        communicationSeconds === null || secondsPerStep === 0 ? null : exchangeSeconds / secondsPerStep;
      const loss = smoothed.mean;
      const parts = stepParts({ step, plan, loss, tokensPerSecond, secondsLeft, exchangeShare });
      parts[0] = { text: prefix + parts[0]!.text, rank: 0 };
      if (context.isTerminal)
        context.draw([{ text: bar(step.step / plan.totalSteps, BAR_COLUMNS), rank: 8 }, ...parts]);
      else context.note(parts.map(({ text }) => text).join("  "));
    },
    onSkip: (step, reason, skipped) =>
      context.note(`${prefix}step ${step} made no update: ${reason} (${skipped} so far)`),
    onEvalProgress: (samples, total) => context.draw(evaluating.parts(samples, total)),
    onEval: (metrics: EvalMetrics) =>
      context.note(`${prefix}step ${metrics.step}: evaluation ${evaluationText(metrics)}`),
    onBest: ({ step, value }, path) =>
      context.note(`${prefix}the result is the best model, of step ${step} (${value.toFixed(4)}): ${path}`),
    onSave: (step, path) => context.note(`${prefix}step ${step}: saved ${path}`),
    onDone: () => context.draw(""),
  };
}
