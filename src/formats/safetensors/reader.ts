// Reads safetensors files: the header alone, or one tensor's bytes. Large weights do not come this way: they
// are mapped by native code at the offsets that the header gives.
import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";
import { FormatError, NeftuneError } from "../../errors.ts";
import { ioError, MAX_TRANSFER_BYTES } from "../io.ts";
import {
  headerLength,
  LENGTH_BYTES,
  parseSafetensorsHeader,
  type SafetensorsHeader,
  type TensorEntry,
} from "./header.ts";

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
  const entry = expectTensor(header, name);
  return withFile(header.path, (fd) => {
    const bytes = new Uint8Array(entry.end - entry.begin);
    const read = readAt(fd, bytes, entry.begin);
    if (read !== bytes.length) throw shortened(header.path, name, bytes.length, entry.begin, read);
    return bytes;
  });
}

/** Some bytes of one tensor, `from` its first byte on. */
export function readTensorPart(
  header: SafetensorsHeader,
  name: string,
  from: number,
  length: number,
): Uint8Array {
  const { begin } = expectTensor(header, name);
  const bytes = new Uint8Array(length);
  const read = withFile(header.path, (fd) => readAt(fd, bytes, begin + from));
  if (read !== length) throw shortened(header.path, name, length, begin + from, read);
  return bytes;
}

/**
 * The bytes of one tensor in pieces of at most `pieceBytes`, one after the other in the same buffer: a piece is gone when
 * the next is asked for.
 */
export function* readTensorPieces(
  header: SafetensorsHeader,
  name: string,
  pieceBytes: number,
): Generator<Uint8Array<ArrayBuffer>, void, void> {
  const { path } = header;
  const { begin, end } = expectTensor(header, name);
  const buffer = new Uint8Array(Math.min(pieceBytes, end - begin));
  for (let at = begin; at < end; at += pieceBytes) {
    const piece = buffer.subarray(0, Math.min(pieceBytes, end - at));
    const read = withFile(path, (fd) => readAt(fd, piece, at));
    if (read !== piece.length) throw shortened(path, name, piece.length, at, read);
    yield piece;
  }
}

function expectTensor(header: SafetensorsHeader, name: string): TensorEntry {
  const entry = header.tensors.get(name);
  if (entry !== undefined) return entry;
  throw new NeftuneError(
    "tensor_not_found",
    `${header.path}: no tensor ${JSON.stringify(name)} among its ${header.tensors.size}; neftune inspect lists them`,
  );
}

function shortened(path: string, name: string, expected: number, at: number, read: number): FormatError {
  return new FormatError(
    path,
    `tensor ${JSON.stringify(name)}: ${expected} bytes at ${at} expected, ${read} read: the file has become shorter since it was opened`,
  );
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
