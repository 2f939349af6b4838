// Tokenised data on disk, one file a fingerprint. A cache: whatever is wrong with a file or the folder, the data is
// tokenised again, and not being able to write is no error.
//
//   "NFTKNS01", uint32 header bytes, header (JSON, padded with spaces to a multiple of 4), then little-endian
//   starts uint32 [samples + 1], ids int32 [tokens], labels int32 [tokens], truncated uint8 [samples],
//   uint64 xxHash64 of all bytes before it

import { mkdirSync, readFileSync, renameSync, unlinkSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import * as v from "valibot";
import type { TokenStore } from "./token-store.ts";

const MAGIC = "NFTKNS01";
const FIXED = MAGIC.length + 4;
const CHECKSUM = 8;

const HeaderSchema = v.object({
  fingerprint: v.string(),
  samples: v.pipe(v.number(), v.integer(), v.minValue(0)),
  tokens: v.pipe(v.number(), v.integer(), v.minValue(0)),
  skipped: v.pipe(v.number(), v.integer(), v.minValue(0)),
  problems: v.array(v.string()),
});

export interface CachedData {
  store: TokenStore;
  skipped: number;
  /** `:line: row n: what is wrong`, to go behind the file's path: the same bytes may lie under another tomorrow. */
  problems: string[];
}

/** Where tokenised data is kept when nobody names a folder. */
export function defaultCacheDir(env: Record<string, string | undefined> = process.env): string {
  const base = env.XDG_CACHE_HOME;
  return base?.startsWith("/") ? join(base, "neftune") : join(homedir(), ".cache", "neftune");
}

function cachePath(dir: string, fingerprint: string): string {
  return join(dir, "tokens", `${fingerprint}.bin`);
}

/** The data of a fingerprint, or null where the folder has none that is whole. */
export function readCache(dir: string, fingerprint: string): CachedData | null {
  let file: Buffer;
  try {
    file = readFileSync(cachePath(dir, fingerprint));
  } catch {
    return null;
  }
  if (file.length < FIXED + CHECKSUM || file.subarray(0, MAGIC.length).toString("latin1") !== MAGIC)
    return null;
  const body = file.subarray(0, file.length - CHECKSUM);
  if (Bun.hash.xxHash64(body) !== file.readBigUInt64LE(body.length)) return null;

  const headerBytes = file.readUInt32LE(MAGIC.length);
  let header: v.InferOutput<typeof HeaderSchema>;
  try {
    header = v.parse(
      HeaderSchema,
      JSON.parse(file.subarray(FIXED, FIXED + headerBytes).toString("utf8")) as unknown,
    );
  } catch {
    return null;
  }
  const { samples, tokens, skipped, problems } = header;
  const size = FIXED + headerBytes + 4 * (samples + 1) + 8 * tokens + samples;
  if (header.fingerprint !== fingerprint || size !== body.length) return null;

  // a copy of its own: a small file's buffer may lie anywhere in a pool
  const data = file.buffer.slice(file.byteOffset + FIXED + headerBytes, file.byteOffset + size);
  const ids = 4 * (samples + 1);
  const labels = ids + 4 * tokens;
  const store: TokenStore = {
    starts: new Uint32Array(data, 0, samples + 1),
    ids: new Int32Array(data, ids, tokens),
    labels: new Int32Array(data, labels, tokens),
    truncated: new Uint8Array(data, labels + 4 * tokens, samples),
  };
  return { store, skipped, problems };
}

/** Keeps the data of a fingerprint: whole, or not at all. */
export function writeCache(dir: string, fingerprint: string, data: CachedData): void {
  const { store, skipped, problems } = data;
  const { starts, ids, labels, truncated } = store;
  const header = { fingerprint, samples: truncated.length, tokens: ids.length, skipped, problems };
  const text = Buffer.from(JSON.stringify(header));
  const padded = Buffer.alloc(Math.ceil(text.length / 4) * 4, " ");
  text.copy(padded);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(padded.length);
  const body = Buffer.concat([
    Buffer.from(MAGIC),
    length,
    padded,
    ...[starts, ids, labels, truncated].map((part) =>
      Buffer.from(part.buffer, part.byteOffset, part.byteLength),
    ),
  ]);
  const checksum = Buffer.alloc(CHECKSUM);
  checksum.writeBigUInt64LE(Bun.hash.xxHash64(body));

  const path = cachePath(dir, fingerprint);
  const part = `${path}.${process.pid}.part`;
  try {
    mkdirSync(join(dir, "tokens"), { recursive: true });
    writeFileSync(part, Buffer.concat([body, checksum]));
    renameSync(part, path);
  } catch {
    try {
      unlinkSync(part);
    } catch {
      // it was never made
    }
  }
}
