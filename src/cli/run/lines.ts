// The first and last lines of a run: its settings, then its result.

import { join } from "node:path";
import type { LoraOptions } from "../../model/index.ts";
import { closingLosses, MOST_CLOSING, meanOf } from "../../report/statistics.ts";
import type { EvalMetrics, Reporter, RunPlan, TrainerOptions, TrainResult } from "../../train/index.ts";
import { countOf, formatCount, formatSeconds } from "../terminal/format.ts";

/** By option: where its value comes from ("flag", "default", "preset alpaca", …). */
type Origins = Readonly<Record<string, string>>;

/** 0.00018234 → "1.82e-4"; 0.02 → "0.02". */
export function rateText(rate: number): string {
  const digits = Number(rate.toPrecision(3));
  return digits !== 0 && digits < 0.001 ? digits.toExponential() : String(digits);
}

/** " (default)" or " (preset alpaca)"; nothing for what a flag gave. */
function originOf(option: string, origins: Origins): string {
  const origin = origins[option];
  return origin === undefined || origin === "flag" ? "" : ` (${origin})`;
}

function noiseText({ alpha, neftNoise, neftLength, neftScale }: TrainerOptions, origins: Origins): string {
  const idle = neftScale === "learned" ? "; --neft-scale learned has no effect" : "";
  if (neftNoise === "none") return `off${originOf("neft-noise", origins)}${idle}`;
  if (alpha === 0) return `off, alpha 0${originOf("alpha", origins)}${idle}`;
  const length = neftLength === "padded" ? ", padded length" : "";
  const scale = neftScale === "learned" ? ", learned scale" : "";
  return `${neftNoise}${length}${scale}, alpha ${alpha}${originOf("alpha", origins)}`;
}

function rateLine(options: TrainerOptions, { totalSteps, warmupSteps }: RunPlan): string {
  const total = formatCount(totalSteps);
  const warmup =
    warmupSteps === 0
      ? `no warm-up, ${countOf(totalSteps, "step")}`
      : `warm-up over ${countOf(warmupSteps, "step")} of ${total}`;
  return `learning rate: ${rateText(options.learningRate)}, ${options.lrSchedulerType}, ${warmup}`;
}

function batchLine({ batchSize, packing }: TrainerOptions, plan: RunPlan): string {
  const { microBatches: micro, microBatchTokens: tokens, ranks } = plan;
  const where = ranks === 1 ? "" : ` on ${ranks} ranks`;
  const dealt =
    micro === 1
      ? []
      : [`${countOf(micro, "micro-batch", "micro-batches")} of ${formatCount(batchSize)}${where}`];
  const merged = tokens === undefined ? [] : [`merged up to ${countOf(tokens, "token")}`];
  const parts = [...dealt, ...merged].join(", ");
  const accumulated = parts === "" ? "" : ` (${parts})`;
  return `batch: ${countOf(batchSize * micro, "sample")} per step${accumulated}, ${packing ? "packed" : "padded"}`;
}

function loraLine({ r, alpha, dropout, targetModules, useRslora }: LoraOptions): string {
  const parts = [
    `rank ${r}`,
    `alpha ${alpha}${useRslora ? " (rsLoRA)" : ""}`,
    ...(dropout > 0 ? [`dropout ${dropout}`] : []),
    `on ${targetModules.join(", ")}`,
  ];
  return `LoRA: ${parts.join(", ")}`;
}

/** The settings that decide what is learned, one a line. */
export function settingLines(
  options: TrainerOptions,
  plan: RunPlan,
  lora: LoraOptions | undefined,
  origins: Origins,
): string[] {
  return [
    `noise: ${noiseText(options, origins)}`,
    rateLine(options, plan),
    batchLine(options, plan),
    ...(lora === undefined ? [] : [loraLine(lora)]),
  ];
}

/** How many values are trained and how long that takes, in a line. */
export function describePlan(plan: RunPlan): string {
  const parts = [
    `${formatCount(plan.trainedParameters)} trained values`,
    `${countOf(plan.totalSteps, "step")} (${formatCount(plan.stepsPerEpoch)} per epoch)`,
  ];
  if (plan.resumedFrom !== null) parts.push(`resumed after step ${plan.startStep} from ${plan.resumedFrom}`);
  return `run: ${plan.output}: ${parts.join(", ")}`;
}

/** "loss 1.2345, perplexity 3.44". */
export function evaluationText({ loss, perplexity }: Pick<EvalMetrics, "loss" | "perplexity">): string {
  return `loss ${loss?.toFixed(4) ?? "not finite"}, perplexity ${perplexity?.toFixed(2) ?? "not finite"}`;
}

/** Listens to a run beside its reporter, for the closing words. */
export class RunHistory {
  readonly #losses: (number | null)[] = [];
  /** By step. */
  readonly #evaluations = new Map<number, EvalMetrics>();
  /** The evaluation whose model is the result, where that is not the last one. */
  #best: number | null = null;

  /** The reporter, with this one listening. */
  beside(reporter: Reporter): Reporter {
    return {
      ...reporter,
      onStep: (metrics, plan) => {
        this.#losses.push(metrics.loss);
        if (this.#losses.length > MOST_CLOSING) this.#losses.shift();
        reporter.onStep?.(metrics, plan);
      },
      onEval: (metrics) => {
        this.#evaluations.set(metrics.step, metrics);
        reporter.onEval?.(metrics);
      },
      onBest: (best, path) => {
        this.#best = best.step;
        reporter.onBest?.(best, path);
      },
    };
  }

  /** The run's result, one line each, the last one the path of what was made; `isFull` if all weights were trained. */
  closingLines({ output, steps, skipped, loss, evaluation, seconds, tokens }: TrainResult, isFull: boolean) {
    const last = `last loss ${loss?.toFixed(4) ?? "none"}`;
    const lines = [
      tokens === 0
        ? `nothing was left to train: the run's ${countOf(steps, "step")} had been done`
        : `${countOf(steps, "step")} in ${formatSeconds(seconds)}, ${formatCount(seconds > 0 ? tokens / seconds : 0)} tokens/s; ${last}${this.#meanText(steps)}`,
    ];
    if (evaluation !== null) lines.push(this.#evaluationLine(evaluation));
    if (skipped > 0) lines.push(`${countOf(skipped, "step")} made no update (see metrics.jsonl)`);
    lines.push(isFull ? `model: ${output}` : `adapter: ${join(output, "adapter_model.safetensors")}`);
    return lines;
  }

  #meanText(steps: number): string {
    const losses = closingLosses(this.#losses, steps);
    if (losses.length < 2) return "";
    return `, mean of the last ${countOf(losses.length, "step")} ${meanOf(losses).toFixed(4)}`;
  }

  /** The evaluation of the result, and the first one. */
  #evaluationLine(last: EvalMetrics): string {
    const best = this.#best === null || this.#best === last.step ? null : this.#best;
    // A resumed run may have the best one from before.
    const own = best === null ? last : this.#evaluations.get(best);
    if (own === undefined)
      return `evaluation: ${evaluationText(last)} (the result, of step ${best}, was better)`;
    const which = best === null ? "" : ` of the result, of step ${best}`;
    return `evaluation${which}: ${evaluationText(own)}${this.#before(own)}`;
  }

  #before({ step }: EvalMetrics): string {
    const [first] = this.#evaluations.values();
    if (first === undefined || first.step === step) return "";
    const when = first.step === 0 ? "before training" : `after step ${first.step}`;
    return ` (${first.loss?.toFixed(4) ?? "not finite"} ${when})`;
  }
}
