// All trained values in one flat float32 block, with gradients beside them at the same offsets and AdamW's moments
// (optimizer-state.ts): one gradient norm, an AdamW call for each run of tensors that are stepped alike (decayed ones
// come first), one bf16 copy. Owns no memory; the arena does.

import { NeftuneError } from "../errors.ts";
import {
  type AdamWOptions,
  type Allocator,
  cast,
  countNonFinite,
  type Device,
  gradientNorm,
  sizeOf,
  Tensor,
} from "../native/index.ts";
import { cutOut, layInto } from "./laid.ts";
import type { Optimizer } from "./optimizer.ts";
import { type MomentKind, OptimizerState, type StateTensor } from "./optimizer-state.ts";
import {
  isMatrix,
  type ParameterSpec,
  type ParameterTensor,
  type PartName,
  type RateName,
  wholePiece,
} from "./parameter-tensor.ts";

export interface TrainedPart {
  name: PartName;
  /** Matrices decay, norms and biases do not. */
  specs: readonly ParameterSpec[];
  /** Sets the values to start from, given in the order of `specs`; absent where a checkpoint brings them. */
  initialize?(device: Device, tensors: readonly { name: string; values: Tensor }[], seed: number): void;
}

export type StateKind = "values" | MomentKind;

/** Gives each tensor its place: matrices first, part by part and in the given order, then vectors. */
export function place(parts: readonly TrainedPart[]): ParameterTensor[] {
  const specs = parts.flatMap(({ name: part, specs }) => specs.map((spec) => ({ ...spec, part })));
  let offset = 0;
  return [...specs.filter(isMatrix), ...specs.filter((spec) => !isMatrix(spec))].map((spec) => {
    const { laid = spec.shape } = spec;
    const size = sizeOf(laid);
    const tensor = { ...spec, laid, offset, size, decay: isMatrix(spec) };
    offset += size;
    return tensor;
  });
}

/** What models and training need of trained values, whether one rank holds all of them or a share. */
export type ParameterBlock = Omit<
  Pick<Parameters, keyof Parameters>,
  "values" | "copy" | "count" | "find" | "onChange"
>;

export class Parameters {
  readonly tensors: readonly ParameterTensor[];
  readonly values: Tensor; // f32 [n]
  readonly gradients: Tensor; // f32 [n]
  /** The values rounded to bf16, which the products read; null where they read float32. */
  readonly copy: Tensor | null; // bf16 [n]
  readonly #device: Device;
  readonly #parts: readonly TrainedPart[];
  readonly #byName: Map<string, ParameterTensor>;
  readonly #norm: Tensor; // f32 [2]: norm, clip factor
  readonly #state: OptimizerState | null;
  #place = (): void => {};

  constructor(
    device: Device,
    allocator: Allocator,
    parts: readonly TrainedPart[],
    dtype: "f32" | "bf16",
    training: boolean,
    optimizer: Optimizer = "adamw",
  ) {
    this.#device = device;
    this.#parts = parts;
    this.tensors = place(parts);
    this.#byName = new Map(this.tensors.map((tensor) => [tensor.name, tensor]));
    const n = this.tensors.reduce((sum, tensor) => sum + tensor.size, 0);
    this.values = allocator.allocate("trained", "f32", [n]);
    // Without training nothing reads or writes gradients: they are the values under another name.
    this.gradients = training ? allocator.allocate("trained", "f32", [n]) : this.values;
    const pieces = this.tensors.map(wholePiece);
    this.#state = training ? new OptimizerState(device, allocator, pieces, optimizer) : null;
    this.copy = dtype === "bf16" ? allocator.allocate("trained", "bf16", [n]) : null;
    this.#norm = allocator.allocate("trained", "f32", [2]);
  }

  /** `place` is called whenever working() values have changed: it copies them to where else products read them. */
  onChange(place: () => void): void {
    this.#place = place;
  }

  get count(): number {
    return this.tensors.reduce((sum, { shape }) => sum + sizeOf(shape), 0);
  }

