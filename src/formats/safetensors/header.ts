// The header of a safetensors file: 8 bytes of length (little-endian), then that many bytes of JSON, then the
// data. Everything the header claims is checked here against the file's size, so that who reads a tensor by
// its entry stays inside the file. Format: https://github.com/huggingface/safetensors#format
import { about, FormatError } from "../../errors.ts";
import { expectNoLfsPointer } from "../lfs.ts";
import {
  isSafetensorsDType,
  SAFETENSORS_DTYPES,
  type SafetensorsDType,
  showShape,
  tensorBytes,
} from "./dtype.ts";
import { JsonError, JsonScanner, quote } from "./json.ts";

export interface TensorEntry {
  name: string;
  dtype: SafetensorsDType;
  shape: number[];
  /** Offset of the first byte in the file. */
  begin: number;
  /** Offset after the last byte in the file. */
  end: number;
}

export interface SafetensorsHeader {
  path: string;
  /** The strings of `__metadata__`; empty where the file has none. */
  metadata: Map<string, string>;
  /** In the header's order. */
  tensors: Map<string, TensorEntry>;
  /** Where the data section begins; `TensorEntry` offsets count from the file's start all the same. */
  dataStart: number;
  fileBytes: number;
}

export const LENGTH_BYTES = 8;
/** The reference implementation's limit. */
export const MAX_HEADER_BYTES = 100_000_000;

/**
 * The length of the JSON header, from the first 8 bytes of a file of `fileBytes`.
 * Throws FormatError where no header of that length can be there.
 */
export function headerLength(path: string, firstBytes: Uint8Array, fileBytes: number): number {
  if (fileBytes < LENGTH_BYTES || firstBytes.length < LENGTH_BYTES) {
    throw new FormatError(
      path,
      `too short for a safetensors file: ${Math.min(fileBytes, firstBytes.length)} bytes, and the header's length alone takes ${LENGTH_BYTES}`,
    );
  }
  expectNoLfsPointer(path, firstBytes.subarray(0, LENGTH_BYTES));
  const view = new DataView(firstBytes.buffer, firstBytes.byteOffset, LENGTH_BYTES);
  const length = view.getBigUint64(0, true);
  if (length === 0n) throw new FormatError(path, "header length is 0; expected a JSON header");
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw new FormatError(
      path,
      `header length is ${length} bytes, over the limit of ${MAX_HEADER_BYTES}; this is probably not a safetensors file`,
    );
  }
  if (length > BigInt(fileBytes - LENGTH_BYTES)) {
    throw new FormatError(
      path,
      `header length is ${length} bytes, but only ${fileBytes - LENGTH_BYTES} follow: the file is truncated`,
    );
  }
  return Number(length);
}

/**
 * Reads and checks a header. `bytes` starts at the file's start and holds at least the whole header;
 * `fileBytes` is the size of the whole file. Throws FormatError, naming the tensor and what is wrong.
 */
export function parseSafetensorsHeader(
  path: string,
  bytes: Uint8Array,
  fileBytes: number,
): SafetensorsHeader {
  const length = headerLength(path, bytes, fileBytes);
  const dataStart = LENGTH_BYTES + length;
  if (bytes.length < dataStart) {
    throw new FormatError(
      path,
      `header of ${length} bytes, but only ${bytes.length - LENGTH_BYTES} could be read`,
    );
  }
  try {
    const { metadata, tensors } = parseHeaderJson(decode(bytes.subarray(LENGTH_BYTES, dataStart)));
    checkLayout(tensors, fileBytes - dataStart);
    for (const entry of tensors.values()) {
      entry.begin += dataStart;
      entry.end += dataStart;
    }
    return { path, metadata, tensors, dataStart, fileBytes };
  } catch (error) {
    if (error instanceof JsonError) throw new FormatError(path, `header: ${error.message}`);
    throw error;
  }
}

function decode(bytes: Uint8Array): string {
  if (bytes[0] !== 0x7b) throw new JsonError('must start with "{"');
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new JsonError("not valid UTF-8");
  }
}

function parseHeaderJson(text: string): Pick<SafetensorsHeader, "metadata" | "tensors"> {
  const json = new JsonScanner(text);
  let metadata = new Map<string, string>();
  const tensors = new Map<string, TensorEntry>();
  json.object((name) => {
    if (name === "__metadata__") metadata = parseMetadata(json);
    else tensors.set(name, parseEntry(json, name));
  });
  json.end();
  return { metadata, tensors };
}

/** An object of strings; null stands for an empty one, as in the reference implementation. */
function parseMetadata(json: JsonScanner): Map<string, string> {
  if (json.peek() === "null") {
    json.value();
    return new Map();
  }
  if (json.peek() !== "object") {
    throw new JsonError(`__metadata__ must be an object of strings, found ${describe(json)}`);
  }
  const metadata = new Map<string, string>();
  inside("__metadata__", () =>
    json.object((key) => {
      if (json.peek() !== "string")
        throw new JsonError(`${quote(key)} must be a string, found ${describe(json)}`);
      metadata.set(key, json.string());
    }),
  );
  return metadata;
}

