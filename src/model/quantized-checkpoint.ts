// A checkpoint with its linears in NF4, as Transformers and bitsandbytes write it: one weight is quantized at a time.

import type { TensorSource } from "../formats/safetensors.ts";
import type { Device, Nf4 } from "../native/index.ts";
import { finitePieces } from "./finite.ts";
import type { Nf4Room } from "./nf4-room.ts";
import { storedNf4Tensors } from "./nf4-tensors.ts";
import { quantizableWeights } from "./quantize.ts";
import type { FolderSource } from "./source.ts";

/** What is read and written of a tensor at a time. */
const PIECE_BYTES = 2 ** 24;

/**
 * The tensors of `source`, whose weights are plain, the linears of the layers each as the list of
 * its NF4 parts, everything else as it is.
 */
export function quantizedTensors(
  device: Device,
  source: FolderSource,
  room: Nf4Room,
): (TensorSource | TensorSource[])[] {
  const linears = new Map(quantizableWeights(source).map(({ name, shape }) => [name, shape]));
  return [...source.checkpoint.tensors].map(([name, { file, entry }]) => {
    const shape = linears.get(name);
    if (shape !== undefined) return quantizedParts(device, name, room.tensor(name, shape), room);
    const { dtype } = entry;
    return { name, dtype, shape: entry.shape, data: () => finitePieces(file, entry, PIECE_BYTES) };
  });
}

/** The parts of one weight. The first to be written quantizes it; the others read the same memory. */
function quantizedParts(device: Device, name: string, nf4: Nf4, room: Nf4Room): TensorSource[] {
  const [codes, ...others] = storedNf4Tensors(device, name, nf4);
  const data = () => {
    room.fill(name, nf4);
    return typeof codes!.data === "function" ? codes!.data() : codes!.data;
  };
  return [{ ...codes!, data }, ...others];
}
