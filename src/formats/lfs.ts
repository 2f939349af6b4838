// Git LFS leaves a small text in place of a large file until the file itself is fetched.

import { FormatError } from "../errors.ts";

const START = new TextEncoder().encode("version https://git-lfs.github.com/spec/");
/** "version ": enough to tell the pointer from JSON and from the length of a safetensors header. */
const ENOUGH = 8;

/** Throws FormatError where a file that begins with `bytes` is a Git LFS pointer. */
export function expectNoLfsPointer(path: string, bytes: Uint8Array): void {
  const start = START.subarray(0, bytes.length);
  if (bytes.length < ENOUGH || start.some((byte, i) => bytes[i] !== byte)) return;
  throw new FormatError(
    path,
    "is a Git LFS pointer, not the file itself; run git lfs pull in its folder, or download the file",
  );
}
