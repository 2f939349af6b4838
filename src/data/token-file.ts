// Tokens that stay in a file: the cache's. They are read where and when they are needed, not mapped, so that they are
// no part of the process's memory, and a file that is cut short meanwhile is an error and no signal. The open file is
// its own: that its name goes away, or names another file, changes nothing.

import { closeSync, readSync } from "node:fs";
import { NeftuneError } from "../errors.ts";
import { ioError } from "../formats/io.ts";
import type { Sample } from "./sample.ts";
import { hashSample, PIECE_WORDS, type SampleIndex, TokenStore } from "./token-store.ts";

/** Keeps files open as long as they may be read. */
const opened = new FinalizationRegistry<number>((fd) => closeSync(fd));

export class FileStore extends TokenStore {
  readonly #path: string;
  readonly #fd: number;
  readonly #begin: number;
  #piece: Int32Array | null = null;

  /** Words that begin at byte `begin` of `fd`, which the store closes when it is collected. */
  constructor(path: string, fd: number, begin: number, index: SampleIndex) {
    super(index);
    this.#path = path;
    this.#fd = fd;
    this.#begin = begin;
    opened.register(this, fd);
  }

  /** Throws NeftuneError where the file no longer has what was written there. */
  override sample(row: number): Sample {
    const sample = super.sample(row);
    if (hashSample(sample.ids, sample.labels) !== this.index.hashes[row]) throw this.#changed();
    return sample;
  }

  protected override read(begin: number, end: number): Int32Array {
    return this.#fill(new Int32Array(end - begin), begin);
  }

  protected override piece(begin: number, end: number): Int32Array {
    this.#piece ??= new Int32Array(PIECE_WORDS);
    return this.#fill(this.#piece.subarray(0, end - begin), begin);
  }

  #fill(words: Int32Array, at: number): Int32Array {
    const bytes = new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
    let read: number;
    try {
      read = readFully(this.#fd, bytes, this.#begin + 4 * at);
    } catch (error) {
      throw ioError(this.#path, "read", error);
    }
    if (read < bytes.length) throw this.#changed();
    return words;
  }

  #changed(): NeftuneError {
    return new NeftuneError(
      "io",
      `${this.#path}: this cache of tokens was changed while it was in use; start again, and the data is tokenized anew`,
    );
  }
}

/** Fills `bytes` from byte `at` of a file; how many there were. */
export function readFully(fd: number, bytes: Uint8Array, at: number): number {
  let done = 0;
  while (done < bytes.length) {
    const read = readSync(fd, bytes, done, Math.min(bytes.length - done, 1 << 30), at + done);
    if (read === 0) break;
    done += read;
  }
  return done;
}
