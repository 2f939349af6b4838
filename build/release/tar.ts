// A gzipped tar whose bytes follow from its files alone: sorted names, one time, root as owner, no host's traits.

import { gzipped } from "./deflate.ts";

export interface Entry {
  /** Path inside the archive, with "/" between its parts. */
  path: string;
  bytes: Uint8Array;
  isExecutable?: boolean;
}

const BLOCK = 512;

/** One file's header (POSIX ustar). Throws where the name or size does not fit. */
function header({ path, bytes, isExecutable }: Entry, seconds: number): Buffer {
  const block = Buffer.alloc(BLOCK);
  const text = (value: string, at: number, length: number) => {
    if (Buffer.byteLength(value) > length) throw new Error(`${path}: ${value} is too long for a tar`);
    block.write(value, at);
  };
  const octal = (value: number, at: number, length: number) =>
    text(value.toString(8).padStart(length - 1, "0"), at, length);
  const cut = Buffer.byteLength(path) > 100 ? path.indexOf("/", path.length - 101) : -1;
  text(cut < 0 ? path : path.slice(cut + 1), 0, 100);
  octal(isExecutable === true ? 0o755 : 0o644, 100, 8);
  octal(0, 108, 8); // user
  octal(0, 116, 8); // group
  octal(bytes.length, 124, 12);
  octal(seconds, 136, 12);
  text(" ".repeat(8), 148, 8); // the checksum counts itself as spaces
  text("0", 156, 1); // a regular file
  text("ustar\0" + "00", 257, 8);
  text("root", 265, 32);
  text("root", 297, 32);
  if (cut >= 0) text(path.slice(0, cut), 345, 155);
  const sum = block.reduce((total, byte) => total + byte, 0);
  text(`${sum.toString(8).padStart(6, "0")}\0 `, 148, 8);
  return block;
}

/** Orders names by their bytes, in any locale. */
const byPath = (a: { path: string }, b: { path: string }): number =>
  Buffer.compare(Buffer.from(a.path), Buffer.from(b.path));

/** The archive of `entries`, each of them modified `seconds` after 1970. */
export function tarGz(entries: readonly Entry[], seconds: number): Buffer {
  const blocks: Uint8Array[] = [];
  for (const entry of [...entries].sort(byPath)) {
    const rest = (BLOCK - (entry.bytes.length % BLOCK)) % BLOCK;
    blocks.push(header(entry, seconds), entry.bytes, Buffer.alloc(rest));
  }
  blocks.push(Buffer.alloc(2 * BLOCK));
  return gzipped(blocks);
}
