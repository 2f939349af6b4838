// A data file's bytes as a stream, unpacked where they are gzip or zstd. Owns the open file: a consumer that stops
// early closes it by leaving its loop.

import { closeSync, createReadStream, fstatSync, openSync, readSync, statSync } from "node:fs";
import { type Duplex, pipeline } from "node:stream";
import { constants, createGunzip, createZstdDecompress } from "node:zlib";
import { FormatError, InterruptedError, NeftuneError } from "../../errors.ts";
import { ioError } from "../../formats/io.ts";
import { expectNoLfsPointer } from "../../formats/lfs.ts";
import { expectWholeZstd } from "./zstd-frames.ts";

const CHUNK_BYTES = 1 << 20;
/** Enough for the first bytes of every kind, and to tell a Git LFS pointer from a CSV whose first column is "version". */
const HEAD_BYTES = 32;

export type Packing = "none" | "gzip" | "zstd";

/** What a file is by its first bytes, whatever its name says. */
export interface FileKind {
  bytes: number;
  packing: Packing;
  parquet: boolean;
}

const KNOWN_KINDS: readonly (readonly [start: string, kind: string])[] = [
  ["PK\x03\x04", "a ZIP archive; unpack it first"],
  ["BZh", "bzip2; unpack it, or pack it with gzip or zstd"],
  ["\xfd7zXZ\x00", "xz; unpack it, or pack it with gzip or zstd"],
  ["ARROW1\x00\x00", "an Arrow file; write the rows as Parquet or JSON Lines"],
];

/** Looks at a data file. Throws NeftuneError where it is missing, a folder, or of a kind that is not read. */
export function fileKind(path: string): FileKind {
  let head: Buffer;
  let bytes: number;
  try {
    const fd = openSync(path, "r");
    try {
      const stat = fstatSync(fd);
      if (stat.isDirectory()) throw Object.assign(new Error("is a folder"), { code: "EISDIR" });
      bytes = stat.size;
      head = Buffer.alloc(HEAD_BYTES);
      head = head.subarray(0, readSync(fd, head, 0, HEAD_BYTES, stat.isFile() ? 0 : null));
      if (!stat.isFile())
        throw new FormatError(path, "is not a regular file; a data file is read more than once");
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    throw openingError(path, error);
  }
  expectNoLfsPointer(path, head);
  const start = head.toString("latin1");
  const known = KNOWN_KINDS.find(([magic]) => start.startsWith(magic));
  if (known !== undefined) throw new FormatError(path, `is ${known[1]}`);
  const packing = start.startsWith("\x1f\x8b")
    ? "gzip"
    : start.startsWith("\x28\xb5\x2f\xfd")
      ? "zstd"
      : "none";
  return { bytes, packing, parquet: start.startsWith("PAR1") };
}

/**
 * The bytes of a file, unpacked, in chunks. Throws FormatError where packed bytes are damaged or cut short,
 * InterruptedError once `signal` aborts: few packed bytes may be many chunks without a row.
 */
export async function* readBytes(
  path: string,
  packing: Packing,
  signal?: AbortSignal,
): AsyncGenerator<Buffer, void, void> {
  if (packing === "zstd") expectWholeZstd(path);
  const file = createReadStream(path, { highWaterMark: CHUNK_BYTES });
  if (packing === "none") {
    try {
      for await (const chunk of file) {
        expectGoingOn(signal);
        yield chunk as Buffer;
      }
    } catch (error) {
      throw openingError(path, error);
    } finally {
      file.destroy();
    }
    return;
  }
  const unpack: Duplex =
    packing === "gzip"
      ? createGunzip({ chunkSize: CHUNK_BYTES })
      : createZstdDecompress({
          chunkSize: CHUNK_BYTES,
          // what zstd --long=31 writes is read too
          params: { [constants.ZSTD_d_windowLogMax]: 31 },
        });
  // The error reaches the loop below through `unpack`, which pipeline destroys with it.
  const unpacked = pipeline(file, unpack, () => {});
  try {
    for await (const chunk of unpacked) {
      expectGoingOn(signal);
      yield chunk as Buffer;
    }
  } catch (error) {
    if (error instanceof NeftuneError) throw error;
    const code = (error as NodeJS.ErrnoException).code ?? "";
    if (/^E[A-Z]+$/.test(code)) throw openingError(path, error);
    throw new FormatError(
      path,
      `its ${packing} data is damaged or cut short (${(error as Error).message}); fetch or pack it again`,
      { cause: error },
    );
  } finally {
    file.destroy();
    unpack.destroy();
  }
}

/** Changes when a file is written to. Throws NeftuneError where it is gone. */
export function fileVersion(path: string): string {
  try {
    const { size, mtimeMs, ino } = statSync(path);
    return `${size} ${mtimeMs} ${ino}`;
  } catch (error) {
    throw openingError(path, error);
  }
}

export function expectGoingOn(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw new InterruptedError("stopped while the data was read");
}

/** SHA-256, in hex, of a file's bytes as they lie on disk. */
export async function fileSha256(path: string, signal?: AbortSignal): Promise<string> {
  const hasher = new Bun.CryptoHasher("sha256");
  for await (const chunk of readBytes(path, "none", signal)) hasher.update(chunk);
  return hasher.digest("hex");
}

function openingError(path: string, error: unknown): unknown {
  if (error instanceof NeftuneError) return error;
  const code = (error as NodeJS.ErrnoException).code;
  if (code === "ENOENT")
    return new NeftuneError("dataset", `dataset ${path}: no such file`, { cause: error });
  if (code === "EISDIR") {
    return new NeftuneError("dataset", `dataset ${path} is a folder; expected a file`, { cause: error });
  }
  return ioError(path, "read", error);
}
