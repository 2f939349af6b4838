// Forward hooks on the token embedding: how NEFTune's noise gets into the model without a second model class. A hook
// runs in training only; what it returns is fused into the embedding kernel.

import type { Batch } from "../data/batch.ts";
import { NeftuneError } from "../errors.ts";
import type { EmbeddingNoise } from "../native/index.ts";

/** What a hook is told of a training micro-batch. */
export interface EmbeddingBatch {
  /** Tokens of each sample, padding not counted. */
  lengths: Int32Array;
  /** The same with padding. */
  paddedLengths: Int32Array;
  hiddenSize: number;
  /** How many samples the run fed to training before each. */
  draws: BigInt64Array;
}

/** Returns the noise for a micro-batch, or null for none. */
export type EmbeddingHook = (batch: EmbeddingBatch) => EmbeddingNoise | null;

export class Embedding {
  readonly #hooks = new Set<EmbeddingHook>();

  /** Registers a hook and returns what removes it. */
  registerForwardHook(hook: EmbeddingHook): () => void {
    this.#hooks.add(hook);
    return () => {
      this.#hooks.delete(hook);
    };
  }

  /** What the hooks ask for. The kernel adds one noise: two hooks that both want some are refused. */
  noise(batch: Batch, hiddenSize: number, draws: BigInt64Array): EmbeddingNoise | null {
    if (this.#hooks.size === 0) return null;
    const paddedLengths = batch.lengths.map((_, i) => batch.cuSeqlens[i + 1]! - batch.cuSeqlens[i]!);
    const asked = [...this.#hooks]
      .map((hook) => hook({ lengths: batch.lengths, paddedLengths, hiddenSize, draws }))
      .filter((noise) => noise !== null);
    if (asked.length > 1) throw new NeftuneError("model", "two hooks add noise to the embedding; remove one");
    return asked[0] ?? null;
  }
}
