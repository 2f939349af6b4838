// Files for the tests of src/formats, made byte by byte, so that the writer under test has no part in them.
import { afterAll } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { NeftuneError } from "../../src/errors.ts";

/** A folder that is removed after the test file. */
export function temporaryFolder(): string {
  const dir = mkdtempSync(join(tmpdir(), "neftune-formats-"));
  afterAll(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** A safetensors file: length, header as given, data. */
export function fileOf(
  header: string | Uint8Array,
  data: number | Uint8Array = 0,
  length?: bigint,
): Uint8Array {
  const json = typeof header === "string" ? new TextEncoder().encode(header) : header;
  const body = typeof data === "number" ? Uint8Array.from({ length: data }, (_, i) => i & 255) : data;
  const bytes = new Uint8Array(8 + json.length + body.length);
  new DataView(bytes.buffer).setBigUint64(0, length ?? BigInt(json.length), true);
  bytes.set(json, 8);
  bytes.set(body, 8 + json.length);
  return bytes;
}

/** One entry of a header. */
export function entry(
  name: string,
  dtype: string,
  shape: readonly number[],
  begin: number,
  end: number,
): string {
  return `${JSON.stringify(name)}:{"dtype":"${dtype}","shape":[${shape}],"data_offsets":[${begin},${end}]}`;
}

/** Writes `bytes` or a text under `dir` and returns the path. */
export function put(dir: string, name: string, contents: Uint8Array | string): string {
  const path = join(dir, name);
  writeFileSync(path, contents);
  return path;
}

/** What `run` throws; fails where it throws nothing or something that is not a NeftuneError. */
export function failure(run: () => unknown): NeftuneError {
  try {
    run();
  } catch (error) {
    if (error instanceof NeftuneError) return error;
    throw error;
  }
  throw new Error("expected a NeftuneError, but nothing was thrown");
}
