// How much memory a model and a micro-batch need, before anything is allocated.

import { NeftuneError } from "../errors.ts";
import { crossEntropyWorkspace, type Device, dtypeBytes, MemoryPlan, type Nf4 } from "../native/index.ts";
import {
  type ActivationRequest,
  allocateActivations,
  type Kept,
  keptWith,
  type Recompute,
} from "./activations.ts";
import type { LlamaConfig } from "./config.ts";
import { foldOf } from "./fold.ts";
import { laidRank, type Tune } from "./lora.ts";
import type { ModelSource } from "./source.ts";
import { allocateWeights, type WeightOptions } from "./weights.ts";

/** Device bytes by use. `mapped` are weights read where their file lies: they can be dropped and read again. */
export interface ModelPlan {
  weights: number;
  trained: number;
  activations: number;
  workspace: number;
  mapped: number;
  /** What running kernels takes beside tensors: generated code, packed operands, JavaScript's heap. */
  runtime: number;
  /** All of them. */
  total: number;
  /** Of each layer, for the backward pass. */
  kept: Kept;
  /** The same as --recompute says it. */
  recompute: Recompute;
}

/** With `training`, gradients, optimizer state and what the backward pass needs are counted. */
export interface PlanRequest extends WeightOptions, BatchSize {
  recompute: Recompute | "auto";
  /** How many ranks train together; absent: one. */
  ranks?: number;
  /** Absent: this process alone takes what is free now. */
  sharing?: SharedMemory;
  /** Options that make micro-batches smaller, for advice; absent: --batch-size and --max-length. */
  sizedBy?: string;
}

/** The most that a micro-batch has. */
export interface BatchSize {
  /** Rows, padding included. */
  maxTokens: number;
  maxTargets: number;
}

/** Memory that several ranks of a machine take, each for itself but for mapped weights. */
export interface SharedMemory {
  ranks: number;
  /** Bytes, before the first of them took any. */
  free: number;
}

/**
 * CPU, measured (m25, s135m, t1b, with AMX and without, 2 to 64 threads): resident memory beyond the program's start and all
 * tensors, once and for each thread, which keeps packed operands, and oneDNN's where weights have gradients. CUDA, not
 * measured: room for the kernels that cuBLASLt loads when they are first called; its workspace is allocated, and so not free,
 * before memory is planned.
 */
function runtimeBytes({ backend, threads }: Device["info"], tune: Tune): number {
  const ofThread = tune === "full" ? 3 : 1.5;
  return { cpu: 24 + ofThread * threads, cuda: 256, emulated: 0 }[backend] * 2 ** 20;
}

/**
 * CPU, measured (m25, t1b): oneDNN's buffers for products with expanded weights, about the widest output in float32 and
 * the largest weight.
 */
function nf4RuntimeBytes(weights: ReadonlyMap<string, Nf4>, { dtype, maxTokens }: PlanRequest): number {
  let [widest, largest] = [0, 0];
  for (const { shape } of weights.values()) {
    widest = Math.max(widest, shape[0]!);
    largest = Math.max(largest, shape[0]! * shape[1]!);
  }
  return maxTokens * widest * dtypeBytes.f32 + largest * dtypeBytes[dtype];
}

/** What activations are allocated for. The backend says how many rows of logits it runs well with. */
export function activationRequest(
  device: Device,
  config: LlamaConfig,
  request: PlanRequest,
): ActivationRequest {
  const { hiddenSize, vocabSize } = config;
  const { dtype, lora, maxTargets } = request;
  const loss = crossEntropyWorkspace(
    device,
    dtype,
    maxTargets,
    hiddenSize,
    vocabSize,
    request.tune === "full",
  );
  const rank = lora === null ? 0 : laidRank(device, lora, dtype);
  return { ...request, workspaceBytes: Math.max(4, loss), rank, fold: foldOf(device, config, request) };
}

/** The plan for one way of keeping activations. */
export function planFor(device: Device, source: ModelSource, request: PlanRequest, kept: Kept): ModelPlan {
  const { config } = source;
  const counter = new MemoryPlan();
  const { frozen, quantized } = allocateWeights(device, counter, source, request);
  allocateActivations(counter, config, activationRequest(device, config, request), kept);
  const runtime =
    runtimeBytes(device.info, request.tune) +
    (device.isHost ? nf4RuntimeBytes(quantized.tensors, request) : 0);
  let mapped = 0;
  if (request.tune !== "full")
    mapped = mappedBytes(source, new Set([...frozen.keys(), ...quantized.tensors.keys()]));
  const { weights, trained, activations, workspace } = counter.bytes;
  return {
    weights,
    trained,
    activations,
    workspace,
    mapped,
    runtime,
    total: counter.total + mapped + runtime,
    kept,
    recompute: recomputeOf(kept),
  };
}

/** More is kept than --recompute none asks for where memory allows. */
const recomputeOf = (kept: Kept): Recompute =>
  kept === "input" ? "layer" : kept === "attention" ? "mlp" : "none";

function mappedBytes(source: ModelSource, copied: Set<string>): number {
  let bytes = 0;
  for (const { name, bytes: size } of source.tensorBytes()) if (!copied.has(name)) bytes += size;
  return bytes;
}

const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;

/** The smallest micro-batch that is advised. */
const MOST_SHARES = 64;

