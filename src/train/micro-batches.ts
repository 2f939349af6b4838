// The micro-batches of a step, and how --micro-batch-tokens merges them: the step's samples, laid together up to a budget of
// tokens. Each sample keeps its draw, and so its noise; only sums run in another order.

export interface MicroBatch {
  /** Indices into the data set. */
  samples: Int32Array;
  /** How many samples the run fed to training before each. */
  draws: BigInt64Array;
}

export interface Merging {
  packing: boolean;
  /** The most rows of a micro-batch, padding included; 0 or null: micro-batches stay as they are. */
  microBatchTokens: number | null;
}

/**
 * The samples of `batches`, one rank's of a step, in as few micro-batches as the budget allows. `tokens` are the lengths
 * of all samples of the data set. Padded, samples of like length come together.
 */
export function mergeMicroBatches(
  batches: readonly MicroBatch[],
  tokens: ArrayLike<number>,
  merging: Merging,
): readonly MicroBatch[] {
  if (!merging.microBatchTokens) return batches;
  const samples = batches.flatMap((batch) => [...batch.samples]);
  const draws = batches.flatMap((batch) => [...batch.draws]);
  return placesOf(samples, tokens, merging.packing, merging.microBatchTokens).map((places) => ({
    samples: Int32Array.from(places, (place) => samples[place]!),
    draws: BigInt64Array.from(places, (place) => draws[place]!),
  }));
}

/** The same of samples alone. */
export function mergeSamples(
  batches: readonly Int32Array[],
  tokens: ArrayLike<number>,
  merging: Merging,
): readonly Int32Array[] {
  if (!merging.microBatchTokens) return batches;
  const samples = batches.flatMap((batch) => [...batch]);
  return placesOf(samples, tokens, merging.packing, merging.microBatchTokens).map((places) =>
    Int32Array.from(places, (place) => samples[place]!),
  );
}

/** Places in `samples`, in groups of at most `budget` rows; a sample longer than that is a group of its own. */
function placesOf(
  samples: readonly number[],
  tokens: ArrayLike<number>,
  packing: boolean,
  budget: number,
): number[][] {
  const lengths = samples.map((i) => tokens[i]!);
  const places = [...lengths.keys()];
  // The longest first, so that each group is padded to its first sample and little.
  if (!packing) places.sort((a, b) => lengths[b]! - lengths[a]!);
  const groups: number[][] = [];
  let rows = 0;
  for (const place of places) {
    const length = lengths[place]!;
    const group = groups.at(-1);
    const grown = packing ? rows + length : ((group?.length ?? 0) + 1) * lengths[group?.[0] ?? place]!;
    if (group !== undefined && grown <= budget) {
      group.push(place);
      rows = grown;
    } else {
      groups.push([place]);
      rows = length;
    }
  }
  return groups;
}
