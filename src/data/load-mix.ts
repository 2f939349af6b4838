// Data sets loaded and mixed by their weights.

import { Dataset } from "./dataset.ts";
import { type LoadOptions, loadDataset } from "./load-dataset.ts";

/** A data set that is asked for, and how much of it. */
export interface DataRequest {
  name: string;
  files: readonly string[];
  /** How often its samples are used in an epoch; see mix.ts. */
  weight: number;
}

/** How rows become tokens. `samples`: the first rows of each data set. */
export type EncodingOptions = Pick<
  LoadOptions,
  "template" | "templateDate" | "lossOn" | "columns" | "samples" | "skipBadRows" | "parseSpecial"
> & { maxLength: number };

export interface MixOptions
  extends EncodingOptions,
    Pick<LoadOptions, "tokenizerDir" | "vocabSize" | "defaultDate" | "signal"> {
  /** Draws the parts of data sets that are not used as a whole. */
  seed: number;
  /** Rows of a file tokenized so far. */
  onProgress?: ((path: string, rows: number) => void) | undefined;
}

export interface LoadedMix {
  dataset: Dataset;
  /** For a run's config.json. */
  record: Readonly<Record<string, unknown>>;
}

/** Loads and tokenizes data sets and mixes them. Throws what loadDataset throws. */
export async function loadMix(
  requests: readonly DataRequest[],
  { seed, onProgress, samples, ...options }: MixOptions,
): Promise<LoadedMix> {
  const loadFiles = async (files: readonly string[]): Promise<Dataset> => {
    const parts: Dataset[] = [];
    let left = samples ?? Number.POSITIVE_INFINITY;
    for (const path of files) {
      if (left <= 0) break;
      const part = await loadDataset({
        ...options,
        path,
        samples: Number.isFinite(left) ? left : null,
        onProgress: (rows) => onProgress?.(path, rows),
      });
      left -= part.stats.rows;
      parts.push(part);
    }
    return Dataset.concat(parts);
  };
  const loaded: Dataset[] = [];
  for (const { files } of requests) loaded.push(await loadFiles(files));
  const weights = requests.map(({ weight }) => weight);
  const dataset = Dataset.mix(loaded, weights, seed);
  const sets = requests.map(({ name, files, weight }, i) => {
    const { rows, skipped } = loaded[i]!.stats;
    return { name, files, weight, rows, skipped, fingerprint: loaded[i]!.fingerprint };
  });
  return { dataset, record: { sets, samples: dataset.length, duplicates: dataset.countDuplicates() } };
}
