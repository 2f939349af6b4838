// Tokenised data on disk, one file a fingerprint, written as the tokens come and mapped where it is large, so that the
// data may be larger than the memory. A cache: whatever is wrong with a file or the folder, the data is tokenised
// again.
//
//   "NFTKNS02"
//   segments, each: starts uint32 [samples + 1], ids int32 [tokens], labels int32 [tokens],
//     truncated uint8 [samples], zeros up to a multiple of 4; all little-endian
//   index (JSON, UTF-8), uint64 its bytes, uint64 xxHash64 of it
// The index has each segment's place, counts and xxHash64.

import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  unlinkSync,
} from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import * as v from "valibot";
import { writeAll } from "../formats/io.ts";
import { type EncodingNotes, remarks } from "./encoding-notes.ts";
import type { TokenStore } from "./token-store.ts";

const MAGIC = "NFTKNS02";
/** The index's length and checksum. */
const TAIL_BYTES = 16;
/** Larger files are mapped; smaller ones are read, and what happens to the file later is nothing to the reader. */
const MAP_BYTES = 1 << 28;
/** A `.part` file this old was left by a process that was killed. */
const STALE_MILLISECONDS = 24 * 3600 * 1000;

const Count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const IndexSchema = v.object({
  fingerprint: v.string(),
  segments: v.array(v.object({ at: Count, samples: Count, tokens: Count, hash: v.string() })),
  skipped: Count,
  problems: v.array(v.string()),
  notes: v.object({
    remarks: v.partial(v.object(v.entriesFromList(remarks, v.object({ rows: Count, first: v.string() })))),
    unused: v.array(v.string()),
    templates: v.array(v.string()),
  }),
});
type Segment = v.InferOutput<typeof IndexSchema>["segments"][number];

export interface CachedData {
  stores: TokenStore[];
  skipped: number;
  /** `:line: row n: what is wrong`, to go behind the file's path: the same bytes may lie under another tomorrow. */
  problems: string[];
  /** Rows are named the same way. */
  notes: EncodingNotes;
}

/** Where tokenised data is kept when nobody names a folder. */
export function defaultCacheDir(env: Record<string, string | undefined> = process.env): string {
  const base = env.XDG_CACHE_HOME;
  return base?.startsWith("/") ? join(base, "neftune") : join(homedir(), ".cache", "neftune");
}

function cachePath(dir: string, fingerprint: string): string {
  return join(dir, "tokens", `${fingerprint}.bin`);
}

/** The data of a fingerprint, or null where the folder has none that is whole. Files of `mapFrom` bytes are mapped. */
export function readCache(dir: string, fingerprint: string, mapFrom = MAP_BYTES): CachedData | null {
  const path = cachePath(dir, fingerprint);
  try {
    const size = statSync(path).size;
    const bytes = size >= mapFrom ? Bun.mmap(path, { shared: false }) : new Uint8Array(readFileSync(path));
    return readFile(bytes, fingerprint);
  } catch {
    return null;
  }
}

/** Throws, or gives null, where the file is not whole. */
function readFile(bytes: Uint8Array, fingerprint: string): CachedData | null {
  if (Buffer.from(bytes.subarray(0, MAGIC.length)).toString("latin1") !== MAGIC) return null;
  const end = bytes.length - TAIL_BYTES;
  const tail = new DataView(bytes.buffer, bytes.byteOffset + end, TAIL_BYTES);
  const index = bytes.subarray(end - Number(tail.getBigUint64(0, true)), end);
  if (Bun.hash.xxHash64(index) !== tail.getBigUint64(8, true)) return null;
  const header = v.parse(IndexSchema, JSON.parse(new TextDecoder().decode(index)) as unknown);
  if (header.fingerprint !== fingerprint) return null;
  const stores: TokenStore[] = [];
  for (const segment of header.segments) {
    const { at, samples, tokens, hash } = segment;
    const body = bytes.subarray(at, at + segmentBytes(segment));
    if (Bun.hash.xxHash64(body).toString(16) !== hash) return null;
    const begin = bytes.byteOffset + at;
    const ids = begin + 4 * (samples + 1);
    const labels = ids + 4 * tokens;
    stores.push({
      starts: new Uint32Array(bytes.buffer, begin, samples + 1),
      ids: new Int32Array(bytes.buffer, ids, tokens),
      labels: new Int32Array(bytes.buffer, labels, tokens),
      truncated: new Uint8Array(bytes.buffer, labels + 4 * tokens, samples),
    });
  }
  return { stores, skipped: header.skipped, problems: header.problems, notes: header.notes as EncodingNotes };
}

