// Tensors of a model or an adapter as GGUF has them: renamed, rows of q and k in llama.cpp's order, rounded to the file's
// type. They pass through in pieces; nothing holds a whole tensor.

import { FormatError, NeftuneError } from "../../errors.ts";
import { BLOCK_VALUES, type GgufTensor, type GgufTypeName, ggufTypes, largest } from "../../formats/gguf.ts";
import type { openAdapter } from "../../formats/peft.ts";
import type { TensorSource } from "../../formats/safetensors.ts";
import { adapterValues, expectAdapterTensors } from "../adapter.ts";
import type { LlamaConfig } from "../config.ts";
import { type LoraOptions, loraA, loraB, loraParameterSpecs, targetPaths } from "../lora.ts";
import { inverseFrequencies } from "../rope.ts";
import { ggufNames, interleaved } from "./names.ts";

/** Values that are rounded and written at a time, at least a row. */
const PIECE_VALUES = 2 ** 20;

/** Vectors stay float32; rows that are not whole blocks become float16, as llama.cpp's converters have it. */
function typeOf(type: GgufTypeName, shape: readonly number[]): GgufTypeName {
  if (shape.length < 2) return "f32";
  return shape.at(-1)! % ggufTypes[type].values === 0 ? type : "f16";
}

/** A checkpoint's tensors, given as float32, in the order they have in llama.cpp's converters. */
export function modelTensors(
  config: LlamaConfig,
  sources: readonly TensorSource[],
  type: GgufTypeName,
): GgufTensor[] {
  const names = ggufNames(config);
  const tensors = sources.flatMap((source): GgufTensor[] => {
    const known = names.get(source.name);
    if (known === undefined) return []; // such as rotary_emb.inv_freq
    const { name, heads } = known;
    const { data } = source;
    const pieces = () => floats(typeof data === "function" ? data() : data);
    return [tensor(name, type, source.shape, heads, pieces)];
  });
  const factors = frequencyFactors(config);
  if (factors === null) return tensors;
  return [tensor("rope_freqs.weight", "f32", [factors.length], null, () => [factors]), ...tensors];
}

/**
 * What llama3's scaling divides each frequency by: float32 [headDim / 2], to the bits of llama.cpp's converter, which
 * rounds at each step; null: another scaling, or none.
 */
function frequencyFactors(config: LlamaConfig): Float32Array<ArrayBuffer> | null {
  const scaling = config.ropeScaling;
  if (scaling?.type !== "llama3") return null;
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings: length } = scaling;
  const { fround } = Math;
  return inverseFrequencies({ ...config, ropeScaling: null }).map((frequency) => {
    const wavelength = fround(fround(1 / frequency) * fround(2 * Math.PI));
    if (wavelength < length / highFreqFactor) return 1;
    if (wavelength > length / lowFreqFactor) return factor;
    const turns = fround(fround(1 / wavelength) * length);
    const smooth = fround(fround(turns - lowFreqFactor) / (highFreqFactor - lowFreqFactor));
    return 1 / fround(fround(fround(1 - smooth) / factor) + smooth);
  });
}

/** An adapter's A and B, by the names of the linears. Throws FormatError where they do not fit the model. */
export function adapterGgufTensors(
  config: LlamaConfig,
  adapter: ReturnType<typeof openAdapter>,
  lora: LoraOptions,
  type: GgufTypeName,
): GgufTensor[] {
  const specs = loraParameterSpecs(config, lora);
  expectAdapterTensors(adapter, specs);
  const shapes = new Map(specs.map(({ name, shape }) => [name, shape]));
  const names = ggufNames(config);
  const tensorOf = (part: string, gguf: string, heads: number | null) =>
    tensor(gguf, type, shapes.get(part)!, heads, () => [adapterValues(adapter, part)]);
  return targetPaths(config, lora)
    .toSorted()
    .flatMap((path) => {
      const { name, heads } = names.get(`${path}.weight`)!;
      return [tensorOf(loraA(path), `${name}.lora_a`, null), tensorOf(loraB(path), `${name}.lora_b`, heads)];
    });
}

/** `heads`: their rows are interleaved. */
function tensor(
  name: string,
  type: GgufTypeName,
  shape: readonly number[],
  heads: number | null,
  pieces: () => Iterable<Float32Array>,
): GgufTensor {
  const [rows = 1, width = 1] = shape;
  const own = typeOf(type, shape);
  const headRows = heads === null ? null : rows / heads;
  // Whole heads where rows move, whole blocks anywhere.
  const unit = headRows === null ? BLOCK_VALUES : headRows * width;
  const data = function* () {
    for (const values of inUnits(pieces(), unit)) {
      const ordered = headRows === null ? values : inOrder(values, unit, headRows);
      expectInRange(name, own, ordered);
      yield ggufTypes[own].encode(ordered);
    }
  };
  return { name, type: own, shape, data };
}

function inOrder(values: Float32Array, unit: number, headRows: number): Float32Array {
  const out = new Float32Array(values.length);
  for (let at = 0; at < values.length; at += unit)
    out.set(interleaved(values.subarray(at, at + unit), headRows), at);
  return out;
}

function expectInRange(name: string, type: GgufTypeName, values: Float32Array): void {
  if (type === "f32") return;
  const most = largest[type];
  for (let i = 0; i < values.length; i++) {
    if (Math.abs(values[i]!) > most)
      throw new NeftuneError("data", `${name} holds values that ${type} cannot; give --type f32 or bf16`);
  }
}

/** Pieces of little-endian float32 values, of any length in bytes. */
function* floats(data: Uint8Array | Iterable<Uint8Array>): Generator<Float32Array> {
  for (const bytes of data instanceof Uint8Array ? [data] : data)
    yield new Float32Array(bytes.slice().buffer);
}

/** The same values in pieces of whole units but for the last, which holds what is left. */
function* inUnits(pieces: Iterable<Float32Array>, unit: number): Generator<Float32Array> {
  const most = Math.max(unit, Math.floor(PIECE_VALUES / unit) * unit);
  let room = new Float32Array(0);
  let held = 0;
  for (const piece of pieces) {
    for (let at = 0; at < piece.length; ) {
      if (room.length === 0) room = new Float32Array(most);
      const part = piece.subarray(at, at + most - held);
      room.set(part, held);
      held += part.length;
      at += part.length;
      if (held < most) continue;
      yield room;
      held = 0;
    }
  }
  if (held > 0) yield room.subarray(0, held);
}

/** Throws FormatError where llama.cpp has no such model. */
export function expectInGguf(config: LlamaConfig, path: string): void {
  if (config.modelType === "qwen3" && config.attentionBias)
    throw new FormatError(path, "attention_bias is true; llama.cpp's qwen3 has no biases");
}
