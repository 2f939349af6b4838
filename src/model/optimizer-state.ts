// AdamW's moments of tensors of a flat block, or of the pieces of them that a rank holds (shard-layout.ts). In 8 bits
// each tensor has blocks of 256 values of its own, as bitsandbytes has them, and small tensors keep float32: a piece is a
// range of whole blocks. Owns no memory; the arena does.

import {
  type AdamWOptions,
  type AdamWValues,
  type Allocator,
  adamw,
  adamw8bit,
  countNonFinite,
  type Device,
  type Moment8bit,
  sizeOf,
  stateBlock,
  Tensor,
} from "../native/index.ts";
import { cutOut, layInto } from "./laid.ts";
import { LORA_VECTOR } from "./lora.ts";
import type { Optimizer } from "./optimizer.ts";
import type { ParameterTensor, Piece, RateName } from "./parameter-tensor.ts";

/** Tensors of fewer values keep float32 moments, as with bitsandbytes. */
const LEAST_8BIT = 4096;

export const momentKinds = ["m", "v"] as const;
export type MomentKind = (typeof momentKinds)[number];

/** LoRA's rank; 0 for what is not LoRA's. */
const loraRank = ({ name, part, shape }: Pick<ParameterTensor, "name" | "part" | "shape">) =>
  part === "lora" ? shape[name.includes(".lora_B.") ? 1 : 0]! : 0;

/**
 * Whether a tensor's moments are kept in 8 bits: the same on every device, so that a run may go on on another one. LoRA
 * ranks that are no multiple of 8 have other blocks where they lie in larger matrices (laidRank), and keep float32.
 */
export const hasCodes = (
  optimizer: Optimizer,
  tensor: Pick<ParameterTensor, "name" | "part" | "shape">,
): boolean =>
  optimizer === "adamw8bit" && loraRank(tensor) % LORA_VECTOR === 0 && sizeOf(tensor.shape) >= LEAST_8BIT;

/** A tensor of the state as checkpoints hold it: `m.NAME`, `v.NAME`, and `.absmax` of those in 8 bits. */
export interface StateTensor {
  name: string;
  dtype: "F32" | "U8";
  shape: readonly number[];
}

/** The same with what it is of. */
export interface MomentTensor extends StateTensor {
  /** The parameter. */
  of: string;
  moment: MomentKind;
  /** Values of the parameter that 32 bits of it stand for. */
  valuesPerWord: number;
}

interface Stored extends MomentTensor {
  data: Tensor; // f32 or i32
  /** The shape of `data`, where it is the whole. */
  laid: readonly number[];
}

/** Neighbors of one part that weight decay acts on, or does not, and whose moments are neighbors, too. */
interface Run {
  begin: number;
  count: number;
  rate: RateName;
  decay: boolean;
  is8bit: boolean;
  /** That of its first tensor. */
  place: number;
}

interface Place {
  piece: Piece;
  is8bit: boolean;
  /** The index of its first value in the float32 moments, or of its first block. */
  place: number;
}

const blocksOf = (size: number) => Math.ceil(size / stateBlock);
const CODES_PER_WORD = 4;
const WORDS = stateBlock / CODES_PER_WORD;

/** What a checkpoint holds of one moment of a tensor. */
function momentTensors(
  moment: MomentKind,
  { name: of, shape, size }: ParameterTensor,
  is8bit: boolean,
): MomentTensor[] {
  const name = `${moment}.${of}`;
  const common = { of, moment };
  if (!is8bit) return [{ ...common, name, dtype: "F32", shape, valuesPerWord: 1 }];
  return [
    { ...common, name, dtype: "U8", shape, valuesPerWord: CODES_PER_WORD },
    { ...common, name: `${name}.absmax`, dtype: "F32", shape: [blocksOf(size)], valuesPerWord: stateBlock },
  ];
}

