// Bytes and FLOPs of what a step makes a GPU run, and the timeline that tells what that is.

import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { loadModel, timedStep } from "../../src/cli/bench/measure.ts";
import { denseSamples, makeBatches } from "../../src/cli/bench/work.ts";
import { linearModules, parseConfig } from "../../src/model/index.ts";
import {
  copyTensor,
  Device,
  kernelRuns,
  linearForward,
  loraForward,
  type RecordedCall,
  swigluBackward,
  swigluForward,
  Weight,
  waitingSeconds,
} from "../../src/native/index.ts";
import { attentionPairs, workParameters } from "../../src/native/work.ts";
import { countBatches } from "../../src/train/index.ts";
import { backends, openBackend } from "../backends.ts";

test("parameters have the names that neftune.h gives them", () => {
  const header = readFileSync(join(import.meta.dir, "../../kernels/neftune.h"), "utf8").replace(
    /\/\/.*$/gm,
    "",
  );
  const declared = new Map(
    Array.from(header.matchAll(/NT_API int32_t (\w+)\(([^)]*)\);/g), ([, name, parameters]) => [
      name!,
      parameters!.split(",").map((parameter) => /(\w+)\s*$/.exec(parameter)![1]!),
    ]),
  );
  expect(Object.keys(workParameters).length).toBeGreaterThan(15);
  for (const [name, parameters] of Object.entries(workParameters))
    expect([name, "context", ...parameters]).toEqual([name, ...(declared.get(name) ?? [])]);
});

test("attention's pairs: each position sees itself and those before it, within the window", () => {
  expect(attentionPairs([0, 4], 0)).toBe(10);
  expect(attentionPairs([0, 4, 7], 0)).toBe(16);
  expect(attentionPairs([0, 4, 7], 2)).toBe(1 + 2 + 2 + 2 + 1 + 2 + 2);
  expect(attentionPairs([0, 4], 9)).toBe(10);
});

test("the host waits where results come back", () => {
  const profile = new Map([
    ["nt_rope", { seconds: 1 }],
    ["nt_copy_to_host", { seconds: 2 }],
    ["nt_synchronize", { seconds: 4 }],
  ]);
  expect(waitingSeconds(profile)).toBe(6);
});

const runsOf = (calls: readonly RecordedCall[]) =>
  calls.flatMap((call) =>
    kernelRuns(call).map(({ name, work, launches }) => [call.name, name, launches.length, work]),
  );

test("the CPU has no timeline, and says so", () => {
  const device = Device.open({ threads: 1 });
  try {
    expect(() => device.record(() => {})).toThrow("the CPU has no timeline");
  } finally {
    device.close();
  }
});

