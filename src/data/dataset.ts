// A data set, tokenised: samples by number, joined, mixed, split. load-dataset.ts makes it.

import { NeftuneError, UsageError } from "../errors.ts";
import type { EncodingNotes } from "./encoding-notes.ts";
import { weightedIndices } from "./mix.ts";
import { holdoutOrder } from "./philox.ts";
import { countTargets, type Sample } from "./sample.ts";
import { sha256 } from "./sha256.ts";
import type { TokenStore } from "./token-store.ts";

/** How many problems of skipped rows are kept. */
export const REPORTED_PROBLEMS = 10;

export interface DatasetStats {
  /** Rows in the source, skipped ones included. */
  rows: number;
  truncated: number;
  /** Samples with no target left; they stay in the data set. */
  noTarget: number;
  skipped: number;
  tokens: number;
  targetTokens: number;
}

/** A file's notes: places of rows go behind its path. */
export interface FileNotes extends EncodingNotes {
  path: string;
}

export class Dataset {
  readonly length: number;
  /** SHA-256, in hex, of all that the tokens depend on. */
  readonly fingerprint: string;
  readonly stats: DatasetStats;
  /** The first of the skipped rows: `path:line: row n: what is wrong`. */
  readonly problems: readonly string[];
  /** What encoding has to say of the rows, by file. */
  readonly notes: readonly FileNotes[];
  /** Tokenised rows; several samples may be the same one. */
  private readonly stores: readonly TokenStore[];
  private readonly store: Uint32Array; // [length], a sample's place in `stores`
  private readonly row: Uint32Array; // [length], and its place there

  constructor(
    stores: readonly TokenStore[],
    fingerprint: string,
    { skipped = 0, problems = [], notes = [], places = allPlaces(stores) }: DatasetParts = {},
  ) {
    this.stores = stores;
    this.store = places.store;
    this.row = places.row;
    this.length = this.row.length;
    this.fingerprint = fingerprint;
    this.problems = problems;
    this.notes = notes;
    const stats = {
      rows: this.length + skipped,
      truncated: 0,
      noTarget: 0,
      skipped,
      tokens: 0,
      targetTokens: 0,
    };
    for (let i = 0; i < this.length; i++) {
      const { ids, labels, truncated } = this.get(i);
      const targets = countTargets(labels);
      stats.tokens += ids.length;
      stats.targetTokens += targets;
      if (truncated) stats.truncated++;
      if (targets === 0) stats.noTarget++;
    }
    this.stats = stats;
  }

  /** Sample i, whose arrays are views: not to be written to. */
  get(i: number): Sample {
    if (!Number.isInteger(i) || i < 0 || i >= this.length) {
      throw new NeftuneError("dataset", `sample ${i}: the data set has ${this.length}`);
    }
    const { starts, ids, labels, truncated } = this.stores[this.store[i]!]!;
    const row = this.row[i]!;
    const begin = starts[row]!;
    const end = starts[row + 1]!;
    return {
      ids: ids.subarray(begin, end),
      labels: labels.subarray(begin, end),
      truncated: truncated[row] === 1,
    };
  }

  /** A data set of some samples, in the order given, each as often as it is named; `name` makes its fingerprint another. */
  select(indices: ArrayLike<number>, name: string): Dataset {
    const places = {
      store: Uint32Array.from(indices, (i) => this.store[i]!),
      row: Uint32Array.from(indices, (i) => this.row[i]!),
    };
    return new Dataset(this.stores, sha256([this.fingerprint, name]), { places });
  }

  /** Data sets one behind the other. */
  static concat(datasets: readonly Dataset[]): Dataset {
    if (datasets.length === 1) return datasets[0]!;
    const length = datasets.reduce((sum, dataset) => sum + dataset.length, 0);
    const places = { store: new Uint32Array(length), row: new Uint32Array(length) };
    const stores: TokenStore[] = [];
    let at = 0;
    for (const dataset of datasets) {
      for (let i = 0; i < dataset.length; i++) places.store[at + i] = stores.length + dataset.store[i]!;
      places.row.set(dataset.row, at);
      for (const store of dataset.stores) stores.push(store);
      at += dataset.length;
    }
    return new Dataset(stores, sha256(datasets.map((dataset) => dataset.fingerprint)), {
      skipped: datasets.reduce((sum, dataset) => sum + dataset.stats.skipped, 0),
      problems: datasets.flatMap((dataset) => dataset.problems).slice(0, REPORTED_PROBLEMS),
      notes: datasets.flatMap((dataset) => dataset.notes),
      places,
    });
  }

