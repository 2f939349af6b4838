// When training has gone wrong for good: several steps in a row without a finite loss and gradient, or trained values
// that are NaN or infinite. Such a run ends, and nothing of it is written; what was saved before stays.

import { NeftuneError } from "../errors.ts";
import type { StateKind } from "../model/index.ts";
import type { TrainedParameters } from "./model.ts";

/** So many steps in a row without an update end a run. */
const PATIENCE = 5;

/** What ended a run that diverged, for whoever goes on with others. */
export class DivergedError extends NeftuneError {
  readonly reason: string;

  constructor(reason: string, advice: string) {
    super("diverged", `${reason}${advice}`);
    this.reason = reason;
  }
}

export interface DivergedRun {
  output: string;
  learningRate: number;
  dtype: "f32" | "bf16";
  /** The newest checkpoint; null where none was saved. */
  checkpoint(): string | null;
}

type Finder = Pick<TrainedParameters, "findNonFinite">;

/** Why a step must not change the model, or null. */
export function reasonToSkip(targetTokens: number, loss: number, gradNorm: number): string | null {
  if (targetTokens === 0) return "no target tokens";
  if (!Number.isFinite(loss)) return `the loss is ${loss}`;
  if (!Number.isFinite(gradNorm)) return `the gradient norm is ${gradNorm}`;
  return null;
}

export class DivergenceWatch {
  readonly #run: DivergedRun;
  /** Steps without an update since the last one that made one. */
  #idle: { first: number; last: number; reason: string } | null = null;

  constructor(run: DivergedRun) {
    this.#run = run;
  }

  /** Whether the last steps made no update, so that what is trained may be of no use already. */
  get isIdle(): boolean {
    return this.#idle !== null;
  }

  /** Takes note of a step that made an update. */
  updated(): void {
    this.#idle = null;
  }

  /** Takes note of a step that made none because of a number that is not finite. Throws where it is one too many. */
  idled(step: number, reason: string): void {
    this.#idle = { first: this.#idle?.first ?? step, last: step, reason: this.#idle?.reason ?? reason };
    if (step - this.#idle.first + 1 >= PATIENCE) throw this.#ofIdleSteps(this.#idle);
  }

  /** To ask before trained values are written, so that no file ever holds NaN. */
  expectFinite(step: number, parameters: Finder, kinds: readonly StateKind[]): void {
    for (const kind of kinds) {
      const name = parameters.findNonFinite(kind);
      if (name === null) continue;
      const what = kind === "values" ? name : `AdamW's ${kind} of ${name}`;
      throw this.#error(this.#idle?.first ?? step, `${what} has values that are NaN or infinite`);
    }
  }

  /** To ask at the end: a run shorter than PATIENCE has diverged where all steps but the first were idle. */
  expectUsable(totalSteps: number): void {
    if (this.#idle === null) return;
    const { first, last } = this.#idle;
    if (last - first + 1 >= Math.min(PATIENCE, Math.max(1, totalSteps - 1)))
      throw this.#ofIdleSteps(this.#idle);
  }

  /** To ask of the last evaluation, that of the result: an update may break values and leave them finite. */
  expectFiniteLoss(step: number, loss: number): void {
    if (Number.isFinite(loss)) return;
    throw this.#error(this.#idle?.first ?? step, `the loss of the evaluation after step ${step} is ${loss}`);
  }

  #ofIdleSteps({ first, last, reason }: { first: number; last: number; reason: string }): NeftuneError {
    const steps = first === last ? "that step" : `steps ${first} to ${last}`;
    return this.#error(first, `${reason}, and ${steps} made no update`);
  }

  #error(step: number, what: string): NeftuneError {
    const { output, learningRate, dtype, checkpoint } = this.#run;
    const kept = checkpoint();
    const left = kept === null ? "No checkpoint had been saved" : `The newest checkpoint is ${kept}`;
    const precision = dtype === "bf16" ? ", or --dtype f32" : "";
    return new DivergedError(
      `diverged at step ${step}: ${what}`,
      `. ${left}; no result was written to ${output}. Train again, into another --output, with a lower --learning-rate (it was ${learningRate})${precision}`,
    );
  }
}
