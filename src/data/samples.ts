// Samples by number, wherever they are: a data set, or an array.

import { countTargets, type Sample } from "./sample.ts";

export interface Samples {
  readonly length: number;
  /** A sample, whose arrays are not to be written to. */
  get(i: number): Sample;
  /** All sizes, where they are known without reading every sample. */
  sizes?(): SampleSizes;
  /** SHA-256, in hex, of every sample's length, ids and labels as int32 in order, where that is known. */
  contentHash?(): string;
}

export interface SampleSizes {
  tokens: Uint32Array; // [samples]
  targets: Uint32Array; // [samples]
}

/** Where samples may come from. */
export type SampleSource = Samples | readonly Sample[];

export function samplesOf(source: SampleSource): Samples {
  return "get" in source ? source : { length: source.length, get: (i) => source[i]! };
}

export function sizesOf(samples: Samples): SampleSizes {
  if (samples.sizes !== undefined) return samples.sizes();
  const { length } = samples;
  const sizes = { tokens: new Uint32Array(length), targets: new Uint32Array(length) };
  for (let i = 0; i < length; i++) {
    const { ids, labels } = samples.get(i);
    sizes.tokens[i] = ids.length;
    sizes.targets[i] = countTargets(labels);
  }
  return sizes;
}

export function contentHashOf(samples: Samples): string {
  if (samples.contentHash !== undefined) return samples.contentHash();
  const hasher = new Bun.CryptoHasher("sha256");
  for (let i = 0; i < samples.length; i++) {
    const { ids, labels } = samples.get(i);
    hasher.update(Int32Array.of(ids.length));
    hasher.update(ids);
    hasher.update(labels);
  }
  return hasher.digest("hex");
}
