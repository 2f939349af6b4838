// Device memory for the linears of a model, one after the other: in NF4, and their values in full.

import {
  type Allocator,
  allocateNf4,
  type Device,
  dtypeBytes,
  MemoryPlan,
  type Nf4,
  nf4Dequantize,
  Tensor,
} from "../native/index.ts";
import { FiniteCheck } from "./finite.ts";
import { fillQuantized, quantizableWeights, staging } from "./quantize.ts";
import type { ModelSource } from "./source.ts";

export class Nf4Room {
  readonly #device: Device;
  readonly #source: ModelSource;
  readonly #double: boolean;
  readonly #parts: number;
  /** Any linear's values in its own dtype, and behind them room for its absmax values. */
  readonly #values: Tensor;

  /** `double`: double quantization, for linears that the source does not hold in NF4 already. */
  constructor(device: Device, source: ModelSource, double: boolean) {
    this.#device = device;
    this.#source = source;
    this.#double = double;
    let [parts, words] = [1, 1];
    for (const { name, shape } of quantizableWeights(source)) {
      const plan = new MemoryPlan();
      const { bytes } = staging(this.#allocate(plan, name, shape));
      parts = Math.max(parts, plan.total);
      words = Math.max(words, bytes / dtypeBytes.f32);
    }
    this.#parts = device.malloc(parts);
    this.#values = device.allocate("f32", [words]);
  }

  /** The linear `name` in NF4, not filled. All linears have the same memory. */
  tensor(name: string, shape: readonly number[]): Nf4 {
    let at = this.#parts;
    const allocator: Allocator = {
      allocate(_use, dtype, size) {
        const tensor = new Tensor(at, dtype, size);
        at += Math.ceil(tensor.bytes / 256) * 256;
        return tensor;
      },
    };
    return this.#allocate(allocator, name, shape);
  }

  #allocate(allocator: Allocator, name: string, shape: readonly number[]): Nf4 {
    const double = this.#source.storedNf4(name, shape)?.double ?? this.#double;
    return allocateNf4(allocator, "weights", shape, this.#source.dtypeOf(name, shape), double);
  }

  /** Fills what tensor() gave, from the source. Throws NeftuneError where values are not finite. */
  fill(name: string, to: Nf4): void {
    const finite = new FiniteCheck(this.#device, 1);
    try {
      fillQuantized(this.#device, this.#source, name, to, this.#values, finite);
      finite.expectFinite();
    } finally {
      finite.free();
    }
  }

  /** The values of a linear in its own dtype: as stored or, with `quantized`, as NF4 keeps them. Until the next call. */
  values(name: string, shape: readonly number[], quantized: boolean): Tensor {
    const values = new Tensor(this.#values.ptr, this.#source.dtypeOf(name, shape), shape);
    if (quantized) {
      const nf4 = this.tensor(name, shape);
      this.fill(name, nf4);
      nf4Dequantize(this.#device, values, nf4);
      return values;
    }
    const inPlace = this.#source.inPlace(this.#device, name, shape, values.dtype as "f32" | "bf16" | "f16");
    if (inPlace === null) this.#source.fill(this.#device, name, values);
    return inPlace ?? values;
  }

  free(): void {
    this.#device.free(this.#parts);
    this.#device.free(this.#values.ptr);
  }
}
