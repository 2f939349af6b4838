// Samples in flat arrays: one allocation a kind, whatever their number. Workers send them, the cache file is them.

import type { Sample } from "./sample.ts";

export interface TokenStore {
  starts: Uint32Array; // [samples + 1], where each sample begins in `ids` and `labels`
  ids: Int32Array; // [tokens]
  labels: Int32Array; // [tokens]
  truncated: Uint8Array; // [samples], 1 where tokens were cut off
}

/** Collects samples; `finish` gives them in flat arrays of just the size. */
export class TokenStoreBuilder {
  private ids = new Int32Array(1 << 14);
  private labels = new Int32Array(1 << 14);
  private readonly starts = [0];
  private readonly truncated: number[] = [];

  add(sample: Sample): void {
    const begin = this.starts.at(-1)!;
    const end = begin + sample.ids.length;
    if (end > this.ids.length) {
      this.ids = grown(this.ids, end);
      this.labels = grown(this.labels, end);
    }
    this.ids.set(sample.ids, begin);
    this.labels.set(sample.labels, begin);
    this.starts.push(end);
    this.truncated.push(sample.truncated ? 1 : 0);
  }

  finish(): TokenStore {
    const tokens = this.starts.at(-1)!;
    return {
      starts: Uint32Array.from(this.starts),
      ids: this.ids.slice(0, tokens),
      labels: this.labels.slice(0, tokens),
      truncated: Uint8Array.from(this.truncated),
    };
  }
}

function grown(array: Int32Array, least: number): Int32Array<ArrayBuffer> {
  const larger = new Int32Array(Math.max(least, 2 * array.length));
  larger.set(array);
  return larger;
}
