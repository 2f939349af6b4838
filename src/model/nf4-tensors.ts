// An NF4 weight on the device as the tensors of a checkpoint, under bitsandbytes' names. One part is read at a time.

import { encodeQuantState, nf4Codebook, nf4DynamicMap, nf4Suffix, quantStateBytes } from "../formats/nf4.ts";
import type { TensorSource } from "../formats/safetensors.ts";
import { type Device, type Nf4, nf4Sizes } from "../native/index.ts";

/** The parts of `nf4`, a matrix, as the weight `name`. They are read from the device when their turn comes. */
export function storedNf4Tensors(device: Device, name: string, nf4: Nf4): TensorSource[] {
  const { codes, absmax, absmax2, dtype } = nf4;
  const shape: [number, number] = [nf4.shape[0]!, nf4.shape[1]!];
  const sizes = nf4Sizes(shape[0] * shape[1]);
  const table = (suffix: string, values: Float32Array): TensorSource => ({
    name: name + suffix,
    dtype: "F32",
    shape: [values.length],
    data: () => new Uint8Array(Float32Array.from(values).buffer),
  });
  const nested = (): Float32Array => device.readFloats(absmax2!);
  const state: TensorSource = {
    name: name + nf4Suffix.quantState,
    dtype: "U8",
    shape: [quantStateBytes(shape, dtype, absmax2 !== null)],
    data: () =>
      encodeQuantState({ shape, dtype, nestedOffset: absmax2 === null ? null : nested()[sizes.nested]! }),
  };
  const all: TensorSource[] = [
    {
      name,
      dtype: "U8",
      shape: [sizes.codes, 1],
      data: () => device.readBytes(codes).subarray(0, sizes.codes),
    },
    {
      name: name + nf4Suffix.absmax,
      dtype: absmax2 === null ? "F32" : "U8",
      shape: [sizes.blocks],
      data: () => device.readBytes(absmax).subarray(0, absmax2 === null ? 4 * sizes.blocks : sizes.blocks),
    },
    table(nf4Suffix.quantMap, nf4Codebook),
    state,
  ];
  if (absmax2 === null) return all;
  return [
    ...all,
    {
      name: name + nf4Suffix.nestedAbsmax,
      dtype: "F32",
      shape: [sizes.nested],
      data: () => new Uint8Array(nested().slice(0, sizes.nested).buffer),
    },
    table(nf4Suffix.nestedQuantMap, nf4DynamicMap),
  ];
}
