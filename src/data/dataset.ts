// A data set, tokenized: samples by number, joined, mixed, parted. load-dataset.ts makes it.

import { NeftuneError } from "../errors.ts";
import type { EncodingNotes } from "./encoding-notes.ts";
import { weightedIndices } from "./mix.ts";
import type { Sample } from "./sample.ts";
import type { SampleSizes, Samples } from "./samples.ts";
import { sha256 } from "./sha256.ts";
import type { TemplateDate } from "./template-date.ts";
import type { TokenStore } from "./token-store.ts";
import { firstEqual } from "./twins.ts";

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
  /** The day that templates were told, where they may have asked and nothing but the day of loading fixed it. */
  date?: TemplateDate | undefined;
}

export class Dataset implements Samples {
  readonly length: number;
  /** SHA-256, in hex, of all that the tokens depend on. */
  readonly fingerprint: string;
  readonly stats: DatasetStats;
  /** The first of the skipped rows: `path:line: row n: what is wrong`. */
  readonly problems: readonly string[];
  /** What encoding has to say of the rows, by file. */
  readonly notes: readonly FileNotes[];
  /** Tokenized rows; several samples may be the same one. */
  private readonly stores: readonly TokenStore[];
  private readonly store: Uint32Array; // [length], a sample's place in `stores`
  private readonly row: Uint32Array; // [length], and its place there
  private content: string | null;
  private duplicates: number | null = null;

  constructor(
    stores: readonly TokenStore[],
    fingerprint: string,
    { skipped = 0, problems = [], notes = [], places = allPlaces(stores), content = null }: DatasetParts = {},
  ) {
    this.stores = stores;
    this.store = places.store;
    this.row = places.row;
    this.length = this.row.length;
    this.fingerprint = fingerprint;
    this.problems = problems;
    this.notes = notes;
    this.content = content;
    const stats = {
      rows: this.length + skipped,
      truncated: 0,
      noTarget: 0,
      skipped,
      tokens: 0,
      targetTokens: 0,
    };
    for (let i = 0; i < this.length; i++) {
      const { lengths, targets, truncated } = this.stores[this.store[i]!]!.index;
      const row = this.row[i]!;
      stats.tokens += lengths[row]!;
      stats.targetTokens += targets[row]!;
      stats.truncated += truncated[row]!;
      if (targets[row] === 0) stats.noTarget++;
    }
    this.stats = stats;
  }

  /** Sample i, whose arrays are not to be written to. */
  get(i: number): Sample {
    if (!Number.isInteger(i) || i < 0 || i >= this.length) {
      throw new NeftuneError("dataset", `sample ${i}: the data set has ${this.length}`);
    }
    return this.stores[this.store[i]!]!.sample(this.row[i]!);
  }

  sizes(): SampleSizes {
    const sizes = { tokens: new Uint32Array(this.length), targets: new Uint32Array(this.length) };
    for (let i = 0; i < this.length; i++) {
      const { lengths, targets } = this.stores[this.store[i]!]!.index;
      sizes.tokens[i] = lengths[this.row[i]!]!;
      sizes.targets[i] = targets[this.row[i]!]!;
    }
    return sizes;
  }

  contentHash(): string {
    this.content ??= this.hashContent();
    return this.content;
  }

  /** Rows that follow one another in a store are read together. */
  private hashContent(): string {
    const hasher = new Bun.CryptoHasher("sha256");
    for (let begin = 0; begin < this.length; ) {
      const store = this.store[begin]!;
      const first = this.row[begin]!;
      let end = begin + 1;
      while (end < this.length && this.store[end] === store && this.row[end] === first + end - begin) end++;
      this.stores[store]!.forWords(first, first + end - begin, (words) => hasher.update(words));
      begin = end;
    }
    return hasher.digest("hex");
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
    if (this.duplicates === null) {
      const first = firstEqual(this.hashesOf(this.distinct(), "hashes"));
      this.duplicates = first.reduce((count, other, i) => (other === i ? count : count + 1), 0);
    }
    return this.duplicates;
  }

  /** How many samples have the tokens of one of `others`. */
  countShared(others: Dataset): number {
    const known = others.hashesOf(others.distinct(), "idHashes");
    const hashes = new BigUint64Array(known.length + this.length);
    hashes.set(known);
    hashes.set(this.hashesOf(null, "idHashes"), known.length);
    const first = firstEqual(hashes).subarray(known.length);
    return first.reduce((count, other) => (other < known.length ? count + 1 : count), 0);
  }

  /** Hashes of some samples, or of all: of their ids, or of ids and labels. */
  hashesOf(samples: Int32Array | null, kind: "idHashes" | "hashes"): BigUint64Array {
    const hashes = new BigUint64Array(samples?.length ?? this.length);
    for (let i = 0; i < hashes.length; i++) {
      const sample = samples === null ? i : samples[i]!;
      hashes[i] = this.stores[this.store[sample]!]!.index[kind][this.row[sample]!]!;
    }
    return hashes;
  }

  /** The first sample of every row that is in the data set, in order. */
  distinct(): Int32Array {
    const seen = this.stores.map((store) => new Uint8Array(store.length));
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
    const marked = this.stores.map((store) => new Uint8Array(store.length));
    for (const i of samples) marked[this.store[i]!]![this.row[i]!] = 1;
    const rest = new Int32Array(this.length);
    let count = 0;
    for (let i = 0; i < this.length; i++) {
      if (marked[this.store[i]!]![this.row[i]!] === 0) rest[count++] = i;
    }
    return rest.slice(0, count);
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
  /** `contentHash`, where it is known. */
  content?: string | null;
}

function allPlaces(stores: readonly TokenStore[]): Places {
  const length = stores.reduce((sum, store) => sum + store.length, 0);
  const places = { store: new Uint32Array(length), row: new Uint32Array(length) };
  let at = 0;
  for (const [k, { length: rows }] of stores.entries()) {
    for (let i = 0; i < rows; i++, at++) {
      places.store[at] = k;
      places.row[at] = i;
    }
  }
  return places;
}
