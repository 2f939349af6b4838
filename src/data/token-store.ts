// Tokenized samples in flat arrays: no object per sample, whatever their number. Workers send blocks of them, the cache
// file is made of them, and a TokenStore reads them from memory or from that file.

import { NeftuneError } from "../errors.ts";
import { countTargets, type Sample } from "./sample.ts";

/** What is known of samples without reading their tokens. */
export interface SampleIndex {
  /** xxHash64 of the ids. */
  idHashes: BigUint64Array; // [samples]
  /** xxHash64 of ids and labels. */
  hashes: BigUint64Array; // [samples]
  lengths: Uint32Array; // [samples], in tokens
  targets: Uint32Array; // [samples]
  truncated: Uint8Array; // [samples], 1 where tokens were cut off
}

/** Samples and their tokens, as the thread that encoded them hands them on. */
export interface TokenBlock {
  index: SampleIndex;
  /** The samples end to end, each as its length, its ids and its labels. */
  words: Int32Array;
}

/** Words per piece of a `forWords` pass. */
export const PIECE_WORDS = 1 << 18;

/** xxHash64 of a sample's ids and labels, the hash of its ids being the seed. */
export function hashSample(ids: Int32Array, labels: Int32Array): bigint {
  return Bun.hash.xxHash64(labels, Bun.hash.xxHash64(ids));
}

/** Words that a sample of `length` tokens takes. */
function sampleWords(length: number): number {
  return 1 + 2 * length;
}

/** Samples by row, wherever their words are. */
export abstract class TokenStore {
  readonly index: SampleIndex;
  /** Where each sample begins, and where the last one ends, in words. */
  readonly starts: Float64Array; // [samples + 1]

  constructor(index: SampleIndex) {
    this.index = index;
    const { lengths } = index;
    this.starts = new Float64Array(lengths.length + 1);
    for (let row = 0; row < lengths.length; row++) {
      this.starts[row + 1] = this.starts[row]! + sampleWords(lengths[row]!);
    }
  }

  get length(): number {
    return this.index.lengths.length;
  }

  /** A sample, whose arrays are not to be written to. */
  sample(row: number): Sample {
    const words = this.read(this.starts[row]!, this.starts[row + 1]!);
    const length = this.index.lengths[row]!;
    return {
      ids: words.subarray(1, 1 + length),
      labels: words.subarray(1 + length),
      truncated: this.index.truncated[row] === 1,
    };
  }

  /** Hands on the words of rows `first` to `end` - 1 in pieces, each valid until `take` returns. */
  forWords(first: number, end: number, take: (words: Int32Array) => void): void {
    const last = this.starts[end]!;
    for (let at = this.starts[first]!; at < last; at += PIECE_WORDS) {
      take(this.piece(at, Math.min(at + PIECE_WORDS, last)));
    }
  }

  /** Words that do not change. */
  protected abstract read(begin: number, end: number): Int32Array;
  /** At most PIECE_WORDS words, valid until the next call. */
  protected abstract piece(begin: number, end: number): Int32Array;
}

/** A block that stays in memory. */
export class MemoryStore extends TokenStore {
  readonly #words: Int32Array;

  constructor({ index, words }: TokenBlock) {
    super(index);
    this.#words = words;
  }

  protected override read(begin: number, end: number): Int32Array {
    return this.#words.subarray(begin, end);
  }

  protected override piece(begin: number, end: number): Int32Array {
    return this.#words.subarray(begin, end);
  }
}

/** Words that a builder keeps room for from one block to the next. */
const KEPT_WORDS = 1 << 22;

/** Collects samples into blocks, one after the other. */
export class TokenBlockBuilder {
  #words = new Int32Array(1 << 14);
  #end = 0;
  readonly #idHashes: bigint[] = [];
  readonly #hashes: bigint[] = [];
  readonly #lengths: number[] = [];
  readonly #targets: number[] = [];
  readonly #truncated: number[] = [];

  add({ ids, labels, truncated }: Sample): void {
    if (labels.length !== ids.length) {
      throw new NeftuneError("internal", `a sample has ${ids.length} ids and ${labels.length} labels`);
    }
    const begin = this.#end;
    this.#end += sampleWords(ids.length);
    if (this.#end > this.#words.length) {
      const larger = new Int32Array(Math.max(this.#end, 2 * this.#words.length));
      larger.set(this.#words);
      this.#words = larger;
    }
    this.#words[begin] = ids.length;
    this.#words.set(ids, begin + 1);
    this.#words.set(labels, begin + 1 + ids.length);
    const idHash = Bun.hash.xxHash64(ids);
    this.#idHashes.push(idHash);
    this.#hashes.push(Bun.hash.xxHash64(labels, idHash));
    this.#lengths.push(ids.length);
    this.#targets.push(countTargets(labels));
    this.#truncated.push(truncated ? 1 : 0);
  }

  /** The block, in arrays of just the size; the next sample begins another. */
  finish(): TokenBlock {
    const block = {
      index: {
        idHashes: BigUint64Array.from(this.#idHashes),
        hashes: BigUint64Array.from(this.#hashes),
        lengths: Uint32Array.from(this.#lengths),
        targets: Uint32Array.from(this.#targets),
        truncated: Uint8Array.from(this.#truncated),
      },
      words: this.#words.slice(0, this.#end),
    };
    this.#end = 0;
    if (this.#words.length > KEPT_WORDS) this.#words = new Int32Array(1 << 14);
    for (const list of [this.#lengths, this.#targets, this.#truncated]) list.length = 0;
    for (const list of [this.#idHashes, this.#hashes]) list.length = 0;
    return block;
  }
}

/** The indexes of stores one behind the other. */
export function joinIndexes(parts: readonly SampleIndex[]): SampleIndex {
  const samples = parts.reduce((sum, { lengths }) => sum + lengths.length, 0);
  const whole = emptyIndex(samples);
  let at = 0;
  for (const part of parts) {
    whole.idHashes.set(part.idHashes, at);
    whole.hashes.set(part.hashes, at);
    whole.lengths.set(part.lengths, at);
    whole.targets.set(part.targets, at);
    whole.truncated.set(part.truncated, at);
    at += part.lengths.length;
  }
  return whole;
}

/** Bytes per sample of an index. */
export const INDEX_BYTES = 8 + 8 + 4 + 4 + 1;

/** An index in one buffer, array behind array, as the cache file has it. */
export function emptyIndex(samples: number, buffer = new ArrayBuffer(INDEX_BYTES * samples)): SampleIndex {
  return {
    idHashes: new BigUint64Array(buffer, 0, samples),
    hashes: new BigUint64Array(buffer, 8 * samples, samples),
    lengths: new Uint32Array(buffer, 16 * samples, samples),
    targets: new Uint32Array(buffer, 20 * samples, samples),
    truncated: new Uint8Array(buffer, 24 * samples, samples),
  };
}
