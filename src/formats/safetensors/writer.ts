// Writes safetensors files, byte for byte as the reference implementation (0.8) does with at most one metadata
// key; with more, ours are sorted, where its order changes from run to run.
import { NeftuneError } from "../../errors.ts";
import { finish, type Steps } from "../../steps.ts";
import { writeAll, writeAllAt, writeFileInSteps } from "../io.ts";
import { dtypeRank, isSafetensorsDType, type SafetensorsDType, showShape, tensorBytes } from "./dtype.ts";
import { LENGTH_BYTES, MAX_HEADER_BYTES } from "./header.ts";

/** A tensor to write. A function as `data` is called when its turn comes, so that one tensor is held at a time. */
export interface TensorSource {
  name: string;
  dtype: SafetensorsDType;
  shape: readonly number[];
  /** The elements, little-endian, row-major; in pieces, one is held at a time. */
  data: Uint8Array | (() => Uint8Array | Iterable<Uint8Array>);
}

/** What to write: tensors, and lists of tensors that are made together: their data is asked for one after the other. */
export type TensorSources = Iterable<TensorSource | readonly TensorSource[]>;

/** The lists in `sources`, lone tensors as lists of one. */
export function sourceGroups(sources: TensorSources): (readonly TensorSource[])[] {
  return [...sources].map((source) => ("name" in source ? [source] : source));
}

/**
 * Writes `tensors` to `path`: whole, or not at all. Equal input gives equal bytes: tensors are ordered by
 * dtype (largest first), then by name; the header is padded with spaces to a multiple of 8 bytes.
 * Throws NeftuneError: "invalid_tensor" for a tensor that is not what it says, "io" for a full disk and such.
 */
export function writeSafetensors(
  path: string,
  tensors: TensorSources,
  metadata?: ReadonlyMap<string, string> | Readonly<Record<string, string>>,
): void {
  finish(writeSafetensorsInSteps(path, tensors, metadata));
}

/** `writeSafetensors`, a tensor (of one in pieces, a piece) at a time. */
export function* writeSafetensorsInSteps(
  path: string,
  tensors: TensorSources,
  metadata?: ReadonlyMap<string, string> | Readonly<Record<string, string>>,
): Steps<void> {
  const groups = sourceGroups(tensors);
  const ordered = groups
    .flat()
    .sort((a, b) => dtypeRank(b.dtype) - dtypeRank(a.dtype) || compareBytes(a.name, b.name));
  const header = encodeHeader(path, ordered, metadata);
  const places = new Map<TensorSource, number>();
  let end = header.length;
  for (const tensor of ordered) {
    places.set(tensor, end);
    end += sourceBytes(path, tensor);
  }
  const firstPlace = (group: readonly TensorSource[]) =>
    group.reduce((least, tensor) => Math.min(least, places.get(tensor)!), Number.POSITIVE_INFINITY);
  // Where each stands alone, the file is written from its start to its end.
  groups.sort((a, b) => firstPlace(a) - firstPlace(b));
  yield* writeFileInSteps(path, function* (fd) {
    writeAll(fd, header);
    for (const tensor of groups.flat()) yield* writeTensor(fd, path, tensor, places.get(tensor)!);
  });
}

function* writeTensor(fd: number, path: string, tensor: TensorSource, place: number): Steps<void> {
  const data = typeof tensor.data === "function" ? tensor.data() : tensor.data;
  const expected = sourceBytes(path, tensor);
  let got = 0;
  for (const piece of data instanceof Uint8Array ? [data] : data) {
    // More than expected would be written over the next tensor.
    if (got + piece.length <= expected) writeAllAt(fd, piece, place + got);
    got += piece.length;
    yield;
  }
  if (got !== expected) {
    throw invalid(
      path,
      tensor.name,
      `${tensor.dtype} ${showShape(tensor.shape)} takes ${expected} bytes, got ${got}`,
    );
  }
}

/** The bytes a tensor will take; throws "invalid_tensor" where dtype and shape do not make a tensor. */
export function sourceBytes(path: string, { name, dtype, shape }: Omit<TensorSource, "data">): number {
  if (!isSafetensorsDType(dtype)) throw invalid(path, name, `unknown dtype ${dtype}`);
  if (!shape.every((size) => Number.isSafeInteger(size) && size >= 0)) {
    throw invalid(path, name, `shape ${showShape(shape)} must be of non-negative integers`);
  }
  const bytes = tensorBytes(dtype, shape);
  if (typeof bytes === "string") throw invalid(path, name, bytes);
  return bytes;
}

function encodeHeader(
  path: string,
  ordered: readonly TensorSource[],
  metadata: ReadonlyMap<string, string> | Readonly<Record<string, string>> = new Map(),
): Uint8Array {
  // Joined by hand: an object literal would lose "__proto__" and reorder names that look like numbers.
  const members: string[] = [];
  const strings = [...(metadata instanceof Map ? metadata : Object.entries(metadata))] as [string, string][];
  if (strings.length > 0) {
    const sorted = strings.sort(([a], [b]) => compareBytes(a, b));
    members.push(
      `"__metadata__":{${sorted.map(([key, value]) => `${text(path, key)}:${text(path, value)}`)}}`,
    );
  }
  const names = new Set<string>();
  let offset = 0;
  for (const { name, dtype, shape } of ordered) {
    if (name === "__metadata__") throw invalid(path, name, "the name is reserved; use another");
    if (names.has(name)) throw invalid(path, name, "two tensors have this name");
    names.add(name);
    const end = offset + sourceBytes(path, { name, dtype, shape });
    members.push(
      `${text(path, name)}:{"dtype":"${dtype}","shape":[${shape}],"data_offsets":[${offset},${end}]}`,
    );
    offset = end;
  }
  const json = new TextEncoder().encode(`{${members.join(",")}}`);
  const padded = Math.ceil(json.length / 8) * 8;
  if (padded > MAX_HEADER_BYTES) {
    throw new NeftuneError(
      "invalid_tensor",
      `${path}: a header of ${padded} bytes, over the format's limit of ${MAX_HEADER_BYTES}`,
    );
  }
  const header = new Uint8Array(LENGTH_BYTES + padded).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(padded), true);
  header.set(json, LENGTH_BYTES);
  return header;
}

function text(path: string, value: string): string {
  if (!value.isWellFormed()) throw invalid(path, value, "holds a lone surrogate, which UTF-8 cannot");
  return JSON.stringify(value);
}

/** The order of UTF-8 bytes, which differs from that of JavaScript strings beyond U+FFFF. */
function compareBytes(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}

function invalid(path: string, name: string, reason: string): NeftuneError {
  return new NeftuneError("invalid_tensor", `${path}: tensor ${JSON.stringify(name)}: ${reason}`);
}