/** What a checkpoint holds of the moments of all `tensors`: all of m, then all of v. */
export function stateTensorsOf(tensors: readonly ParameterTensor[], optimizer: Optimizer): MomentTensor[] {
  return momentKinds.flatMap((moment) =>
    tensors.flatMap((tensor) => momentTensors(moment, tensor, hasCodes(optimizer, tensor))),
  );
}

export class OptimizerState {
  readonly #device: Device;
  readonly #floats: Record<MomentKind, Tensor>; // f32 [values that have no codes]
  readonly #bytes: Record<MomentKind, Moment8bit> | null; // of all blocks
  /** With the rates of LoRA's A and B apart or not; made when a step asks for them. */
  readonly #runs = new Map<boolean, readonly Run[]>();
  readonly #places: readonly Place[];
  #stored: Map<string, Stored> | null = null; // made when asked for: a memory plan asks for nothing

  constructor(device: Device, allocator: Allocator, pieces: readonly Piece[], optimizer: Optimizer) {
    this.#device = device;
    let floats = 0;
    let blocks = 0;
    this.#places = pieces.map((piece) => {
      const is8bit = hasCodes(optimizer, piece.tensor);
      const place = is8bit ? blocks : floats;
      if (is8bit) blocks += blocksOf(piece.count);
      else floats += piece.count;
      return { piece, is8bit, place };
    });
    const float = () => allocator.allocate("trained", "f32", [floats]);
    const bytes = (): Moment8bit => ({
      codes: allocator.allocate("trained", "i32", [blocks * WORDS]),
      absmax: allocator.allocate("trained", "f32", [blocks]),
    });
    this.#floats = { m: float(), v: float() };
    this.#bytes = blocks === 0 ? null : { m: bytes(), v: bytes() };
  }

  get #all(): Map<string, Stored> {
    this.#stored ??= new Map(
      momentKinds.flatMap((moment) =>
        this.#places
          .flatMap((place) => this.#tensorsOf(moment, place))
          .map((one) => [one.name, one] as const),
      ),
    );
    return this.#stored;
  }

  #tensorsOf(moment: MomentKind, { piece, is8bit, place }: Place): Stored[] {
    const { tensor, count } = piece;
    const flat = (one: MomentTensor): Tensor => {
      if (one.valuesPerWord === 1) return this.#floats[moment].rows(place, count);
      const { codes, absmax } = this.#bytes![moment];
      if (one.valuesPerWord === stateBlock) return absmax.rows(place, blocksOf(count));
      return codes.rows(place * WORDS, Math.ceil(count / CODES_PER_WORD));
    };
    return momentTensors(moment, tensor, is8bit).map((one) => ({
      ...one,
      data: flat(one),
      laid: one.valuesPerWord === 1 ? tensor.laid : one.shape,
    }));
  }

  /** In the order of a checkpoint's file: all of m, then all of v. */
  get tensors(): readonly StateTensor[] {
    return [...this.#all.values()].map(({ name, dtype, shape }) => ({ name, dtype, shape }));
  }

  /** What of a tensor of the state is here, as words of 32 bits; null: nothing. */
  wordsOf(name: string): Tensor | null {
    const stored = this.#all.get(name);
    return stored === undefined ? null : new Tensor(stored.data.ptr, "f32", stored.data.shape);
  }

  /** All of it, as words of 32 bits: to be copied from rank to rank. */
  get words(): Tensor[] {
    const bytes = this.#bytes === null ? [] : [this.#bytes.m, this.#bytes.v];
    const codes = bytes.map(({ codes }) => new Tensor(codes.ptr, "f32", codes.shape));
    return [this.#floats.m, this.#floats.v, ...codes, ...bytes.map(({ absmax }) => absmax)];
  }

  /** Before the first step. */
  clear(): void {
    for (const moment of momentKinds) {
      this.#device.fill(this.#floats[moment], 0);
      if (this.#bytes === null) continue;
      this.#device.fill(this.#bytes[moment].codes, 0);
      this.#device.fill(this.#bytes[moment].absmax, 0);
    }
  }

  /** One step on the flat block. `rates`: learning rates of what has one of its own. */
  step(all: AdamWValues, options: AdamWOptions, rates: Partial<Record<RateName, number>>): void {
    const isApart = rates.lora_B !== undefined;
    const runs = this.#runs.get(isApart) ?? runsOf(this.#places, isApart);
    this.#runs.set(isApart, runs);
    for (const { begin, count, rate, decay, is8bit, place } of runs) {
      const rows = (flat: Tensor) => flat.rows(begin, count);
      const values = {
        ...all,
        parameters: rows(all.parameters),
        copy: all.copy === null ? null : rows(all.copy),
        gradients: rows(all.gradients),
      };
      const chosen = {
        ...options,
        learningRate: rates[rate] ?? options.learningRate,
        weightDecay: decay ? options.weightDecay : 0,
      };
      if (is8bit) {
        const blocks = blocksOf(count);
        const moment = ({ codes, absmax }: Moment8bit): Moment8bit => ({
          codes: codes.rows(place * WORDS, blocks * WORDS),
          absmax: absmax.rows(place, blocks),
        });
        adamw8bit(this.#device, values, moment(this.#bytes!.m), moment(this.#bytes!.v), chosen);
      } else {
        const moment = (flat: Tensor) => flat.rows(place, count);
        adamw(this.#device, values, moment(this.#floats.m), moment(this.#floats.v), chosen);
      }
    }
  }

  /** The parameter with a moment that is NaN or infinite; null where all are finite. */
  findNonFinite(kind: MomentKind): string | null {
    const isOdd = (tensor: Tensor) => tensor.size > 0 && countNonFinite(this.#device, tensor) > 0;
    const flat = [this.#floats[kind], ...(this.#bytes === null ? [] : [this.#bytes[kind].absmax])];
    if (!flat.some(isOdd)) return null;
    for (const { of, moment, dtype, data } of this.#all.values())
      if (moment === kind && dtype === "F32" && isOdd(data)) return of;
    return null;
  }

  /** The bytes of a tensor of the state. */
  read(name: string): Uint8Array<ArrayBuffer> {
    const { dtype, shape, laid, data } = this.#all.get(name)!;
    if (dtype === "U8") return this.#device.readBytes(data).subarray(0, stateBytes({ dtype, shape }));
    return new Uint8Array(cutOut(this.#device.readFloats(data), shape, laid).buffer);
  }

  write(name: string, bytes: Uint8Array): void {
    const { dtype, shape, laid, data } = this.#all.get(name)!;
    const whole = new Uint8Array(data.bytes);
    const floats = () => new Float32Array(bytes.slice().buffer);
    whole.set(dtype === "U8" ? bytes : new Uint8Array(layInto(floats(), shape, laid).slice().buffer));
    this.#device.write(data, whole);
  }
}

/** Neighbors that are stepped alike. `isApart`: the matrices B of LoRA have a rate of their own. */
function runsOf(places: readonly Place[], isApart: boolean): Run[] {
  const runs: Run[] = [];
  for (const { piece, is8bit, place } of places) {
    const { tensor, offset, count } = piece;
    const { name, part, decay } = tensor;
    const rate = isApart && part === "lora" && name.includes(".lora_B.") ? "lora_B" : part;
    const last = runs.at(-1);
    const isNext =
      last?.rate === rate &&
      last.decay === decay &&
      last.is8bit === is8bit &&
      offset === last.begin + last.count &&
      place === last.place + (is8bit ? last.count / stateBlock : last.count);
    if (isNext) last.count += count;
    else runs.push({ begin: offset, count, rate, decay, is8bit, place });
  }
  return runs;
}

/** Bytes of a tensor of the state. */
export function stateBytes({ dtype, shape }: Pick<StateTensor, "dtype" | "shape">): number {
  return sizeOf(shape) * (dtype === "F32" ? 4 : 1);
}
