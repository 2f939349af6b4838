// Kernels take tensors that begin at any element: a view of a larger one need not be aligned as nt_malloc aligns. The
// result must be that of aligned tensors, bit for bit, and nothing around it may change.

import { expect, test } from "bun:test";
import {
  adamw,
  adamw8bit,
  type Device,
  type DType,
  dropout,
  dtypeBytes,
  dtypeCode,
  embeddingBackward,
  embeddingForward,
  gatherRows,
  gradientNorm,
  random,
  rmsnormBackward,
  rmsnormForward,
  rope,
  swigluBackward,
  swigluForward,
  Tensor,
} from "../../src/native/index.ts";
import { forEachBackend, poisoned, uploadInts } from "./harness.ts";
import { Random } from "./numbers.ts";

const [T, H] = [5, 136];
const samples = { cuSeqlens: Int32Array.of(0, 2, T) };
const draws = BigInt64Array.of(3n, 4n);

/** Makes tensors that begin `shift` elements into an allocation, and knows what lies around them. */
class Views {
  readonly #device: Device;
  readonly #shift: number;
  readonly #random = new Random(4);
  readonly #made: [view: Tensor, around: Tensor][] = [];

  constructor(device: Device, shift: number) {
    this.#device = device;
    this.#shift = shift;
  }

  make(dtype: DType, shape: readonly number[], scale = 1): Tensor {
    const n = shape.reduce((product, size) => product * size, 1);
    const around = poisoned(this.#device, dtype, [n + this.#shift + 1]);
    const view = new Tensor(around.ptr + this.#shift * dtypeBytes[dtype], dtype, shape);
    if (scale !== 0) this.#device.writeFloats(view, this.#random.floats(n, scale));
    this.#made.push([view, around]);
    return view;
  }

  /** The bytes of all tensors; fails where a byte around one is no longer 0xff. */
  contents(): Uint8Array[] {
    return this.#made.map(([view, around]) => {
      const bytes = this.#device.readBytes(around);
      const begin = view.ptr - around.ptr;
      const rest = [...bytes.subarray(0, begin), ...bytes.subarray(begin + view.bytes)];
      expect(rest.every((byte) => byte === 0xff)).toBe(true);
      return bytes.slice(begin, begin + view.bytes);
    });
  }
}

const optimizer = { learningRate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 1e-6, weightDecay: 0.1, step: 1 };

const operations: [string, (device: Device, views: Views, dtype: "f32" | "bf16") => void][] = [
  [
    "embedding",
    (device, views, dtype) => {
      const ids = uploadInts(device, [1, 0, 1, 2, 1]);
      const table = views.make("f32", [3, H]);
      const noise = {
        kind: "uniform",
        seed: 1,
        scales: Float32Array.of(0.1, 0.2),
        draws,
      } as const;
      embeddingForward(device, views.make(dtype, [T, H], 0), table, ids, samples, noise);
      embeddingBackward(device, views.make("f32", [3, H]), views.make(dtype, [T, H]), ids);
    },
  ],
  [
    "rmsnorm",
    (device, views, dtype) => {
      const [x, delta, weight] = [
        views.make(dtype, [T, H]),
        views.make(dtype, [T, H]),
        views.make("f32", [H]),
      ];
      const [y, rstd] = [views.make(dtype, [T, H], 0), views.make("f32", [T], 0)];
      rmsnormForward(device, y, rstd, x, weight, 1e-5, { delta, sum: x });
      const [dx, dweight] = [views.make(dtype, [T, H], 0), views.make("f32", [H])];
      rmsnormBackward(device, dx, dweight, y, x, weight, rstd, delta);
      rmsnormBackward(device, delta, null, y, x, weight, rstd, delta);
    },
  ],
  [
    "rope",
    (device, views, dtype) => {
      const tables = { cosine: views.make("f32", [T, 32]), sine: views.make("f32", [T, 32]) };
      rope(device, views.make(dtype, [T, 192]), tables, uploadInts(device, [0, 1, 2, 3, 4]), 64);
    },
  ],
  [
    "swiglu",
    (device, views, dtype) => {
      const [gateUp, h] = [views.make(dtype, [T, 2 * H]), views.make(dtype, [T, H], 0)];
      swigluForward(device, h, gateUp);
      swigluBackward(device, gateUp, h, views.make(dtype, [T, H]));
    },
  ],
  [
    "dropout",
    (device, views, dtype) => {
      const [x, y] = [views.make(dtype, [T, H]), views.make(dtype, [T, H])];
      const options = { p: 0.4, seed: 3, module: 2, draws };
      dropout(device, y, x, samples, options, true);
      dropout(device, x, x, samples, options);
    },
  ],
  ["random", (device, views, dtype) => random(device, views.make(dtype, [T * H + 3], 0), "normal", 1, 2, 3)],
  [
    "cast",
    (device, views, dtype) => {
      const [other, n] = [dtype === "f32" ? "bf16" : "f32", T * H + 3] as const;
      const [y, x] = [views.make(other, [n], 0), views.make(dtype, [n])];
      device.call("nt_cast", y.ptr, dtypeCode[other], x.ptr, dtypeCode[dtype], n);
    },
  ],
  [
    "gather_rows",
    (device, views, dtype) =>
      gatherRows(device, views.make(dtype, [3, H], 0), views.make(dtype, [T, H]), Int32Array.of(4, 0, 4)),
  ],
  [
    "gradient norm and AdamW",
    (device, views) => {
      const n = 20003;
      const [p, g, m, v] = [1, 2, 3, 4].map(() => views.make("f32", [n])) as [Tensor, Tensor, Tensor, Tensor];
      device.fill(v, 0);
      const result = views.make("f32", [2], 0);
      gradientNorm(device, result, g, 1);
      const values = { parameters: p, copy: views.make("bf16", [n], 0), gradients: g };
      adamw(device, { ...values, scale: new Tensor(result.ptr + 4, "f32", [1]) }, m, v, optimizer);
    },
  ],
  [
    "AdamW with 8-bit moments",
    (device, views) => {
      const n = 20003;
      const values = { parameters: views.make("f32", [n]), copy: views.make("bf16", [n], 0), scale: null };
      const moment = () => {
        const [codes, absmax] = [views.make("i32", [5001], 0), views.make("f32", [79], 0)];
        for (const tensor of [codes, absmax]) device.fill(tensor, 0);
        return { codes, absmax };
      };
      const gradients = views.make("f32", [n]);
      adamw8bit(device, { ...values, gradients }, moment(), moment(), optimizer);
    },
  ],
];

forEachBackend((device) => {
  for (const [name, run] of operations) {
    for (const dtype of ["f32", "bf16"] as const) {
      test(`${name} ${dtype} at any element`, () => {
        const [aligned, ...shifted] = [0, 1, 2].map((shift) => {
          const views = new Views(device, shift);
          run(device, views, dtype);
          return views.contents();
        });
        for (const contents of shifted) expect(contents).toEqual(aligned!);
      });
    }
  }
});