/** The request with a micro-batch of 1 / `share` the size. */
const shareOf = (request: PlanRequest, share: number): PlanRequest => ({
  ...request,
  maxTokens: Math.max(1, Math.floor(request.maxTokens / share)),
  maxTargets: Math.max(1, Math.floor(request.maxTargets / share)),
});

/** What may be kept, the most first. */
function allowedRungs(device: Device, { recompute, training }: PlanRequest): Kept[] {
  const rungs: Kept[] = recompute === "auto" ? ["gateUp", "attention", "input"] : [keptWith[recompute]];
  // A GPU reads a norm's output sooner than it makes it again; a CPU's memory is better left alone.
  if (!device.isHost && training && rungs[0] === "gateUp") rungs.unshift("norms");
  return rungs;
}

/** The memory that there is, and whether a plan fits in it, or in some of it, on every rank that shares it. */
function roomFor(device: Device, { sharing }: PlanRequest) {
  const { ranks: sharers, free } = sharing ?? { ranks: 1, free: device.freeMemory() };
  const fits = ({ total, mapped }: ModelPlan, room = free) => mapped + sharers * (total - mapped) <= room;
  return { sharers, free, fits };
}

/**
 * How much of the free memory a larger micro-batch may take: a CPU's other programs need it, too, and what a GPU's kernels
 * take is an estimate.
 */
const spareShare = { host: 0.5, gpu: 0.9 } as const;

/**
 * Plans for the first of `larger` micro-batches that takes no more recomputation than the request's own, and no more than
 * its share of the free memory (spareShare); where there is none, for the request's own. Throws what choosePlan throws.
 */
export function chooseSize(
  device: Device,
  source: ModelSource,
  request: PlanRequest,
  larger: Iterable<BatchSize>,
): { plan: ModelPlan; size: BatchSize } {
  const own = choosePlan(device, source, request);
  const { free, fits } = roomFor(device, request);
  for (const size of larger) {
    const plan = planFor(device, source, { ...request, ...size }, own.kept);
    if (plan.total <= own.total || fits(plan, free * spareShare[device.isHost ? "host" : "gpu"]))
      return { plan, size };
  }
  return { plan: own, size: request };
}

/**
 * Chooses what to recompute (`auto`: the least that fits free memory) and checks that it fits. Throws a
 * NeftuneError that says what is needed, what is free and what would fit.
 */
export function choosePlan(device: Device, source: ModelSource, request: PlanRequest): ModelPlan {
  const { sharers, free, fits } = roomFor(device, request);
  const rungs = allowedRungs(device, request);
  const plans = rungs.map((kept) => planFor(device, source, request, kept));
  const fitting = plans.find((plan) => fits(plan));
  if (fitting !== undefined) return fitting;
  const least = plans.at(-1)!;
  const leastOf = (changed: PlanRequest) => planFor(device, source, changed, rungs.at(-1)!);
  const each = sharers === 1 ? "" : ` for each of ${sharers} ranks`;
  for (let share = 2; share <= MOST_SHARES; share *= 2) {
    const smaller = shareOf(request, share);
    if (fits(leastOf(smaller))) {
      throw new NeftuneError(
        "out-of-memory",
        `needs ${gib(least.total)}${each}, ${gib(free)} free: a micro-batch 1/${share} the size (${smaller.maxTokens} tokens) would fit; ` +
          `take a smaller ${request.sizedBy ?? "--batch-size or --max-length"}` +
          (request.training
            ? `, or --micro-batch-tokens ${smaller.maxTokens}, which divides batches but no sample`
            : ""),
      );
    }
  }
  const fixed = least.weights + least.trained + least.mapped;
  const smallest = shareOf(request, MOST_SHARES);
  const advice =
    request.tune === "full"
      ? adviceForFull(device, request, (changes) => fits(leastOf({ ...smallest, ...changes })))
      : request.dtype === "f32"
        ? "try --dtype bf16"
        : request.quantization === null && !source.isQuantized
          ? "try --quantization nf4"
          : "take a smaller model";
  throw new NeftuneError(
    "out-of-memory",
    `needs ${gib(least.total)}${each}, of which ${gib(fixed)} for weights and trained state; ${gib(free)} free: ${advice}`,
  );
}

/** The most GPUs that are advised. */
const MOST_GPUS = 64;

/** What would fit instead; `fits` tries it with the smallest micro-batch. */
function adviceForFull(
  device: Device,
  { optim, partners, ranks = partners?.size ?? 1 }: PlanRequest,
  fits: (changes: Partial<PlanRequest>) => boolean,
): string {
  const among = (size: number) => ({ partners: { rank: 0, size } });
  if (ranks > 1 && partners === undefined && fits(among(ranks))) return "try --shard optimizer";
  const remedies: string[] = [];
  if (optim !== "adamw8bit" && fits({ optim: "adamw8bit" })) remedies.push("--optim adamw8bit");
  // Ranks on CPUs are mostly of one machine, where all together need more.
  let gpus = device.isHost ? MOST_GPUS * 2 : 2;
  while (gpus <= MOST_GPUS && (gpus <= ranks || !fits(among(gpus)))) gpus *= 2;
  if (gpus <= MOST_GPUS)
    remedies.push(`${gpus} GPUs like this one (--device cuda:all, or a launcher's ranks)`);
  return remedies.length === 0 ? "try --tune lora" : `try ${remedies.join(", or ")}`;
}
