// Tokenized data on disk, one file per fingerprint, written as the tokens come, so that the data may be larger than the
// memory. A cache: whatever is wrong with a file or the folder, the data is tokenized again.
//
//   "NFTKNS03"
//   words int32: the samples end to end, each as its length, its ids and its labels
//   index (token-store.ts): idHashes uint64, hashes uint64, lengths uint32, targets uint32, truncated uint8, each [samples]
//   header (JSON, UTF-8), uint64 its bytes, uint64 xxHash64 of it; all little-endian
// The header has the counts and the hashes of words and index. Files are replaced by renaming alone, never written to:
// who has one open keeps what it was opened for.

import { randomUUID } from "node:crypto";
import {
  closeSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  statSync,
  unlinkSync,
} from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import * as v from "valibot";
import { writeAll } from "../formats/io.ts";
import { type EncodingNotes, remarks } from "./encoding-notes.ts";
import { FileStore, readFully } from "./token-file.ts";
import {
  emptyIndex,
  INDEX_BYTES,
  joinIndexes,
  MemoryStore,
  PIECE_WORDS,
  type SampleIndex,
  type TokenBlock,
  type TokenStore,
} from "./token-store.ts";

const MAGIC = "NFTKNS03";
/** The header's length and checksum. */
const TAIL_BYTES = 16;
/** Tokens are hashed in pieces of this size; each hash seeds the next. */
const PIECE_BYTES = 4 * PIECE_WORDS;
/** Bytes of words up to which they are held in memory. */
export const MEMORY_BYTES = 1 << 24;
/** A `.part` file this old was left by a process that was killed. */
const STALE_MILLISECONDS = 24 * 3600 * 1000;

const Count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const HeaderSchema = v.object({
  fingerprint: v.string(),
  samples: Count,
  words: Count,
  /** Hashes are hexadecimal. */
  wordsHash: v.string(),
  indexHash: v.string(),
  /** SHA-256 of all words. */
  content: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)),
  skipped: Count,
  problems: v.array(v.string()),
  notes: v.object({
    remarks: v.partial(v.object(v.entriesFromList(remarks, v.object({ rows: Count, first: v.string() })))),
    unused: v.array(v.string()),
    templates: v.array(v.string()),
  }),
});
type Header = v.InferOutput<typeof HeaderSchema>;

export interface CachedData {
  stores: TokenStore[];
  /** SHA-256, in hex, of the stores' words in order. */
  content: string;
  skipped: number;
  /** `:line: row n: what is wrong`, to go behind the file's path: the same bytes may lie under another tomorrow. */
  problems: string[];
  /** Rows are named the same way. */
  notes: EncodingNotes;
}

/** Where tokenized data is kept when nobody names a folder. */
export function defaultCacheDir(env: Record<string, string | undefined> = process.env): string {
  const base = env.XDG_CACHE_HOME;
  return base?.startsWith("/") ? join(base, "neftune") : join(homedir(), ".cache", "neftune");
}

function cachePath(dir: string, fingerprint: string): string {
  return join(dir, "tokens", `${fingerprint}.bin`);
}

/** The data of a fingerprint, or null where the folder has none that is whole. More words than `inMemory` bytes stay in the file. */
export function readCache(dir: string, fingerprint: string, inMemory = MEMORY_BYTES): CachedData | null {
  const path = cachePath(dir, fingerprint);
  let fd = -1;
  try {
    fd = openSync(path, "r");
    const header = readHeader(fd, fingerprint);
    if (header === null) return null;
    const { samples, words, content, skipped, problems } = header;
    const index = new Uint8Array(INDEX_BYTES * samples);
    if (readFully(fd, index, MAGIC.length + 4 * words) < index.length) return null;
    if (hexHash(index) !== header.indexHash) return null;
    const parts = emptyIndex(samples, index.buffer);
    let store: TokenStore;
    if (4 * words <= inMemory) {
      const held = new Int32Array(words);
      if (hashWords(fd, words, held) !== header.wordsHash) return null;
      store = new MemoryStore({ index: parts, words: held });
    } else {
      if (hashWords(fd, words, null) !== header.wordsHash) return null;
      store = new FileStore(path, fd, MAGIC.length, parts);
      fd = -1; // the store's from here on
    }
    if (store.starts[samples] !== words) return null;
    return { stores: [store], content, skipped, problems, notes: header.notes as EncodingNotes };
  } catch {
    return null;
  } finally {
    if (fd >= 0) closeSync(fd);
  }
}

/** Throws, or gives null, where the file is not whole as far as its header goes. */
function readHeader(fd: number, fingerprint: string): Header | null {
  const { size } = fstatSync(fd);
  const magic = new Uint8Array(MAGIC.length);
  readFully(fd, magic, 0);
  if (Buffer.from(magic).toString("latin1") !== MAGIC) return null;
  const tail = new DataView(new ArrayBuffer(TAIL_BYTES));
  readFully(fd, new Uint8Array(tail.buffer), size - TAIL_BYTES);
  const length = Number(tail.getBigUint64(0, true));
  if (length > size) return null;
  const bytes = new Uint8Array(length);
  readFully(fd, bytes, size - TAIL_BYTES - length);
  if (Bun.hash.xxHash64(bytes) !== tail.getBigUint64(8, true)) return null;
  const header = v.parse(HeaderSchema, JSON.parse(new TextDecoder().decode(bytes)) as unknown);
  const { samples, words } = header;
  const expected = MAGIC.length + 4 * words + INDEX_BYTES * samples + length + TAIL_BYTES;
  return header.fingerprint === fingerprint && size === expected ? header : null;
}

