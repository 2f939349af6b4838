// A checkpoint with a LoRA adapter added to its weights: W + s·B·A in float32, rounded once; a tensor at a time. Without an
// adapter, the weights alone.

import { NeftuneError } from "../errors.ts";
import { decodeFloats, type FloatDType, floatTypes } from "../floats.ts";
import type { CheckpointTensor } from "../formats/checkpoint.ts";
import { nf4WeightOf } from "../formats/nf4.ts";
import type { openAdapter } from "../formats/peft.ts";
import { countNonFiniteBytes, type TensorSource } from "../formats/safetensors.ts";
import {
  addNonFinite,
  cast,
  type Device,
  linearBackwardInput,
  type Tensor,
  upload,
  Weight,
} from "../native/index.ts";
import { adapterValues, expectAdapterTensors } from "./adapter.ts";
import { tensorSpecs } from "./architecture.ts";
import { finitePieces, notFinite } from "./finite.ts";
import { type LoraOptions, loraA, loraB, loraParameterSpecs, loraScale, targetPaths } from "./lora.ts";
import type { Nf4Room } from "./nf4-room.ts";
import { quantizableWeights } from "./quantize.ts";
import { RoundingLoss } from "./rounding-loss.ts";
import type { FolderSource } from "./source.ts";

type Adapter = ReturnType<typeof openAdapter>;

/** Values that are computed, rounded and written at a time. */
const PIECE_VALUES = 2 ** 22;

export interface MergeOptions {
  /** What the adapter is added to: the weights as stored, or what NF4 keeps of them (of weights stored in NF4, always). */
  base: "original" | "dequantized";
  /** Of all tensors; null: each its own, of one in NF4 that which was quantized. */
  dtype: FloatDType | null;
}

/** An adapter, and how it was trained. */
export interface AdapterToMerge extends Adapter {
  lora: LoraOptions;
}

/** Adds the adapter to the weights of a source, for writeShards. */
export class Merger {
  readonly #device: Device;
  readonly #source: FolderSource;
  readonly #adapter: AdapterToMerge | null;
  readonly #options: MergeOptions;
  readonly #room: Nf4Room;
  /** Names of the weights that the adapter changes. */
  readonly #adapted: ReadonlySet<string>;
  /** Where pieces are computed and rounded. */
  readonly #piece: Tensor; // f32 [values]
  readonly #rounded: Tensor; // bf16 [values]
  /** How many values of a weight are not finite, before and after the merge. */
  readonly #odd: Tensor; // i32 [2]
  readonly #loss = new RoundingLoss();

  /** Throws FormatError where the adapter does not fit the model. The room is borrowed. */
  constructor(
    device: Device,
    source: FolderSource,
    adapter: AdapterToMerge | null,
    room: Nf4Room,
    options: MergeOptions,
  ) {
    if (adapter !== null) {
      const specs = loraParameterSpecs(source.config, adapter.lora);
      expectAdapterTensors(adapter, specs);
      for (const { name } of specs) adapterValues(adapter, name); // throws where one is not finite
    }
    const paths = adapter === null ? [] : targetPaths(source.config, adapter.lora);
    this.#adapted = new Set(paths.map((path) => `${path}.weight`));
    this.#device = device;
    this.#source = source;
    this.#adapter = adapter;
    this.#options = options;
    this.#room = room;
    const widest = Math.max(...quantizableWeights(source).map(({ shape }) => shape[1]!));
    this.#piece = device.allocate("f32", [Math.max(PIECE_VALUES, widest)]);
    this.#rounded = device.allocate("bf16", [this.#piece.size]);
    this.#odd = device.allocate("i32", [2]);
  }

  free(): void {
    this.#device.free(this.#piece.ptr);
    this.#device.free(this.#rounded.ptr);
    this.#device.free(this.#odd.ptr);
  }

  /** Of the adapter's change, what rounding has taken of the tensors written so far (norms); null: nothing was rounded. */
  get roundingLoss(): number | null {
    return this.#loss.share;
  }