  /** Sets what training starts from: each part's values, and moments of zero. */
  initialize(seed: number): void {
    for (const { specs, initialize } of this.#parts) {
      const tensors = specs.map(({ name }) => ({ name, values: this.master(name) }));
      initialize?.(this.#device, tensors, seed);
    }
    this.#state?.clear();
    this.afterWrite();
  }

  /** Sets the values of a tensor from a checkpoint: `fill` writes them. */
  load(name: string, fill: (values: Tensor) => void): void {
    fill(this.master(name));
  }

  /** The tensors of one part. */
  part(name: PartName): ParameterTensor[] {
    return this.tensors.filter(({ part }) => part === name);
  }

  find(name: string): ParameterTensor {
    const tensor = this.#byName.get(name);
    if (tensor === undefined) throw new NeftuneError("parameter", `there is no trained tensor ${name}`);
    return tensor;
  }

  /** Tensors that lie side by side in the block, seen as one [sum of rows, columns]. */
  #stacked(flat: Tensor, names: readonly string[]): Tensor {
    const first = this.find(names[0]!);
    let end = first.offset;
    for (const name of names) {
      const tensor = this.find(name);
      if (tensor.offset !== end)
        throw new NeftuneError("parameter", `${names.join(", ")} do not lie side by side`);
      end += tensor.size;
    }
    const rows = names.reduce((sum, name) => sum + (this.find(name).laid[0] ?? 1), 0);
    const tail = first.laid.slice(1);
    return new Tensor(flat.rows(first.offset, end - first.offset).ptr, flat.dtype, [rows, ...tail]);
  }

  /** What the products read: bf16 or float32. */
  working(...names: string[]): Tensor {
    return this.#stacked(this.copy ?? this.values, names);
  }

  /** Float32 values: what norms and biases are used as. */
  master(...names: string[]): Tensor {
    return this.#stacked(this.values, names);
  }

  gradient(...names: string[]): Tensor {
    return this.#stacked(this.gradients, names);
  }

  /** What a rank does in place of a backward pass while others have one: where they divide the parameters, its share. */
  skipBatch(): void {}

  zeroGradients(): void {
    this.#device.fill(this.gradients, 0);
  }

  /**
   * ‖gradients‖₂ before clipping: what is returned gives it, once, and waits for it then. The clip factor stays on the
   * device for the next adamwStep.
   */
  startGradientNorm(maxNorm: number): () => number {
    gradientNorm(this.#device, this.#norm, this.gradients, maxNorm);
    const read = this.#device.readFloatsLater(this.#norm);
    return () => read()[0]!;
  }

  /**
   * One AdamW step with the gradients clipped as the last startGradientNorm found. `rates`: learning rates of what has one
   * of its own. `scale`: another factor for the gradients, on the device.
   */
  adamwStep(
    options: AdamWOptions,
    rates: Partial<Record<RateName, number>> = {},
    scale: Tensor = this.#norm.rows(1, 1),
  ): void {
    const { values: parameters, copy, gradients } = this;
    this.#state?.step({ parameters, copy, gradients, scale }, options, rates);
    this.#place();
  }

  /** The name of a tensor with values, or moments, that are NaN or infinite; null where all are finite. */
  findNonFinite(kind: StateKind = "values"): string | null {
    if (kind !== "values") return this.#state?.findNonFinite(kind) ?? null;
    if (countNonFinite(this.#device, this.values) === 0) return null;
    const isOdd = ({ offset, size }: ParameterTensor) =>
      countNonFinite(this.#device, this.values.rows(offset, size)) > 0;
    return this.tensors.find(isOdd)?.name ?? null;
  }

  /** A tensor's values. */
  read(name: string): Float32Array<ArrayBuffer> {
    const { offset, size, shape, laid } = this.find(name);
    return cutOut(this.#device.readFloats(this.values.rows(offset, size)), shape, laid);
  }

  /** Replaces a tensor's values; call afterWrite() when all are written. */
  write(name: string, values: Float32Array): void {
    const { offset, size, shape, laid } = this.find(name);
    if (values.length !== sizeOf(shape)) {
      throw new NeftuneError("parameter", `${name} has ${sizeOf(shape)} values, got ${values.length}`);
    }
    this.#device.write(this.values.rows(offset, size), layInto(values, shape, laid));
  }

  /** What a checkpoint holds of AdamW's moments. */
  get stateTensors(): readonly StateTensor[] {
    return this.#state?.tensors ?? [];
  }

  /** The bytes of one of them. */
  readState(name: string): Uint8Array<ArrayBuffer> {
    return this.#trained.read(name);
  }

  writeState(name: string, bytes: Uint8Array): void {
    this.#trained.write(name, bytes);
  }

  get #trained(): OptimizerState {
    if (this.#state === null)
      throw new NeftuneError("parameter", "there is no optimizer state without training");
    return this.#state;
  }

  /** Values and moments, as words of 32 bits: what rank 0 gives the others when it has restored a checkpoint. */
  get restored(): readonly Tensor[] {
    return [this.values, ...this.#trained.words];
  }

  /** Brings the bf16 copy up to date. */
  afterWrite(): void {
    if (this.copy !== null) cast(this.#device, this.copy, this.values);
    this.#place();
  }

  /** On rank 0: does `work`, which reads or writes tensors; the other ranks follow() meanwhile. */
  lead<T>(work: () => T): T {
    return work();
  }

  /** On the other ranks: takes part in what rank 0 does in lead(). */
  follow(): void {}
}
