// The names of an NF4 weight's parts in a checkpoint, and its quant_state.

import { about, FormatError } from "../../errors.ts";
import { type FloatDType, floatTypeNamed, floatTypes } from "../../floats.ts";
import { JsonError, type JsonValue, parseJson } from "../safetensors/json.ts";

/** Values that share one absmax, and absmax values that share one second absmax: the format's only sizes here. */
export const NF4_BLOCK = 64;
export const NF4_NESTED_BLOCK = 256;

/** What follows the weight's name. */
export const nf4Suffix = {
  absmax: ".absmax",
  quantMap: ".quant_map",
  nestedAbsmax: ".nested_absmax",
  nestedQuantMap: ".nested_quant_map",
  quantState: ".quant_state.bitsandbytes__nf4",
} as const;

const PART = /^(.+)\.(?:absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.bitsandbytes__\w+)$/s;

/** The weight whose part a tensor is by its name; null for any other tensor, the weight itself among them. */
export function nf4WeightOf(name: string): string | null {
  return PART.exec(name)?.[1] ?? null;
}

/** What a quant_state says. */
export interface QuantState {
  shape: [out: number, inputs: number];
  dtype: FloatDType;
  /** A float32; null: no double quantization. */
  nestedOffset: number | null;
}

/** The longest a float32 gets in decimal digits of a double, sign and exponent included. */
const OFFSET_LETTERS = 24;

/** Bytes of the text that `encodeQuantState` makes. */
export function quantStateBytes(shape: readonly number[], dtype: FloatDType, isDouble: boolean): number {
  return encodeQuantState({ shape: [shape[0]!, shape[1]!], dtype, nestedOffset: isDouble ? 0 : null }).length;
}

/**
 * The text as bitsandbytes writes it. With double quantization spaces follow, which JSON allows, so that its length does
 * not depend on the offset.
 */
export function encodeQuantState({ shape, dtype, nestedOffset }: QuantState): Uint8Array<ArrayBuffer> {
  const plain =
    `{"quant_type": "nf4", "blocksize": ${NF4_BLOCK}, "dtype": "${floatTypes[dtype].torch}", ` +
    `"shape": [${shape[0]}, ${shape[1]}]`;
  if (nestedOffset === null) return new TextEncoder().encode(`${plain}}`);
  const nested = `, "nested_blocksize": ${NF4_NESTED_BLOCK}, "nested_dtype": "float32", "nested_offset": `;
  const offset = String(nestedOffset);
  const text = `${plain}${nested}${offset}}`.padEnd(plain.length + nested.length + OFFSET_LETTERS + 1);
  return new TextEncoder().encode(text);
}

/** Reads a quant_state. Throws FormatError that names `tensor`, the field and what came. */
export function parseQuantState(path: string, tensor: string, bytes: Uint8Array): QuantState {
  const fail = (reason: string): never => {
    throw new FormatError(path, about(tensor, reason));
  };
  const fields = parseObject(fail, bytes);
  const show = (name: string) => JSON.stringify(fields.get(name)) ?? "missing";
  const expect = (name: string, wanted: string | number, remedy: string) => {
    if (fields.get(name) !== wanted)
      fail(`${name} is ${show(name)}, where ${JSON.stringify(wanted)} is all that neftune reads; ${remedy}`);
  };
  const again = "quantize the original weights again (neftune quantize)";
  expect("quant_type", "nf4", again);
  expect("blocksize", NF4_BLOCK, again);
  const dtype = floatTypeNamed("torch", fields.get("dtype"));
  if (dtype === null) return fail(`dtype is ${show("dtype")}; expected float32, bfloat16 or float16`);
  const shape = fields.get("shape");
  if (!isShape(shape)) return fail(`shape is ${show("shape")}; expected the two sizes of a matrix`);
  const nested = ["nested_blocksize", "nested_dtype", "nested_offset"];
  const missing = nested.filter((name) => !fields.has(name));
  if (missing.length === nested.length) return { shape, dtype, nestedOffset: null };
  if (missing.length > 0) fail(`has some nested_ fields, but not ${missing.join(" and ")}`);
  expect("nested_blocksize", NF4_NESTED_BLOCK, again);
  expect("nested_dtype", "float32", again);
  const offset = fields.get("nested_offset");
  if (typeof offset !== "number" || !Number.isFinite(Math.fround(offset)))
    return fail(`nested_offset is ${show("nested_offset")}; expected a float32`);
  return { shape, dtype, nestedOffset: Math.fround(offset) };
}

function parseObject(fail: (reason: string) => never, bytes: Uint8Array): Map<string, JsonValue> {
  let value: JsonValue;
  try {
    value = parseJson(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    if (error instanceof TypeError) return fail("not valid UTF-8; the file is damaged");
    if (error instanceof JsonError) return fail(`${error.message}; the file is damaged`);
    throw error;
  }
  return value instanceof Map ? value : fail("expected a JSON object");
}

function isShape(value: unknown): value is [number, number] {
  return (
    Array.isArray(value) &&
    value.length === 2 &&
    value.every((size) => Number.isSafeInteger(size) && size > 0) &&
    Number.isSafeInteger(value[0] * value[1])
  );
}
