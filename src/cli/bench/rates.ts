// What the device itself can do, measured in the same run as the steps: products, and on a GPU a copy.

import { groupModules, groupNames, type LlamaConfig, linearShape } from "../../model/index.ts";
import { copyTensor, type Device, dtypeBytes, linearForward, random, Weight } from "../../native/index.ts";
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

/** Products enqueued on a GPU before each wait, which takes as long as a small product. */
const GPU_PRODUCTS = 20;

/** Edge of the product that stands for the device's ceiling: large enough to reach it, small enough to finish quickly. */
const ceilingEdge = { cpu: 2048, cuda: 8192, emulated: 256 } as const;

/** The device's own rate for y[m,n] = x[m,k]·W[n,k]ᵀ: the median of repeated products. GFLOP/s. */
function matmulRate(device: Device, dtype: "f32" | "bf16", m: number, k: number, n: number): number {
  const x = device.allocate(dtype, [m, k]);
  const data = device.allocate(dtype, [n, k]);
  const y = device.allocate(dtype, [m, n]);
  random(device, x, "normal", 1, 0, 0);
  random(device, data, "normal", 1, 0, 1);
  const weight = Weight.dense(device, data);
  const times: number[] = [];
  const products = device.isHost ? 1 : GPU_PRODUCTS;
  try {
    const end = performance.now() + CEILING_SECONDS * 1000;
    while (times.length < 5 || performance.now() < end) {
      const start = performance.now();
      for (let i = 0; i < products; i++) linearForward(device, y, x, weight, null);
      device.synchronize();
      times.push((performance.now() - start) / 1000 / products);
    }
  } finally {
    weight.destroy();
    for (const tensor of [x, data, y]) device.free(tensor.ptr);
  }
  // The first makes the primitive.
  return (2 * m * k * n) / median(times.slice(1)) / 1e9;
}

/** The ceiling's cube first (on the CPU 2048³), then each different shape of the model's linears, for a step's tokens. */
function matmulRates(
  device: Device,
  config: LlamaConfig,
  dtype: "f32" | "bf16",
  tokens: number,
): MatmulRate[] {
  const edge = ceilingEdge[device.info.backend];
  const shapes = new Map<string, [number, number, number]>([["cube", [edge, edge, edge]]]);
  for (const name of groupNames) {
    const group = groupModules[name].map((module) => linearShape(config, module));
    const inputs = group[0]![1];
    const out = group.reduce((sum, [rows]) => sum + rows, 0);
    shapes.set(`${inputs}x${out}`, [tokens, inputs, out]);
  }
  return [...shapes.values()].map((shape) => ({ shape, gflops: matmulRate(device, dtype, ...shape) }));
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

/** Measures them; `copy` is null on the CPU. */
export function deviceRates(
  device: Device,
  config: LlamaConfig,
  dtype: "f32" | "bf16",
  tokens: number,
): { matmuls: MatmulRate[]; copy: number | null } {
  return {
    matmuls: matmulRates(device, config, dtype, tokens),
    copy: device.isHost ? null : copyRate(device),
  };
}
