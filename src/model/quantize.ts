// NF4 weights of a model (QLoRA, arXiv 2305.14314): which tensors, their memory, and how they come from a source, one
// after the other, so that never more than one of them is anywhere in full.

import { NeftuneError } from "../errors.ts";
import {
  type Allocator,
  allocateNf4,
  type Device,
  dtypeBytes,
  type Nf4,
  nf4Quantize,
  nf4Sizes,
  sizeOf,
  Tensor,
} from "../native/index.ts";
import { linearModules, tensorSpecs } from "./architecture.ts";
import type { FiniteCheck } from "./finite.ts";
import type { ModelSource } from "./source.ts";

/** Quantize the linears of every layer to NF4 while they are loaded. */
export interface Quantization {
  /** The absmax values are quantized too. */
  double: boolean;
}

/** Laid out, not yet filled. */
export interface QuantizedStorage {
  /** By name: those that the source has in NF4, or, with a Quantization, all linears of the layers. */
  tensors: Map<string, Nf4>;
  /** Room for the largest of them in full: products expand a weight into it, and loading stages one there. */
  scratch: Tensor | null; // f32 words
}

const layerLinear = new RegExp(`\\.(?:${linearModules.join("|")})\\.weight$`);

/** The weights that a Quantization is about: the seven linears of each layer, not embeddings, norms and lm_head. */
export const quantizableWeights = (source: Pick<ModelSource, "config">) =>
  tensorSpecs(source.config).filter(({ name }) => layerLinear.test(name));

/** Where a weight is staged before it is quantized: its values, and its absmax values behind them. Bytes. */
export function staging({ shape, dtype }: Nf4): { absmax: number; blocks: number; bytes: number } {
  const n = sizeOf(shape);
  const { blocks } = nf4Sizes(n);
  const absmax = Math.ceil((n * dtypeBytes[dtype]) / 4) * 4;
  return { absmax, blocks, bytes: absmax + blocks * dtypeBytes.f32 };
}

/**
 * Allocates what the NF4 weights of a model need, computed with in `dtype`. `least`: values that there is to be room for
 * where there are any.
 */
export function allocateQuantized(
  allocator: Allocator,
  source: ModelSource,
  quantization: Quantization | null,
  dtype: "f32" | "bf16",
  least: number,
): QuantizedStorage {
  const tensors = new Map<string, Nf4>();
  let most = 0;
  for (const { name, shape } of quantizableWeights(source)) {
    const stored = source.storedNf4(name, shape);
    const double = stored?.double ?? quantization?.double;
    if (double === undefined) continue;
    const nf4 = allocateNf4(allocator, "weights", shape, source.dtypeOf(name, shape), double);
    tensors.set(name, nf4);
    const expanded = shape[0]! * shape[1]! * dtypeBytes[dtype];
    most = Math.max(most, expanded, least * dtypeBytes[dtype], stored === null ? staging(nf4).bytes : 0);
  }
  const scratch = most === 0 ? null : allocator.allocate("workspace", "f32", [Math.ceil(most / 4)]);
  return { tensors, scratch };
}

/**
 * Fills an NF4 tensor from the source: as it is stored, or quantized from the values in their own dtype. `finite` counts
 * what is not finite on the way.
 */
export function fillQuantized(
  device: Device,
  source: ModelSource,
  name: string,
  to: Nf4,
  scratch: Tensor,
  finite: FiniteCheck,
): void {
  if (source.storedNf4(name, to.shape) !== null) {
    source.fillNf4(device, name, to);
    finite.addScales(name, to);
  } else {
    const { absmax, blocks } = staging(to);
    const inPlace = source.inPlace(device, name, to.shape, to.dtype);
    const values = inPlace ?? new Tensor(scratch.ptr, to.dtype, to.shape);
    if (inPlace === null) source.fill(device, name, values);
    nf4Quantize(device, to, values, new Tensor(scratch.ptr + absmax, "f32", [blocks]), finite.countOf(name));
  }
  source.forget(device, name);
}

/** Throws where everything is to be trained and the frozen weights are to be, or are, quantized. */
export function expectTrainable(
  source: Pick<ModelSource, "isQuantized">,
  quantization: Quantization | null,
): void {
  if (quantization !== null) {
    throw new NeftuneError(
      "model",
      "--tune full trains the weights themselves, which cannot be in 4 bits; leave --quantization nf4 out, or take --tune lora",
    );
  }
  if (source.isQuantized) {
    throw new NeftuneError(
      "model",
      "--tune full trains the weights themselves, but this checkpoint's are quantized; take the original weights, or --tune lora",
    );
  }
}
