// What the device itself can do, measured in the same run as the steps: products, and on a GPU a copy.

import { groupModules, groupNames, type LlamaConfig, linearShape } from "../../model/index.ts";
import {
  copyTensor,
  type Device,
  dtypeBytes,
  linearForward,
  random,
  type Tensor,
  Weight,
} from "../../native/index.ts";
import { median } from "./work.ts";

export interface DeviceRates {
  /** Bytes per second of a large copy on the device, reads and writes both counted. */
  copy: number;
  /** FLOP/s of the fastest product. */
  matmul: number;
}

export interface MatmulRate {
  /** Tokens × in × out. */
  shape: [number, number, number];
  gflops: number;
}

/** How long, in seconds, products of one shape are repeated. */
const CEILING_SECONDS = 0.4;
const SECONDS_AFTER_STEP = 0.2;

/** Products enqueued on a GPU before each wait, which takes as long as a small product. */
const GPU_PRODUCTS = 20;

/** Edge of the product that stands for the device's ceiling: large enough to reach it, small enough to finish quickly. */
const ceilingEdge = { cpu: 2048, cuda: 8192, emulated: 256 } as const;

/** y[m,n] = x[m,k]·W[n,k]ᵀ on random values, again and again. */
class RepeatedProduct {
  readonly #device: Device;
  readonly #tensors: { x: Tensor; data: Tensor; y: Tensor };
  readonly #weight: Weight;
  readonly #times: number[] = [];

  constructor(
    device: Device,
    dtype: "f32" | "bf16",
    readonly shape: MatmulRate["shape"],
  ) {
    const [m, k, n] = shape;
    this.#device = device;
    const x = device.allocate(dtype, [m, k]);
    const data = device.allocate(dtype, [n, k]);
    random(device, x, "normal", 1, 0, 0);
    random(device, data, "normal", 1, 0, 1);
    this.#tensors = { x, data, y: device.allocate(dtype, [m, n]) };
    this.#weight = Weight.dense(device, data);
    // The first makes the primitive.
    this.#multiply(1);
  }

  #multiply(products: number): void {
    const { x, y } = this.#tensors;
    for (let i = 0; i < products; i++) linearForward(this.#device, y, x, this.#weight, null);
    this.#device.synchronize();
  }

  /** Repeats the product for `seconds`, and at least `least` times. */
  measure(seconds: number, least: number): void {
    const products = this.#device.isHost ? 1 : GPU_PRODUCTS;
    const end = performance.now() + seconds * 1000;
    for (let i = 0; i < least || performance.now() < end; i++) {
      const start = performance.now();
      this.#multiply(products);
      this.#times.push((performance.now() - start) / 1000 / products);
    }
  }

  /** The median of all that was measured. */
  get rate(): MatmulRate {
    const [m, k, n] = this.shape;
    return { shape: this.shape, gflops: (2 * m * k * n) / median(this.#times) / 1e9 };
  }

  close(): void {
    this.#weight.destroy();
    for (const tensor of Object.values(this.#tensors)) this.#device.free(tensor.ptr);
  }
}

const ceilingProduct = (device: Device, dtype: "f32" | "bf16") => {
  const edge = ceilingEdge[device.info.backend];
  return new RepeatedProduct(device, dtype, [edge, edge, edge]);
};

function matmulRate(product: RepeatedProduct): MatmulRate {
  try {
    product.measure(CEILING_SECONDS, 4);
    return product.rate;
  } finally {
    product.close();
  }
}

/**
 * A CPU's ceiling, measured a little after every step: on a machine with other work the rate swings, and the steps have to
 * be compared with what it was meanwhile. Holds its operands' memory until `close`.
 */
export class CeilingBesideSteps {
  readonly #product: RepeatedProduct;

  constructor(device: Device, dtype: "f32" | "bf16") {
    this.#product = ceilingProduct(device, dtype);
  }

  afterStep(): void {
    this.#product.measure(SECONDS_AFTER_STEP, 1);
  }

  get rate(): MatmulRate {
    return this.#product.rate;
  }

  close(): void {
    this.#product.close();
  }
}

/** Each different shape of the model's linears, for a step's tokens. */
function linearShapes(config: LlamaConfig, tokens: number): MatmulRate["shape"][] {
  const shapes = new Map<string, MatmulRate["shape"]>();
  for (const name of groupNames) {
    const group = groupModules[name].map((module) => linearShape(config, module));
    const inputs = group[0]![1];
    const out = group.reduce((sum, [rows]) => sum + rows, 0);
    shapes.set(`${inputs}x${out}`, [tokens, inputs, out]);
  }
  return [...shapes.values()];
}

/** Large enough that no cache holds it; under the emulator, small enough not to wait for. */
const copiedBytes = { cpu: 2 ** 28, cuda: 2 ** 30, emulated: 2 ** 22 } as const;

/** Bytes per second of a copy on a GPU, by events; the median of several. */
function copyRate(device: Device): number {
  const values = copiedBytes[device.info.backend] / dtypeBytes.f32;
  const tensors = [0, 1].map((stream) => {
    const tensor = device.allocate("f32", [values]);
    random(device, tensor, "normal", 1, 0, stream);
    return tensor;
  });
  const [from, to] = [tensors[0]!, tensors[1]!];
  try {
    const { calls } = device.record(() => {
      for (let i = 0; i < 10; i++) copyTensor(device, to, from);
    });
    // The first makes the pages known to the device.
    const launches = calls.flatMap((call) => call.launches).slice(1);
    return (2 * from.bytes) / median(launches.map(({ seconds }) => seconds));
  } finally {
    for (const tensor of tensors) device.free(tensor.ptr);
  }
}

/** Products' rates, the ceiling's first, which is measured now unless it was `beside` the steps; `copy` is null on the CPU. */
export function deviceRates(
  device: Device,
  config: LlamaConfig,
  dtype: "f32" | "bf16",
  tokens: number,
  beside: CeilingBesideSteps | null,
): { matmuls: MatmulRate[]; copy: number | null } {
  const ceiling = beside?.rate ?? matmulRate(ceilingProduct(device, dtype));
  const shapes = linearShapes(config, tokens);
  return {
    matmuls: [ceiling, ...shapes.map((shape) => matmulRate(new RepeatedProduct(device, dtype, shape)))],
    copy: device.isHost ? null : copyRate(device),
  };
}
