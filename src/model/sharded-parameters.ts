// Trained values of which the ranks of a run divide the matrices: each keeps 1/N of their float32 values, gradients and
// AdamW's moments (ZeRO-2, arXiv 1910.02054), and all of their working copy. The backward pass scatters each bucket's
// gradients as soon as they are made. Vectors and the noise's scale are small: every rank has and steps all of them.
//
// All ranks call the same methods in the same order, but for what rank 0 does within lead(). Owns no memory.

import {
  type AdamWOptions,
  type Allocator,
  cast,
  type Device,
  gradientNorm,
  type Tensor,
} from "../native/index.ts";
import type { Bucket } from "./bucket.ts";
import { type GradientBuckets, makeBuckets } from "./buckets.ts";
import { DividedTensors, type Home } from "./divided-tensors.ts";
import type { Optimizer } from "./optimizer.ts";
import { type MomentTensor, stateTensorsOf } from "./optimizer-state.ts";
import { isMatrix, type ParameterTensor, type PartName, type RateName } from "./parameter-tensor.ts";
import { type ParameterBlock, Parameters, place, type StateKind, type TrainedPart } from "./parameters.ts";
import { type Partners, RankExchange } from "./rank-exchange.ts";
import type { BucketNames, Shares } from "./shard-layout.ts";

export class ShardedParameters implements ParameterBlock {
  readonly tensors: readonly ParameterTensor[];
  readonly buckets: GradientBuckets;
  readonly #device: Device;
  readonly #partners: Shares;
  readonly #optimizer: Optimizer;
  readonly #vectors: Parameters;
  readonly #homes: ReadonlyMap<string, Home>;
  readonly #norms: Tensor; // f32 [ranks + 1] of each rank's share, and of the vectors
  readonly #norm: Tensor; // f32 [2]: norm, clip factor
  readonly #found: Tensor; // f32 [ranks]
  readonly #exchange: RankExchange;
  #divided: DividedTensors | null = null; // made when asked for: a memory plan asks for nothing

  /** `partners` of a memory plan need no communicator. */
  constructor(
    device: Device,
    allocator: Allocator,
    parts: readonly TrainedPart[],
    names: BucketNames,
    dtype: "f32" | "bf16",
    partners: Shares | Partners,
    optimizer: Optimizer = "adamw",
  ) {
    this.#device = device;
    this.#partners = partners;
    this.#optimizer = optimizer;
    const vectors = parts.map((part) => ({ ...part, specs: part.specs.filter((spec) => !isMatrix(spec)) }));
    this.#vectors = new Parameters(device, allocator, vectors, "f32", true, optimizer);
    const all = new Map(place(parts).map((tensor) => [tensor.name, tensor]));
    this.buckets = makeBuckets(all, names, partners, { device, allocator, dtype, optimizer });
    this.#homes = new Map(
      this.buckets.inOrder.flatMap((bucket) =>
        bucket.layout.tensors.map((tensor) => [tensor.name, { tensor, bucket }] as const),
      ),
    );
    this.tensors = [...all.keys()].map((name) => this.#homes.get(name)?.tensor ?? this.#vectors.find(name));
    const small = (size: number) => allocator.allocate("trained", "f32", [size]);
    this.#norms = small(partners.size + 1);
    this.#norm = small(2);
    this.#found = small(partners.size);
    this.#exchange = new RankExchange(device, allocator, partners as Partners);
  }

  /** Gradients that ranks still have to sum once the backward pass is done. */
  get gradients(): Tensor {
    return this.#vectors.gradients;
  }

  /** What rank 0 gives the others when it has restored a checkpoint: the matrices went with write(). */
  get restored(): readonly Tensor[] {
    return this.#vectors.restored;
  }

  initialize(seed: number): void {
    this.#vectors.initialize(seed);
    for (const { state } of this.buckets.inOrder) state.clear();
  }

  load(name: string, fill: (values: Tensor) => void): void {
    const home = this.#homes.get(name);
    if (home === undefined) {
      this.#vectors.load(name, fill);
      return;
    }
    const { tensor, bucket } = home;
    const whole = bucket.buffer.rows(0, tensor.size);
    fill(whole.reshape(tensor.shape));
    cast(this.#device, bucket.working.rows(tensor.offset, tensor.size), whole);
    this.#files.take(name, whole);
  }

  part(name: PartName): ParameterTensor[] {
    return this.tensors.filter(({ part }) => part === name);
  }

  working(name: string): Tensor {
    return this.#viewOf(name, ({ working }) => working) ?? this.#vectors.working(name);
  }

  /** Of vectors; no rank has all float32 values of a matrix. */
  master(name: string): Tensor {
    return this.#vectors.master(name);
  }

  /** Of a matrix: where its bucket makes it, while it is open. */
  gradient(name: string): Tensor {
    return this.#viewOf(name, ({ buffer }) => buffer) ?? this.#vectors.gradient(name);
  }

  /** A matrix in something of its bucket; null where `name` is a vector. */
  #viewOf(name: string, of: (bucket: Bucket) => Tensor): Tensor | null {
    const home = this.#homes.get(name);
    if (home === undefined) return null;
    const { offset, size, shape } = home.tensor;
    return of(home.bucket).rows(offset, size).reshape(shape);
  }

