// The micro-batches of each step, merged and laid out as the model takes them.

import { type SampleSizes, type Samples, sizesOf } from "../data/samples.ts";
import type { Team } from "../ranks/team.ts";
import { type Merging, type MicroBatch, mergeMicroBatches } from "./micro-batches.ts";
import { layOut, type SampleOrder } from "./order.ts";
import type { StepBatch, StepCounts } from "./step.ts";
import { countStep, ownOf } from "./team.ts";

export interface StepDealing extends Merging {
  /** The ranks that a step's micro-batches are dealt to; null: this process has all. */
  team: Team | null;
  /** The ranks divide gradients, and run as many micro-batches each. */
  isSharded: boolean;
}

export class StepBatches {
  readonly #samples: Samples;
  readonly #order: SampleOrder;
  readonly #dealing: StepDealing;
  /** What a team counts its steps with, and samples are merged by. */
  readonly #sizes: SampleSizes | null;
  /** Of the step asked for last: the one under way, or the next. */
  #prepared: { step: number; batches: readonly (StepBatch | null)[] } | null = null;

  constructor(samples: Samples, order: SampleOrder, dealing: StepDealing) {
    this.#samples = samples;
    this.#order = order;
    this.#dealing = dealing;
    this.#sizes = dealing.team !== null || dealing.microBatchTokens ? sizesOf(samples) : null;
  }

  /** The micro-batches of a step, of several ranks this one's. */
  of(step: number): readonly (StepBatch | null)[] {
    if (this.#prepared?.step === step) return this.#prepared.batches;
    const { team, isSharded, microBatchTokens, packing } = this.#dealing;
    const all = this.#order.step(step);
    const merge = (dealt: readonly MicroBatch[]) =>
      microBatchTokens ? mergeMicroBatches(dealt, this.#sizes!.tokens, this.#dealing) : dealt;
    const batches = (team === null ? merge(all) : ownOf(team, all, merge, isSharded)).map(
      (one) =>
        one && {
          draws: one.draws,
          batch: layOut(
            Array.from(one.samples, (i) => this.#samples.get(i)),
            packing,
          ),
        },
    );
    this.#prepared = { step, batches };
    return batches;
  }

  /** What a step has over all ranks of a team. */
  counts(step: number): StepCounts {
    return countStep(this.#order.step(step), this.#sizes!);
  }
}