  /** The tensors of the merged checkpoint, in the order of the source's. */
  tensors(): TensorSource[] {
    const linears = new Map(quantizableWeights(this.#source).map(({ name, shape }) => [name, shape]));
    const known = new Map(tensorSpecs(this.#source.config).map(({ name, shape }) => [name, shape]));
    return [...this.#source.checkpoint.tensors].flatMap(([name, tensor]) => {
      const weight = nf4WeightOf(name);
      if (weight !== null && linears.has(weight)) return [];
      const linear = linears.get(name);
      const shape = known.get(name);
      if (linear !== undefined && this.#changes(name, linear)) return [this.#linear(name, linear)];
      return [this.#copy(name, tensor, shape === undefined ? null : this.#source.dtypeOf(name, shape))];
    });
  }

  #isQuantized(name: string, shape: readonly number[]): boolean {
    return this.#options.base === "dequantized" || this.#source.storedNf4(name, shape) !== null;
  }

  #isAdapted(name: string): boolean {
    return this.#adapted.has(name);
  }

  #changes(name: string, shape: readonly number[]): boolean {
    return this.#isAdapted(name) || this.#isQuantized(name, shape);
  }

  /** A tensor as it is stored, converted where another dtype is asked for; `stored` null: not one of the model's. */
  #copy(name: string, { file, entry }: CheckpointTensor, stored: FloatDType | null): TensorSource {
    const dtype = this.#options.dtype ?? stored;
    const { shape } = entry;
    if (stored === null || dtype === null || dtype === stored)
      return {
        name,
        dtype: entry.dtype,
        shape,
        data: () => finitePieces(file, entry, 4 * PIECE_VALUES),
      };
    const convert = function* (this: Merger) {
      for (const bytes of finitePieces(file, entry, floatTypes[stored].bytes * PIECE_VALUES)) {
        const values = this.#piece.rows(0, bytes.length / floatTypes[stored].bytes);
        upload(this.#device, values, bytes, stored);
        yield this.#encode(name, values, dtype);
      }
    };
    return { name, dtype: floatTypes[dtype].safetensors, shape, data: () => convert.call(this) };
  }

  /** A linear, dequantized where it is to be, with the adapter's part where it has one. */
  #linear(name: string, shape: readonly number[]): TensorSource {
    const dtype = this.#options.dtype ?? this.#source.dtypeOf(name, shape);
    const [out, inputs] = [shape[0]!, shape[1]!];
    const rows = Math.max(1, Math.floor(PIECE_VALUES / inputs));
    const merge = function* (this: Merger) {
      const base = this.#room.values(name, shape, this.#isQuantized(name, shape));
      const update =
        this.#adapter !== null && this.#isAdapted(name)
          ? this.#update(this.#adapter, name.replace(/\.weight$/, ""), inputs)
          : null;
      this.#device.fill(this.#odd, 0);
      try {
        for (let row = 0; row < out; row += rows) {
          const part = base.rows(row, Math.min(rows, out - row));
          const values = this.#piece.rows(0, part.size);
          addNonFinite(this.#device, this.#odd.rows(0, 1), part);
          cast(this.#device, values, part);
          const sample = update === null || dtype === "f32" ? null : this.#sample(values, part.shape);
          update?.add(values.reshape(part.shape), row);
          addNonFinite(this.#device, this.#odd.rows(1, 1), values);
          const bytes = this.#encode(name, values, dtype);
          sample?.(dtype, bytes);
          yield bytes;
        }
        const [before, after] = this.#device.readInts(this.#odd);
        if (before! > 0) throw notFinite(name, before!);
        if (after! > 0)
          throw new NeftuneError(
            "data",
            `${name}: the merged weight is not finite; the adapter's values are too large`,
          );
      } finally {
        update?.free();
        this.#source.forget(this.#device, name);
      }
    };
    return { name, dtype: floatTypes[dtype].safetensors, shape, data: () => merge.call(this) };
  }

  /** Keeps some rows of a weight's piece as they are now, and compares them when the piece is changed and written. */
  #sample(values: Tensor, [rows = 1, inputs = 1]: readonly number[]) {
    const device = this.#device;
    const stride = RoundingLoss.stride([rows, inputs]);
    const picked = Array.from({ length: Math.ceil(rows / stride) }, (_, i) => i * stride);
    const read = (row: number) => device.readFloats(values.rows(row * inputs, inputs));
    const before = picked.map(read);
    return (dtype: FloatDType, bytes: Uint8Array) => {
      const width = inputs * floatTypes[dtype].bytes;
      for (const [i, row] of picked.entries()) {
        const written = decodeFloats(dtype, bytes.subarray(row * width, (row + 1) * width));
        this.#loss.add(before[i]!, read(row), written, stride);
      }
    };
  }

  /** s·B·A of one linear. */
  #update(
    adapter: AdapterToMerge,
    path: string,
    inputs: number,
  ): { add(values: Tensor, row: number): void; free(): void } {
    const device = this.#device;
    const { lora } = adapter;
    const scale = loraScale(lora);
    const upload = (values: Float32Array, columns: number): Tensor => {
      const tensor = device.allocate("f32", [values.length / columns, columns]);
      device.write(tensor, values);
      return tensor;
    };
    const a = upload(adapterValues(adapter, loraA(path)), inputs); // [r, in]
    const b = upload(
      adapterValues(adapter, loraB(path)).map((value) => value * scale),
      lora.r,
    ); // [out, r]
    const weight = Weight.dense(device, a);
    return {
      add: (values, row) =>
        linearBackwardInput(device, values, b.rows(row, values.rowCount), weight, null, true),
      free() {
        weight.destroy();
        device.free(a.ptr);
        device.free(b.ptr);
      },
    };
  }

  /** Float32 values as the bytes of another dtype, rounded to nearest even. */
  #encode(name: string, values: Tensor, dtype: FloatDType): Uint8Array {
    const device = this.#device;
    if (dtype === "f32") return device.readBytes(values);
    if (dtype === "f16") {
      const floats = device.readFloats(values);
      const halves = new Float16Array(floats);
      if (!floats.every(Number.isFinite))
        throw notFinite(name, floats.filter((one) => !Number.isFinite(one)).length);
      if (!halves.every(Number.isFinite))
        throw new NeftuneError("data", `${name} holds values past float16's 65504; give --dtype bf16 or f32`);
      return new Uint8Array(halves.buffer);
    }
    const rounded = this.#rounded.rows(0, values.size);
    cast(device, rounded, values);
    const bytes = device.readBytes(rounded);
    // values that were not finite before are told by who reads or adds them
    if (
      countNonFiniteBytes(floatTypes[dtype].safetensors, bytes) > 0 &&
      device.readFloats(values).every(Number.isFinite)
    )
      throw new NeftuneError("data", `${name} holds values past bfloat16's 3.39e38; give --dtype f32`);
    return bytes;
  }
}