/** One tensor's entry, its offsets still relative to the data section. */
function parseEntry(json: JsonScanner, name: string): TensorEntry {
  return inside(`tensor ${quote(name)}`, () => {
    if (json.peek() !== "object") throw new JsonError(`must be an object, found ${describe(json)}`);
    let dtype: SafetensorsDType | undefined;
    let shape: number[] | undefined;
    let offsets: number[] | undefined;
    json.object((key) => {
      if (key === "dtype") dtype = parseDType(json);
      else if (key === "shape") shape = parseSizes(json, "shape");
      else if (key === "data_offsets") offsets = parseSizes(json, "data_offsets");
      else json.skip(); // as the reference implementation does
    });
    if (dtype === undefined) throw new JsonError("dtype is missing");
    if (shape === undefined) throw new JsonError("shape is missing");
    if (offsets === undefined) throw new JsonError("data_offsets is missing");
    const [begin, end] = offsets;
    if (begin === undefined || end === undefined || offsets.length !== 2) {
      throw new JsonError(`data_offsets must be [begin, end], found ${offsets.length} numbers`);
    }
    if (end < begin) throw new JsonError(`data_offsets [${offsets}] are reversed`);
    return { name, dtype, shape, begin, end };
  });
}

function parseDType(json: JsonScanner): SafetensorsDType {
  if (json.peek() !== "string") throw new JsonError(`dtype must be a string, found ${describe(json)}`);
  const dtype = json.string();
  if (!isSafetensorsDType(dtype)) {
    throw new JsonError(`unknown dtype ${quote(dtype)}; known are ${SAFETENSORS_DTYPES.join(", ")}`);
  }
  return dtype;
}

function parseSizes(json: JsonScanner, key: string): number[] {
  const wanted = `${key} must be an array of non-negative integers`;
  if (json.peek() !== "array") throw new JsonError(`${wanted}, found ${describe(json)}`);
  const sizes: number[] = [];
  json.array((index) => {
    if (json.peek() !== "number") throw new JsonError(`${wanted}, found ${describe(json)} at index ${index}`);
    const written = json.number();
    if (!/^[0-9]+$/.test(written))
      throw new JsonError(`${wanted}, found ${written.slice(0, 40)} at index ${index}`);
    const size = Number(written);
    if (!Number.isSafeInteger(size)) {
      throw new JsonError(`${key} has the number ${written.slice(0, 40)}, which is 2^53 or more`);
    }
    sizes.push(size);
  });
  return sizes;
}

/** The tensors must cover the data section of `dataBytes` in one piece, each with the bytes its shape asks for. */
function checkLayout(tensors: Map<string, TensorEntry>, dataBytes: number): void {
  const ordered = [...tensors.values()].sort((a, b) => a.begin - b.begin || a.end - b.end);
  let covered = 0;
  let previous = "";
  for (const { name, dtype, shape, begin, end } of ordered) {
    const tensor = `tensor ${quote(name)}`;
    const needed = tensorBytes(dtype, shape);
    if (typeof needed === "string") throw new JsonError(about(tensor, needed));
    if (end - begin !== needed) {
      throw new JsonError(
        `${tensor}: ${dtype} ${showShape(shape)} takes ${needed} bytes, but data_offsets [${begin},${end}] hold ${end - begin}`,
      );
    }
    if (end > dataBytes) {
      throw new JsonError(
        `${tensor}: data_offsets [${begin},${end}] go beyond the data section of ${dataBytes} bytes: the file is truncated or the offsets are wrong`,
      );
    }
    if (begin < covered)
      throw new JsonError(`${tensor}: data_offsets [${begin},${end}] overlap those of ${previous}`);
    if (begin > covered) {
      throw new JsonError(
        `${tensor}: data_offsets [${begin},${end}] leave a hole: bytes ${covered} to ${begin} of the data belong to no tensor`,
      );
    }
    covered = end;
    previous = tensor;
  }
  if (covered !== dataBytes) {
    throw new JsonError(
      `the tensors cover ${covered} bytes, but the data section has ${dataBytes}: ${dataBytes - covered} bytes too many`,
    );
  }
}

/** The kind of the next value, with its article. */
function describe(json: JsonScanner): string {
  const kind = json.peek();
  if (kind === "null") return "null";
  return kind === "object" || kind === "array" ? `an ${kind}` : `a ${kind}`;
}

/** Says in the message where an error inside `read` was. */
function inside<T>(where: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (error instanceof JsonError) throw new JsonError(about(where, error.message));
    throw error;
  }
}
