// Which part of the trained matrices each rank holds where ranks divide them (docs/distributed.md). Matrices whose
// gradients are ready together make a bucket, and every rank has an equal share of each bucket.

import { stateBlock } from "../native/index.ts";
import { EMBEDDING, type GroupName, groupModules, headOf, layerOf } from "./architecture.ts";
import type { LlamaConfig } from "./config.ts";
import type { Optimizer } from "./optimizer.ts";
import { hasCodes } from "./optimizer-state.ts";
import type { ParameterTensor, Piece } from "./parameter-tensor.ts";

/** A rank's place among those that divide the parameters. */
export interface Shares {
  readonly rank: number;
  /** How many ranks there are. */
  readonly size: number;
}

export interface BucketLayout {
  /** Their offsets are those in the bucket. */
  tensors: readonly ParameterTensor[];
  /** Values of each rank; ranks · share is the bucket's size, which may be more than its tensors have. */
  share: number;
  size: number;
}

const roundUp = (n: number, unit: number) => Math.ceil(n / unit) * unit;

/** Lays tensors out in a bucket. No share begins within a block of moments in 8 bits. */
export function layOutBucket(
  tensors: readonly ParameterTensor[],
  ranks: number,
  optimizer: Optimizer,
): BucketLayout {
  let end = 0;
  const placed = tensors.map((tensor) => {
    const offset = hasCodes(optimizer, tensor) ? roundUp(end, stateBlock) : end;
    end = offset + tensor.size;
    return { ...tensor, offset };
  });
  const share = roundUp(Math.ceil(end / ranks), stateBlock);
  return { tensors: placed, share, size: ranks * share };
}

/** The part of a tensor in the share of `rank`; null: none. */
export function pieceOf({ share }: BucketLayout, tensor: ParameterTensor, rank: number): Piece | null {
  const first = rank * share;
  const begin = Math.max(tensor.offset, first);
  const end = Math.min(tensor.offset + tensor.size, first + share);
  if (begin >= end) return null;
  return { tensor, begin: begin - tensor.offset, count: end - begin, offset: begin - first };
}

/** The groups of a layer whose gradients make a bucket, in the order of the backward pass. */
const layerBuckets = { mlp: ["gateUp", "down"], attention: ["qkv", "o"] } as const satisfies Record<
  string,
  readonly GroupName[]
>;
export type LayerBucketName = keyof typeof layerBuckets;
export const layerBucketNames: readonly LayerBucketName[] = ["mlp", "attention"];

/** What a model's buckets are made of: names of matrices. */
export interface BucketNames {
  /** Of the head alone; null where the embedding is the head. */
  head: readonly string[] | null;
  layers: readonly Readonly<Record<LayerBucketName, readonly string[]>>[];
  embedding: readonly string[];
}

export function bucketNames(config: LlamaConfig): BucketNames {
  const head = headOf(config);
  const layers = Array.from({ length: config.numHiddenLayers }, (_, i) => {
    const { linears } = layerOf(config, i);
    const names = (bucket: LayerBucketName) =>
      layerBuckets[bucket].flatMap((group) =>
        groupModules[group].map((module) => `${linears[module].path}.weight`),
      );
    return { mlp: names("mlp"), attention: names("attention") };
  });
  return { head: head === EMBEDDING ? null : [head], layers, embedding: [EMBEDDING] };
}
