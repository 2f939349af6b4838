// A checkpoint with its linears in NF4, as Transformers and bitsandbytes write it: one weight is quantised at a time.

import { NeftuneError } from "../errors.ts";
import type { Checkpoint } from "../formats/checkpoint.ts";
import { readTensorPieces, type TensorSource } from "../formats/safetensors.ts";
import type { Device, Nf4 } from "../native/index.ts";
import type { Nf4Room } from "./nf4-room.ts";
import { storedNf4Tensors } from "./nf4-tensors.ts";
import { quantizableWeights } from "./quantize.ts";
import type { ModelSource } from "./source.ts";

/** What is read and written of a tensor at a time. */
const PIECE_BYTES = 2 ** 24;

/**
 * The tensors of `checkpoint` (that of `source`, whose weights are plain), the linears of the layers each as the list of
 * its NF4 parts, everything else as it is.
 */
export function quantizedTensors(
  device: Device,
  source: ModelSource,
  checkpoint: Checkpoint,
  room: Nf4Room,
): (TensorSource | TensorSource[])[] {
  const linears = new Map(quantizableWeights(source).map(({ name, shape }) => [name, shape]));
  return [...checkpoint.tensors].map(([name, { file, entry }]) => {
    const shape = linears.get(name);
    if (shape !== undefined) return quantizedParts(device, name, room.tensor(name, shape), room);
    const { dtype } = entry;
    return { name, dtype, shape: entry.shape, data: () => readTensorPieces(file, name, PIECE_BYTES) };
  });
}

/** The parts of one weight. The first to be written quantises it; the others read the same memory. */
function quantizedParts(device: Device, name: string, nf4: Nf4, room: Nf4Room): TensorSource[] {
  const [codes, ...others] = storedNf4Tensors(device, name, nf4);
  const data = () => {
    room.fill(name, nf4);
    expectFinite(device, name, nf4);
    return typeof codes!.data === "function" ? codes!.data() : codes!.data;
  };
  return [{ ...codes!, data }, ...others];
}

/** A weight that is infinite or no number makes its block's absmax so and, with double quantisation, the offset. */
function expectFinite(device: Device, name: string, { absmax, absmax2 }: Nf4): void {
  if (device.readFloats(absmax2 ?? absmax).every(Number.isFinite)) return;
  throw new NeftuneError(
    "data",
    `${name} holds values that are not finite, which 4 bits cannot keep; is the checkpoint damaged?`,
  );
}
