// NF4 weights in a checkpoint: every part is checked against the others, and no large one is read.

import { FormatError } from "../../errors.ts";
import type { FloatDType } from "../../floats.ts";
import type { Checkpoint, CheckpointTensor } from "../checkpoint.ts";
import { readTensorData, type SafetensorsDType } from "../safetensors.ts";
import { NF4_BLOCK, NF4_NESTED_BLOCK, nf4Suffix, parseQuantState } from "./keys.ts";
import { nf4Codebook, nf4DynamicMap } from "./tables.ts";

/** A weight in NF4 and where its parts lie; they may be in different shards. */
export interface Nf4Stored {
  /** "model.layers.0.mlp.up_proj.weight" */
  name: string;
  shape: [out: number, inputs: number];
  /** Of the weight that was quantized: its values are rounded to it. */
  dtype: FloatDType;
  codes: CheckpointTensor; // U8 [⌈out · in / 2⌉, 1]
  absmax: CheckpointTensor; // F32 [blocks]; with double quantization U8 [blocks]
  /** Double quantization; null: none. */
  nested: {
    absmax: CheckpointTensor; // F32 [⌈blocks / 256⌉]
    /** A float32. */
    offset: number;
  } | null;
  /** Of all parts, tables and quant_state included. */
  bytes: number;
}

type Tensors = Pick<Checkpoint, "tensors">;

/**
 * The NF4 weight stored as `name`; null where the tensor is not quantized or not there. Throws FormatError, naming the
 * part, where one is missing or does not fit the others, or where the weight is quantized in another way.
 */
export function nf4Entries({ tensors }: Tensors, name: string): Nf4Stored | null {
  const codes = tensors.get(name);
  if (codes === undefined || !isPacked(tensors, name, codes)) return null;
  const part = (suffix: string): CheckpointTensor => {
    const found = tensors.get(name + suffix);
    if (found !== undefined) return found;
    throw new FormatError(
      codes.file.path,
      `${name} is quantized, but the checkpoint lacks ${name}${suffix}; it is incomplete: download or save it again`,
    );
  };
  const state = part(nf4Suffix.quantState);
  const { shape, dtype, nestedOffset } = readQuantState(state);
  const n = shape[0] * shape[1];
  const blocks = Math.ceil(n / NF4_BLOCK);
  const why = `its quant_state gives the shape [${shape}]`;
  expectEntry(codes, "U8", [Math.ceil(n / 2), 1], why);
  const absmax = part(nf4Suffix.absmax);
  const kind = nestedOffset === null ? "no double quantization" : "double quantization";
  expectEntry(absmax, nestedOffset === null ? "F32" : "U8", [blocks], `${why} and ${kind}`);
  const quantMap = part(nf4Suffix.quantMap);
  expectTable(quantMap, nf4Codebook, "the NF4 codebook");
  const all = [codes, absmax, quantMap, state];
  let nested: Nf4Stored["nested"] = null;
  if (nestedOffset === null) {
    for (const suffix of [nf4Suffix.nestedAbsmax, nf4Suffix.nestedQuantMap]) {
      const stray = tensors.get(name + suffix);
      if (stray === undefined) continue;
      const { path } = stray.file;
      throw new FormatError(path, `holds ${name}${suffix}, but the quant_state has no nested_ fields`);
    }
  } else {
    const nestedAbsmax = part(nf4Suffix.nestedAbsmax);
    expectEntry(nestedAbsmax, "F32", [Math.ceil(blocks / NF4_NESTED_BLOCK)], why);
    const nestedMap = part(nf4Suffix.nestedQuantMap);
    expectTable(nestedMap, nf4DynamicMap, "bitsandbytes' dynamic map");
    all.push(nestedAbsmax, nestedMap);
    nested = { absmax: nestedAbsmax, offset: nestedOffset };
  }
  const bytes = all.reduce((sum, { entry }) => sum + entry.end - entry.begin, 0);
  return { name, shape, dtype, codes, absmax, nested, bytes };
}

/** Whether the weight is NF4's; false where it is not quantized. Throws FormatError for other ways to quantize. */
function isPacked(tensors: Checkpoint["tensors"], name: string, { entry, file }: CheckpointTensor): boolean {
  const refuse = (what: string): never => {
    throw new FormatError(
      file.path,
      `${name} is ${what}, which neftune does not read; take the original weights, or weights that bitsandbytes quantized to nf4`,
    );
  };
  if (tensors.has(`${name}.quant_state.bitsandbytes__fp4`)) refuse("quantized to fp4");
  const suffixes = Object.values(nf4Suffix);
  const isQuantized = suffixes.some((suffix) => tensors.has(name + suffix));
  if (isQuantized && entry.dtype !== "U8")
    refuse(`packed in ${entry.dtype} (bnb_4bit_quant_storage other than uint8)`);
  if (/\.weight$/.test(name) && !isQuantized) {
    if (tensors.has(name.replace(/weight$/, "SCB"))) refuse("quantized to int8 (bitsandbytes)");
    if (entry.dtype === "U8" || entry.dtype === "I8")
      refuse(`${entry.dtype} without ${name}${nf4Suffix.quantState}, so quantized in a way`);
  }
  return isQuantized;
}

function expectEntry(
  { entry, file }: CheckpointTensor,
  dtype: SafetensorsDType,
  shape: readonly number[],
  why: string,
): void {
  const { name } = entry;
  if (entry.dtype === dtype && entry.shape.join() === shape.join()) return;
  throw new FormatError(
    file.path,
    `${name} is ${entry.dtype} [${entry.shape}]; expected ${dtype} [${shape}]: ${why}`,
  );
}

/** A table as other versions of PyTorch round it is the same table. */
const ROUNDING = 1e-6;

function expectTable(tensor: CheckpointTensor, table: Float32Array, what: string): void {
  expectEntry(tensor, "F32", [table.length], `it holds ${what}`);
  const { file, entry } = tensor;
  const values = new Float32Array(readTensorData(file, entry.name).slice().buffer);
  for (const [i, wanted] of table.entries()) {
    const value = values[i]!;
    if (Math.abs(value - wanted) <= ROUNDING * Math.abs(wanted)) continue;
    throw new FormatError(
      file.path,
      `${entry.name} is not ${what}: entry ${i} is ${value}, expected ${wanted}; the codes would mean other values`,
    );
  }
}

/** No quant_state is longer; a larger one is not worth reading. */
const MAX_STATE_BYTES = 65536;

function readQuantState({ file, entry }: CheckpointTensor) {
  const bytes = entry.end - entry.begin;
  if (entry.dtype !== "U8" || entry.shape.length !== 1 || bytes > MAX_STATE_BYTES) {
    throw new FormatError(
      file.path,
      `${entry.name} is ${entry.dtype} [${entry.shape}]; expected the bytes of a JSON text, U8 of one dimension`,
    );
  }
  return parseQuantState(file.path, entry.name, readTensorData(file, entry.name));
}