function segmentBytes({ samples, tokens }: Pick<Segment, "samples" | "tokens">): number {
  return 4 * (samples + 1) + 8 * tokens + 4 * Math.ceil(samples / 4);
}

/** Keeps the data of a fingerprint: whole after `commit`, or not at all. A failure of the disk only ends the writing. */
export class CacheWriter {
  /** Why nothing more is written, or null. */
  failure: unknown = null;
  readonly #fingerprint: string;
  readonly #path: string;
  readonly #part: string;
  readonly #segments: Segment[] = [];
  #fd = -1;
  #at = MAGIC.length;

  constructor(dir: string, fingerprint: string) {
    this.#fingerprint = fingerprint;
    this.#path = cachePath(dir, fingerprint);
    this.#part = `${this.#path}.${process.pid}.part`;
    this.#try(() => {
      mkdirSync(join(dir, "tokens"), { recursive: true });
      removeStale(join(dir, "tokens"));
      this.#fd = openSync(this.#part, "w");
      writeAll(this.#fd, Buffer.from(MAGIC));
    });
  }

  append({ starts, ids, labels, truncated }: TokenStore): void {
    this.#try(() => {
      const padded = new Uint8Array(4 * Math.ceil(truncated.length / 4));
      padded.set(truncated);
      const parts = [starts, ids, labels, padded];
      const body = Buffer.concat(
        parts.map(({ buffer, byteOffset, byteLength }) => Buffer.from(buffer, byteOffset, byteLength)),
      );
      const hash = Bun.hash.xxHash64(body).toString(16);
      writeAll(this.#fd, body);
      this.#segments.push({ at: this.#at, samples: truncated.length, tokens: ids.length, hash });
      this.#at += body.length;
    });
  }

  commit(skipped: number, problems: readonly string[], notes: EncodingNotes): void {
    this.#try(() => {
      const header = { fingerprint: this.#fingerprint, segments: this.#segments, skipped, problems, notes };
      const index = Buffer.from(JSON.stringify(header));
      const tail = Buffer.alloc(TAIL_BYTES);
      tail.writeBigUInt64LE(BigInt(index.length), 0);
      tail.writeBigUInt64LE(Bun.hash.xxHash64(index), 8);
      writeAll(this.#fd, Buffer.concat([index, tail]));
      renameSync(this.#part, this.#path);
    });
    this.close();
  }

  /** Ends the writing; without a commit before, nothing is left. */
  close(): void {
    if (this.#fd < 0) return;
    closeSync(this.#fd);
    this.#fd = -1;
    try {
      unlinkSync(this.#part);
    } catch {
      // it has its name, or was never made
    }
  }

  #try(write: () => void): void {
    if (this.failure !== null) return;
    try {
      write();
    } catch (error) {
      this.failure = error;
      this.close();
    }
  }
}

function removeStale(dir: string): void {
  for (const name of readdirSync(dir)) {
    if (!name.endsWith(".part")) continue;
    try {
      if (Date.now() - statSync(join(dir, name)).mtimeMs > STALE_MILLISECONDS) unlinkSync(join(dir, name));
    } catch {
      // another process did
    }
  }
}
