// JSON files beside the weights: index and adapter_config. Small, and as untrusted as the weights.
import { readFileSync, statSync } from "node:fs";
import { FormatError } from "../errors.ts";
import { ioError } from "./io.ts";
import { expectNoLfsPointer } from "./lfs.ts";
import { JsonError, type JsonValue, parseJson } from "./safetensors/json.ts";

const MAX_BYTES = 256 * 1024 * 1024;
const MAX_DEPTH = 64;

/** The text of a JSON file. Throws FormatError where the file is too large, not UTF-8, or a Git LFS pointer; NeftuneError ("io"). */
export function readJsonText(path: string): string {
  let bytes: Uint8Array;
  try {
    const status = statSync(path);
    if (status.isFile() && status.size > MAX_BYTES) {
      throw new FormatError(path, `${status.size} bytes; expected a JSON file of at most ${MAX_BYTES}`);
    }
    bytes = readFileSync(path);
  } catch (error) {
    throw ioError(path, "read", error);
  }
  expectNoLfsPointer(path, bytes);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new FormatError(path, "not valid UTF-8");
  }
}

/** Throws FormatError where a value that was read from `path` is nested more than 64 deep; no model's file is. */
export function expectShallow(path: string, value: unknown): void {
  if (isDeeper(value, MAX_DEPTH)) throw new FormatError(path, `nested more than ${MAX_DEPTH} deep`);
}

function isDeeper(value: unknown, depth: number): boolean {
  if (typeof value !== "object" || value === null) return false;
  return depth === 0 || Object.values(value).some((item) => isDeeper(item, depth - 1));
}

/** Reads a file that holds one JSON object. Throws FormatError, or NeftuneError ("io"). */
export function readJsonObject(path: string): Map<string, JsonValue> {
  const text = readJsonText(path);
  try {
    const value = parseJson(text);
    if (value instanceof Map) return value;
  } catch (error) {
    if (error instanceof JsonError) throw new FormatError(path, error.message);
    throw error;
  }
  throw new FormatError(path, "expected a JSON object");
}
