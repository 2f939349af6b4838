// Reads safetensors files: the header alone, or one tensor's bytes. Large weights do not come this way: they
// are mapped by native code at the offsets that the header gives.
import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";
import { FormatError, NeftuneError } from "../../errors.ts";
import { ioError, MAX_TRANSFER_BYTES } from "../io.ts";
import { headerLength, LENGTH_BYTES, parseSafetensorsHeader, type SafetensorsHeader } from "./header.ts";

/**
 * Reads and checks the header of the file at `path`; the data is not read.
 * Throws FormatError where the file is malformed, NeftuneError ("io") where it cannot be read.
 */
export function readSafetensorsHeader(path: string): SafetensorsHeader {
  return withFile(path, (fd) => {
    const status = fstatSync(fd);
    if (!status.isFile()) throw new FormatError(path, "not a regular file; expected a safetensors file");
    const first = new Uint8Array(LENGTH_BYTES);
    const got = readAt(fd, first, 0);
    const length = headerLength(path, first.subarray(0, got), status.size);
    const bytes = new Uint8Array(LENGTH_BYTES + length);
    const read = readAt(fd, bytes, 0);
    return parseSafetensorsHeader(path, bytes.subarray(0, read), status.size);
  });
}

/** The bytes of one tensor, little-endian as in the file, in a buffer of their own. */
export function readTensorData(header: SafetensorsHeader, name: string): Uint8Array {
  const entry = header.tensors.get(name);
  if (!entry) {
    throw new NeftuneError(
      "tensor_not_found",
      `${header.path}: no tensor ${JSON.stringify(name)} among its ${header.tensors.size}; neftune inspect lists them`,
    );
  }
  return withFile(header.path, (fd) => {
    const bytes = new Uint8Array(entry.end - entry.begin);
    const read = readAt(fd, bytes, entry.begin);
    if (read !== bytes.length) {
      throw new FormatError(
        header.path,
        `tensor ${JSON.stringify(name)}: ${bytes.length} bytes at ${entry.begin} expected, ${read} read: the file has become shorter since it was opened`,
      );
    }
    return bytes;
  });
}

/** Fills `bytes` from the file's `position` on; returns how many there were. */
function readAt(fd: number, bytes: Uint8Array, position: number): number {
  let at = 0;
  while (at < bytes.length) {
    const read = readSync(fd, bytes, at, Math.min(bytes.length - at, MAX_TRANSFER_BYTES), position + at);
    if (read === 0) break;
    at += read;
  }
  return at;
}

function withFile<T>(path: string, use: (fd: number) => T): T {
  try {
    // Without O_NONBLOCK, opening a named pipe would wait for its other end.
    const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      return use(fd);
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    throw ioError(path, "read", error);
  }
}
