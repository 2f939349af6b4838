// All buckets of a model, and the memory that they share.

import type { Tensor } from "../native/index.ts";
import { Bucket, type BucketMemory } from "./bucket.ts";
import type { ParameterTensor } from "./parameter-tensor.ts";
import {
  type BucketLayout,
  type BucketNames,
  type LayerBucketName,
  layerBucketNames,
  layOutBucket,
  type Shares,
} from "./shard-layout.ts";

/** The buckets by what the backward pass knows of them. */
export interface GradientBuckets {
  /** Of the head alone; null where the embedding is the head. */
  head: Bucket | null;
  layers: readonly Readonly<Record<LayerBucketName, Bucket>>[];
  embedding: Bucket;
  /** All, in the order in which the backward pass is done with them. */
  inOrder: readonly Bucket[];
  /** Of all shares. */
  gradients: Tensor; // f32 [sum of shares]
}

type Common = Pick<BucketMemory, "device" | "allocator" | "dtype" | "optimizer">;

/** Lays out the matrices `names` and allocates this rank's part of them. */
export function makeBuckets(
  matrices: ReadonlyMap<string, ParameterTensor>,
  names: BucketNames,
  { rank, size: ranks }: Shares,
  common: Common,
): GradientBuckets {
  const { allocator, optimizer } = common;
  const layOut = (list: readonly string[]) =>
    layOutBucket(
      list.map((name) => matrices.get(name)!),
      ranks,
      optimizer,
    );
  const head = names.head && layOut(names.head);
  const layers = names.layers.map(({ mlp, attention }) => ({
    mlp: layOut(mlp),
    attention: layOut(attention),
  }));
  const embedding = layOut(names.embedding);
  const ofLayers = layers.flatMap((layer) => layerBucketNames.map((name) => layer[name]));
  const all = [...(head === null ? [] : [head]), ...ofLayers, embedding];
  const shares = all.reduce((sum, { share }) => sum + share, 0);
  const gradients = allocator.allocate("trained", "f32", [shares]);
  const bufferFor = (list: readonly BucketLayout[]) =>
    allocator.allocate("trained", "f32", [Math.max(...list.map(({ size }) => size))]);
  // A layer's two buckets have a buffer each, so that one is made while the other is on its way.
  const buffers = layerBucketNames.map(
    (name) => [name, bufferFor(layers.map((layer) => layer[name]))] as const,
  );
  const vocabulary = bufferFor([embedding, head ?? embedding]);
  let begin = 0;
  const make = (layout: BucketLayout, buffer: Tensor): Bucket => {
    const gradient = gradients.rows(begin, layout.share);
    begin += layout.share;
    return new Bucket(layout, { ...common, rank, buffer, gradient });
  };
  const made = {
    head: head && make(head, vocabulary),
    layers: layers.map(
      (layer) =>
        Object.fromEntries(buffers.map(([name, buffer]) => [name, make(layer[name], buffer)])) as Record<
          LayerBucketName,
          Bucket
        >,
    ),
    embedding: make(embedding, vocabulary),
  };
  const inOrder = [
    ...(made.head === null ? [] : [made.head]),
    ...made.layers.toReversed().flatMap((layer) => layerBucketNames.map((name) => layer[name])),
    made.embedding,
  ];
  return { ...made, inOrder, gradients };
}