  zeroGradients(): void {
    this.#vectors.zeroGradients();
    this.#device.fill(this.buckets.gradients, 0);
  }

  /** Does `work`, which makes the gradients of a bucket, and gives each rank its share of their sum. */
  collect(bucket: Bucket, work: () => void): void {
    bucket.open();
    work();
    this.#reduce(bucket);
  }

  #reduce(bucket: Bucket): void {
    this.#exchange.enqueue((comm) => bucket.reduce(comm));
  }

  /** Before the head's gradient is made: its bucket is open until it is, or, where the embedding is the head, to the end. */
  openHead(): void {
    const { head, embedding } = this.buckets;
    (head ?? embedding).open();
  }

  closeHead(): void {
    if (this.buckets.head !== null) this.#reduce(this.buckets.head);
  }

  openEmbedding(): void {
    if (this.buckets.head !== null) this.buckets.embedding.open();
  }

  closeEmbedding(): void {
    this.#reduce(this.buckets.embedding);
  }

  /** After the last bucket: work that follows sees all shares. */
  finishBackward(): void {
    this.#exchange.enqueue((comm) => comm.overlap(this.#device, false));
  }

  skipBatch(): void {
    for (const bucket of this.buckets.inOrder) this.collect(bucket, () => {});
    this.finishBackward();
  }

  startGradientNorm(maxNorm: number): () => number {
    const { rank, size: ranks } = this.#partners;
    const parts = [this.buckets.gradients, this.#vectors.gradients] as const;
    for (const [i, part] of parts.entries()) {
      gradientNorm(this.#device, this.#norm, part, 0);
      cast(this.#device, this.#norms.rows(i === 0 ? rank : ranks, 1), this.#norm.rows(0, 1));
    }
    this.#exchange.wait((comm) =>
      comm.allGather(this.#device, this.#norms.rows(0, ranks), this.#norms.rows(rank, 1)),
    );
    gradientNorm(this.#device, this.#norm, this.#norms, maxNorm);
    const read = this.#device.readFloatsLater(this.#norm);
    return () => read()[0]!;
  }

  adamwStep(options: AdamWOptions, rates: Partial<Record<RateName, number>> = {}): void {
    const scale = this.#norm.rows(1, 1);
    this.#vectors.adamwStep(options, rates, scale);
    for (const bucket of this.buckets.inOrder) bucket.step(options, rates, scale);
    this.#gather();
  }

  /** The working values of all ranks' shares. */
  #gather(): void {
    this.#exchange.wait((comm) => {
      for (const bucket of this.buckets.inOrder) bucket.gather(comm);
    });
  }

  findNonFinite(kind: StateKind = "values"): string | null {
    this.#exchange.announce({ kind: "findNonFinite", name: kind });
    const ofBucket = (bucket: Bucket) =>
      kind === "values" ? bucket.findNonFinite() : bucket.state.findNonFinite(kind);
    let name = this.#vectors.findNonFinite(kind);
    for (const bucket of this.buckets.inOrder) name ??= ofBucket(bucket);
    const { length } = this.tensors;
    const index = name === null ? length : this.tensors.findIndex((tensor) => tensor.name === name);
    const own = this.#found.rows(this.#partners.rank, 1);
    this.#device.write(own, Float32Array.of(index));
    this.#exchange.wait((comm) => comm.allGather(this.#device, this.#found, own));
    return this.tensors[Math.min(...this.#device.readFloats(this.#found))]?.name ?? null;
  }

  read(name: string): Float32Array<ArrayBuffer> {
    if (!this.#homes.has(name)) return this.#vectors.read(name);
    return new Float32Array(this.#files.read(name).buffer);
  }

  write(name: string, values: Float32Array): void {
    if (this.#homes.has(name)) this.#files.distribute(name, values);
    else this.#vectors.write(name, values);
  }

  get stateTensors(): readonly MomentTensor[] {
    return stateTensorsOf(this.tensors, this.#optimizer);
  }

  readState(name: string): Uint8Array<ArrayBuffer> {
    return this.#files.has(name) ? this.#files.read(name) : this.#vectors.readState(name);
  }

  writeState(name: string, bytes: Uint8Array): void {
    if (this.#files.has(name)) this.#files.distribute(name, bytes);
    else this.#vectors.writeState(name, bytes);
  }

  afterWrite(): void {
    this.#exchange.announce({ kind: "afterWrite", name: "" });
    for (const bucket of this.buckets.inOrder) bucket.round();
    this.#gather();
  }

  lead<T>(work: () => T): T {
    return this.#exchange.lead(work);
  }

  follow(): void {
    this.#exchange.follow(({ kind, name }) => {
      if (kind === "assemble") this.#files.assemble(name);
      else if (kind === "distribute") this.#files.distribute(name, null);
      else if (kind === "afterWrite") this.afterWrite();
      else this.findNonFinite(name as StateKind);
    });
  }

  get #files(): DividedTensors {
    this.#divided ??= new DividedTensors(
      this.#device,
      this.#partners,
      this.#exchange,
      this.#homes,
      this.stateTensors,
    );
    return this.#divided;
  }
}