for (const backend of backends.filter(({ kind }) => kind !== "cpu")) {
  describe(backend.kind, () => {
    test("a timeline: the kernels, products and copies of each call, their bytes and FLOPs", () => {
      const device = openBackend(backend);
      try {
        const [T, R, I] = [64, 16, 48];
        const tensor = (rows: number, columns: number) => device.allocate("bf16", [rows, columns]);
        const [x, h, gateUp] = [tensor(T, I), tensor(T, I), tensor(T, 2 * I)];
        const [a, u] = [tensor(R, I), tensor(T, R)];
        for (const each of [x, h, gateUp, a, u]) device.fill(each, 0);
        const weight = Weight.dense(device, gateUp);
        const { result, calls } = device.record(() => {
          loraForward(device, u, x, a, 1);
          swigluForward(device, h, gateUp);
          swigluBackward(device, gateUp, null, h);
          copyTensor(device, h, x);
          return 7;
        });
        expect(result).toBe(7);
        expect(runsOf(calls)).toEqual([
          [
            "nt_lora_forward",
            "lora_down_kernel",
            1,
            { bytes: 2 * (T * I + T * R + R * I), flops: 2 * T * R * I },
          ],
          ["nt_swiglu_forward", "swiglu_forward_kernel", 1, { bytes: 2 * 3 * T * I, flops: 0 }],
          ["nt_swiglu_backward", "swiglu_backward_kernel", 1, { bytes: 2 * 5 * T * I, flops: 0 }],
          ["nt_copy", "copy", 1, { bytes: 2 * 2 * T * I, flops: 0 }],
        ]);
        for (const { launches, hostSeconds } of calls) {
          expect(hostSeconds).toBeGreaterThan(0);
          for (const { seconds } of launches) expect(seconds).toBeGreaterThan(0);
        }

        // A new timeline holds nothing of the one before, also where work fails in between.
        expect(() =>
          device.record(() => {
            swigluForward(device, h, gateUp);
            throw new Error("stopped");
          }),
        ).toThrow("stopped");
        const { calls: again } = device.record(() =>
          linearForward(device, tensor(T, T), tensor(T, 2 * I), weight, null),
        );
        const product = again.flatMap(({ launches }) => launches).find(({ name }) => name === "matmul");
        expect(product?.product).toEqual({
          ...{ m: T, n: T, k: 2 * I, operandBytes: 2, resultBytes: 2, accumulates: false },
        });
        expect(runsOf(again).at(-1)).toEqual([
          "nt_linear_forward",
          `matmul ${T}x${2 * I}x${T}`,
          1,
          { bytes: 2 * (2 * T * 2 * I + T * T), flops: 2 * T * T * 2 * I },
        ]);
        expect(device.record(() => {}).calls).toEqual([]);
      } finally {
        device.close();
      }
    });

    // Rows that no vector load reaches are left to the kernel of one thread an element.
    for (const [kernel, T, N, K] of [
      ["few_rows", 5, 24, 64],
      ["product_plain", 5, 3, 7],
    ] as const) {
      test(`a product by ${kernel} has its bytes and FLOPs`, () => {
        const device = openBackend(backend);
        try {
          const tensor = (rows: number, columns: number) => device.allocate("bf16", [rows, columns]);
          const [y, x, w] = [tensor(T, N), tensor(T, K), tensor(N, K)];
          for (const each of [x, w]) device.fill(each, 0);
          const weight = Weight.dense(device, w);
          const { calls } = device.record(() => {
            linearForward(device, y, x, weight, null);
          });
          expect(runsOf(calls)).toEqual([
            [
              "nt_linear_forward",
              `${kernel} ${T}x${K}x${N}`,
              1,
              { bytes: 2 * (T * K + K * N + T * N), flops: 2 * T * N * K },
            ],
          ]);
        } finally {
          device.close();
        }
      });
    }

    test("every kernel of a training step has its bytes and FLOPs", () => {
      const device = openBackend(backend);
      const config = parseConfig("test", {
        ...{
          model_type: "qwen3",
          hidden_size: 64,
          intermediate_size: 96,
          num_hidden_layers: 2,
          head_dim: 64,
        },
        ...{ num_attention_heads: 2, num_key_value_heads: 1, vocab_size: 64, tie_word_embeddings: true },
        ...{ max_position_embeddings: 64, rms_norm_eps: 1e-6, attention_bias: true },
      });
      const batches = makeBatches(denseSamples(2, 8, config.vocabSize, 1), 1, 2, 1);
      const [batch] = batches;
      const counts = countBatches(batches);
      const lora = { r: 8, alpha: 8, dropout: 0.1, targetModules: [...linearModules], useRslora: false };
      const common = { recompute: "layer", optim: "adamw", seed: 1, quantization: null } as const;
      try {
        for (const settings of [
          { ...common, tune: "full", dtype: "bf16", lora: null },
          { ...common, tune: "full", dtype: "f32", lora: null },
          { ...common, tune: "lora", dtype: "bf16", lora },
          { ...common, tune: "lora", dtype: "bf16", lora, quantization: { double: true } },
        ] as const) {
          const model = loadModel(device, config, batches, settings);
          try {
            const context = { signal: new AbortController().signal };
            const { calls } = device.record(() => timedStep(model, batch!, 1e-3, 1, counts, context));
            const runs = calls.flatMap((call) =>
              kernelRuns(call).map((run) => ({ ...run, call: call.name })),
            );
            expect(runs.length).toBeGreaterThan(50);
            expect(runs.filter(({ work }) => work === null).map(({ call, name }) => [call, name])).toEqual(
              [],
            );
          } finally {
            model.close();
          }
        }
      } finally {
        device.close();
      }
    });
  });
}
