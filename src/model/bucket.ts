// Matrices whose gradients are ready together, as one of several ranks has them: all their values in the type that the
// products read, and a share of the float32 values, gradients and moments. Owns no memory; the arena does.

import {
  type AdamWOptions,
  type Allocator,
  type Communicator,
  cast,
  countNonFinite,
  type Device,
  type Tensor,
} from "../native/index.ts";
import type { Optimizer } from "./optimizer.ts";
import { OptimizerState } from "./optimizer-state.ts";
import type { ParameterTensor, Piece, RateName } from "./parameter-tensor.ts";
import { type BucketLayout, pieceOf } from "./shard-layout.ts";

export interface BucketMemory {
  device: Device;
  allocator: Allocator;
  dtype: "f32" | "bf16";
  optimizer: Optimizer;
  rank: number;
  /** Gradients of the whole bucket while the backward pass makes them; other buckets use it, too. */
  buffer: Tensor; // f32 [at least the bucket's size]
  /** Its share's gradients. */
  gradient: Tensor; // f32 [share]
}

export class Bucket {
  readonly layout: BucketLayout;
  readonly buffer: Tensor; // f32 [size]
  readonly gradient: Tensor; // f32 [share] sums over all ranks
  readonly working: Tensor; // bf16 or f32 [size]
  readonly values: Tensor; // f32 [share]
  readonly state: OptimizerState;
  readonly #device: Device;
  readonly #rank: number;
  readonly #pieces: ReadonlyMap<string, Piece>;

  constructor(layout: BucketLayout, memory: BucketMemory) {
    const { device, allocator, dtype, optimizer, rank, buffer, gradient } = memory;
    const { size, share } = layout;
    this.layout = layout;
    this.buffer = buffer.rows(0, size);
    this.gradient = gradient;
    this.#device = device;
    this.#rank = rank;
    this.working = allocator.allocate("trained", dtype, [size]);
    // What products read in float32 is itself what AdamW steps.
    this.values = dtype === "f32" ? this.#ownOf(this.working) : allocator.allocate("trained", "f32", [share]);
    const pieces = layout.tensors.flatMap((tensor) => pieceOf(layout, tensor, rank) ?? []);
    this.#pieces = new Map(pieces.map((piece) => [piece.tensor.name, piece]));
    this.state = new OptimizerState(device, allocator, pieces, optimizer);
  }

  /** This rank's share of something of the bucket's size. */
  #ownOf(whole: Tensor): Tensor {
    const { share } = this.layout;
    return whole.rows(this.#rank * share, share);
  }

  /** This rank's part of a tensor's float32 values; null: none. */
  ownValues({ name }: ParameterTensor): Tensor | null {
    const piece = this.#pieces.get(name);
    return piece === undefined ? null : this.values.rows(piece.offset, piece.count);
  }

  /** Before the backward pass makes gradients: this rank's share begins with what it has of earlier micro-batches. */
  open(): void {
    this.#device.fill(this.buffer, 0);
    cast(this.#device, this.#ownOf(this.buffer), this.gradient);
  }

  /** Once they are made: this rank's share of their sum, beside the work that follows. The next bucket's waits for it. */
  reduce(comm: Communicator): void {
    comm.overlap(this.#device, false);
    comm.overlap(this.#device, true);
    comm.reduceScatter(this.#device, this.gradient, this.buffer);
  }

  /** `scale`: what gradients are multiplied by. */
  step(options: AdamWOptions, rates: Partial<Record<RateName, number>>, scale: Tensor): void {
    const { values: parameters, gradient: gradients } = this;
    const copy = this.working.dtype === "bf16" ? this.#ownOf(this.working) : null;
    this.state.step({ parameters, copy, gradients, scale }, options, rates);
  }

  /** Brings this rank's share of the working values up to date. */
  round(): void {
    if (this.working.dtype === "bf16") cast(this.#device, this.#ownOf(this.working), this.values);
  }

  /** All working values, from the ranks that have stepped them. */
  gather(comm: Communicator): void {
    comm.allGather(this.#device, this.working, this.#ownOf(this.working));
  }

  /** The name of a tensor with values here that are NaN or infinite; null where all are finite. */
  findNonFinite(): string | null {
    if (countNonFinite(this.#device, this.values) === 0) return null;
    const isOdd = (tensor: ParameterTensor) => {
      const own = this.ownValues(tensor);
      return own !== null && countNonFinite(this.#device, own) > 0;
    };
    return this.layout.tensors.find(isOdd)?.name ?? null;
  }
}