  /**
   * Data sets one behind the other, each `weights[i]` times: 0.3 is a part drawn by the seed, 2 is twice. `concat`
   * where all weights are 1.
   */
  static mix(datasets: readonly Dataset[], weights: readonly number[], seed: number): Dataset {
    return Dataset.concat(
      datasets.map((dataset, i) => {
        const weight = weights[i] ?? 1;
        if (weight === 1) return dataset;
        const indices = weightedIndices(dataset.length, weight, seed, i);
        const { store, row } = dataset.select(indices, "");
        return new Dataset(dataset.stores, sha256([dataset.fingerprint, `weight ${weight} ${seed} ${i}`]), {
          skipped: dataset.stats.skipped,
          problems: dataset.problems,
          notes: dataset.notes,
          places: { store, row },
        });
      }),
    );
  }

  /** How many rows have the same tokens and labels as one before them. Rows that a weight repeats count once. */
  countDuplicates(): number {
    const distinct = this.distinct();
    const hashes = BigUint64Array.from(distinct, (i) => {
      const { ids, labels } = this.get(i);
      return Bun.hash.xxHash64(labels, Bun.hash.xxHash64(ids));
    }).sort();
    let duplicates = 0;
    for (let i = 1; i < hashes.length; i++) if (hashes[i] === hashes[i - 1]) duplicates++;
    return duplicates;
  }

  /** The first sample of every row that is in the data set, in order. */
  distinct(): Int32Array {
    const seen = this.stores.map((store) => new Uint8Array(store.truncated.length));
    const first = new Int32Array(this.length);
    let count = 0;
    for (let i = 0; i < this.length; i++) {
      const marks = seen[this.store[i]!]!;
      if (marks[this.row[i]!] === 1) continue;
      marks[this.row[i]!] = 1;
      first[count++] = i;
    }
    return first.slice(0, count);
  }

  /** The samples whose rows are none of those of `samples`, in order. */
  samplesExcept(samples: Int32Array): Int32Array {
    const marked = this.stores.map((store) => new Uint8Array(store.truncated.length));
    for (const i of samples) marked[this.store[i]!]![this.row[i]!] = 1;
    return Int32Array.from({ length: this.length }, (_, i) => i).filter(
      (i) => marked[this.store[i]!]![this.row[i]!] === 0,
    );
  }
}

interface Places {
  store: Uint32Array;
  row: Uint32Array;
}

interface DatasetParts {
  skipped?: number;
  problems?: readonly string[];
  notes?: readonly FileNotes[];
  /** Which rows are samples; default: all, in order. */
  places?: Places;
}

function allPlaces(stores: readonly TokenStore[]): Places {
  const length = stores.reduce((sum, store) => sum + store.truncated.length, 0);
  const places = { store: new Uint32Array(length), row: new Uint32Array(length) };
  let at = 0;
  for (const [k, { truncated }] of stores.entries()) {
    for (let i = 0; i < truncated.length; i++, at++) {
      places.store[at] = k;
      places.row[at] = i;
    }
  }
  return places;
}

/**
 * Holds samples out for evaluation: a share of the rows (below 1) or a count. Both parts keep the file's order. Of a
 * row that a weight repeats none is trained on where it is held out, and it is evaluated once.
 */
export function splitHoldout(
  dataset: Dataset,
  amount: number,
  seed: number | bigint,
): { train: Dataset; held: Dataset } {
  const rows = dataset.distinct();
  const { length } = rows;
  const count = amount < 1 ? Math.round(amount * length) : amount;
  if (!(amount > 0) || !Number.isInteger(count) || count < 1 || count >= length) {
    throw new UsageError(
      `--eval-split ${amount}: expected a share between 0 and 1 or a count that leaves samples on both sides, of ${length}`,
    );
  }
  const order = holdoutOrder(length, seed);
  const held = order
    .slice(0, count)
    .sort()
    .map((i) => rows[i]!);
  const name = `${amount} ${seed}`;
  return {
    train: dataset.select(dataset.samplesExcept(held), `train ${name}`),
    held: dataset.select(held, `held ${name}`),
  };
}
