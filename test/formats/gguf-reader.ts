// Reads GGUF files, for tests.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { ggufTypes } from "../../src/formats/gguf.ts";

type Value = number | boolean | string | (number | boolean | string)[];

export interface ReadTensor {
  /** "F16 512,64 <digest>": type, shape as safetensors has it, the first digits of the data's SHA-256. */
  summary: string;
  bytes: Uint8Array;
}

export const digest = (bytes: Uint8Array | string) =>
  createHash("sha256").update(bytes).digest("hex").slice(0, 16);

/** Metadata by key and tensors by name, in the file's order. Throws where the file breaks the format's rules. */
export function readGguf(path: string): { fields: Map<string, Value>; tensors: Map<string, ReadTensor> } {
  const file = readFileSync(path);
  let at = 0;
  const take = (bytes: number) => {
    at += bytes;
    return at - bytes;
  };
  const u32 = () => file.readUInt32LE(take(4));
  const u64 = () => Number(file.readBigUInt64LE(take(8)));
  const text = () => {
    const length = u64();
    const begin = take(length);
    return file.toString("utf8", begin, begin + length);
  };
  const value = (type: number): Value => {
    if (type === 4) return u32();
    if (type === 5) return file.readInt32LE(take(4));
    if (type === 6) return file.readFloatLE(take(4));
    if (type === 7) return file.readUInt8(take(1)) === 1;
    if (type === 8) return text();
    if (type !== 9) throw new Error(`a value of type ${type}`);
    const inner = u32();
    return Array.from({ length: u64() }, () => value(inner) as string);
  };
  if (file.toString("latin1", 0, take(4) + 4) !== "GGUF" || u32() !== 3) throw new Error("not GGUF v3");
  const [tensorCount, fieldCount] = [u64(), u64()];
  const fields = new Map<string, Value>();
  for (let i = 0; i < fieldCount; i++) {
    const key = text();
    if (fields.has(key)) throw new Error(`${key} is there twice`);
    fields.set(key, value(u32()));
  }
  const infos = Array.from({ length: tensorCount }, () => {
    const name = text();
    const shape = Array.from({ length: u32() }, u64).reverse();
    return { name, shape, type: u32(), offset: u64() };
  });
  const start = Math.ceil(at / 32) * 32;
  let end = start;
  const tensors = new Map<string, ReadTensor>();
  for (const { name, shape, type, offset } of infos) {
    const [typeName, layout] = Object.entries(ggufTypes).find(([, { id }]) => id === type)!;
    const size = (shape.reduce((all, n) => all * n, 1) / layout.values) * layout.bytes;
    if (start + offset !== end) throw new Error(`${name} begins at ${offset}, not behind the one before it`);
    const bytes = file.subarray(end, end + size);
    end = Math.ceil((end + size) / 32) * 32;
    tensors.set(name, { summary: `${typeName.toUpperCase()} ${shape} ${digest(bytes)}`, bytes });
  }
  if (end !== file.length) throw new Error(`${file.length} bytes, of which ${end} are used`);
  return { fields, tensors };
}

/** Fields as the goldens have them: long lists as their length and digest. */
export function fieldSummaries(fields: ReadonlyMap<string, Value>): Record<string, unknown> {
  return Object.fromEntries(
    [...fields].map(([key, value]) => [
      key,
      Array.isArray(value) ? { count: value.length, sha256: digest(value.join("\0")) } : value,
    ]),
  );
}