/** The hash of a file's words, which `into` keeps where it is given. */
function hashWords(fd: number, words: number, into: Int32Array | null): string | null {
  const hash = new WordsHash();
  const buffer = new Uint8Array(into?.buffer ?? new ArrayBuffer(Math.min(PIECE_BYTES, 4 * words)));
  for (let at = 0; at < 4 * words; at += PIECE_BYTES) {
    const length = Math.min(PIECE_BYTES, 4 * words - at);
    const piece = into === null ? buffer.subarray(0, length) : buffer.subarray(at, at + length);
    if (readFully(fd, piece, MAGIC.length + at) < length) return null;
    hash.update(piece);
  }
  return hash.digest();
}

/** xxHash64 over bytes that come in parts of any size: of pieces, each one's hash the seed of the next. */
class WordsHash {
  #hash = 0n;
  readonly #piece = new Uint8Array(PIECE_BYTES);
  #filled = 0;

  update(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; ) {
      const part = bytes.subarray(at, at + PIECE_BYTES - this.#filled);
      at += part.length;
      if (part.length === PIECE_BYTES) {
        this.#hash = Bun.hash.xxHash64(part, this.#hash);
        continue;
      }
      this.#piece.set(part, this.#filled);
      this.#filled += part.length;
      if (this.#filled < PIECE_BYTES) continue;
      this.#hash = Bun.hash.xxHash64(this.#piece, this.#hash);
      this.#filled = 0;
    }
  }

  digest(): string {
    const rest = this.#piece.subarray(0, this.#filled);
    return (rest.length === 0 ? this.#hash : Bun.hash.xxHash64(rest, this.#hash)).toString(16);
  }
}

function hexHash(bytes: Uint8Array): string {
  return Bun.hash.xxHash64(bytes).toString(16);
}

/** What the cache keeps beside the samples. */
export type CacheRecord = Pick<CachedData, "skipped" | "problems" | "notes">;

/** Keeps the data of a fingerprint: whole after `commit`, or not at all. A failure of the disk only ends the writing. */
export class CacheWriter {
  /** Why nothing more is written, or null. */
  failure: unknown = null;
  readonly #fingerprint: string;
  readonly #path: string;
  readonly #part: string;
  readonly #indexes: SampleIndex[] = [];
  #joined: SampleIndex | null = null;
  readonly #hash = new WordsHash();
  readonly #content = new Bun.CryptoHasher("sha256");
  #fd = -1;
  #words = 0;
  /** The file lies under its `.part` name. */
  #named = false;

  constructor(dir: string, fingerprint: string) {
    this.#fingerprint = fingerprint;
    this.#path = cachePath(dir, fingerprint);
    // a process in another container may have the same number, and the same cache
    this.#part = `${this.#path}.${randomUUID()}.part`;
    this.#try(() => {
      mkdirSync(join(dir, "tokens"), { recursive: true });
      removeStale(join(dir, "tokens"));
      this.#fd = openSync(this.#part, "wx+");
      this.#named = true;
      writeAll(this.#fd, Buffer.from(MAGIC));
    });
  }

  append({ index, words }: TokenBlock): void {
    this.#try(() => {
      const bytes = new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
      writeAll(this.#fd, bytes);
      this.#hash.update(bytes);
      this.#content.update(bytes);
      this.#indexes.push(index);
      this.#words += words.length;
    });
  }

  /** Gives the file its name. The SHA-256 of all words, or null where they are not all there. */
  commit({ skipped, problems, notes }: CacheRecord): string | null {
    let content: string | null = null;
    this.#try(() => {
      const parts = this.#index();
      const index = new Uint8Array(parts.hashes.buffer as ArrayBuffer);
      const digest = this.#content.digest("hex");
      const header: Header = {
        fingerprint: this.#fingerprint,
        samples: parts.lengths.length,
        words: this.#words,
        wordsHash: this.#hash.digest(),
        indexHash: hexHash(index),
        content: digest,
        skipped,
        problems,
        notes: notes as Header["notes"],
      };
      const json = Buffer.from(JSON.stringify(header));
      const tail = Buffer.alloc(TAIL_BYTES);
      tail.writeBigUInt64LE(BigInt(json.length), 0);
      tail.writeBigUInt64LE(Bun.hash.xxHash64(json), 8);
      for (const bytes of [index, json, tail]) writeAll(this.#fd, bytes);
      renameSync(this.#part, this.#path);
      this.#named = false;
      content = digest;
    });
    return content;
  }

  /** The samples of the first `blocks` appended, or of all, read from the file, which is the store's from here on. */
  store(blocks?: number): TokenStore {
    this.#removePart();
    const index = blocks === undefined ? this.#index() : joinIndexes(this.#indexes.slice(0, blocks));
    const store = new FileStore(this.#path, this.#fd, MAGIC.length, index);
    this.#fd = -1;
    return store;
  }

  /** Ends the writing; without a commit before, nothing is left. */
  close(): void {
    this.#removePart();
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }

  #index(): SampleIndex {
    this.#joined ??= joinIndexes(this.#indexes);
    return this.#joined;
  }

  #removePart(): void {
    if (!this.#named) return;
    this.#named = false;
    try {
      unlinkSync(this.#part);
    } catch {
      // somebody removed it
    }
  }

  #try(write: () => void): void {
    if (this.failure !== null) return;
    try {
      write();
    } catch (error) {
      this.failure = error;
      // what is written already can still be read
      this.#removePart();
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
