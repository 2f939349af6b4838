// LoRA folded into a GPU's products: the numbers are the CPU's, which adds LoRA's term by itself.

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { readSafetensorsHeader, writeSafetensors } from "../../src/formats/safetensors.ts";
import { type FoldedGroup, foldedGroups, foldedSizes, foldOf } from "../../src/model/fold.ts";
import {
  checkpointSource,
  Llama,
  type LoraOptions,
  linearModules,
  type ModelSource,
} from "../../src/model/index.ts";
import { storedNf4Tensors } from "../../src/model/nf4-tensors.ts";
import { Device, sizeOf } from "../../src/native/index.ts";
import { runLimits, type StepUpdate, trainStep } from "../../src/train/index.ts";
import { layOut } from "../../src/train/order.ts";
import { emulated, openBackend } from "../backends.ts";
import { folder, readCase, toSample } from "../golden/support.ts";
import { scratchFolder } from "../scratch.ts";

setDefaultTimeout(120_000);

const shape = "tiny-gqa-bf16-sharded";
const modelDir = join(folder, "models", shape);
const source = checkpointSource(modelDir);
const dataset = (await readCase(shape)).samples.map(toSample).slice(0, 2);
const batch = { batch: layOut(dataset, true), draws: BigInt64Array.of(0n, 1n) };
const update = (step: number): StepUpdate => ({
  maxGradNorm: 1,
  adamw: { learningRate: 1e-2, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.1, step },
});

const all: LoraOptions = {
  ...{ r: 16, alpha: 10, dropout: 0, useRslora: false },
  targetModules: [...linearModules],
};

type Loading = Pick<Parameters<typeof Llama.load>[2], "dtype" | "recompute" | "quantization">;

function load(device: Device, lora: LoraOptions, loading: Loading, from: ModelSource = source): Llama {
  const limits = runLimits({ dataset, options: { batchSize: 2, maxSteps: 1 } });
  return Llama.load(device, from, { ...loading, ...limits, tune: "lora", seed: 42, lora });
}

/** Losses and gradient norms of two steps, the values behind them, and what the last step launched. */
function train(device: Device, lora: LoraOptions, loading: Loading, from?: ModelSource) {
  const model = load(device, lora, loading, from);
  const numbers: number[] = [];
  const step = (number: number) => {
    const { loss, gradNorm } = trainStep(model, [batch], update(number));
    numbers.push(loss, gradNorm);
  };
  step(1);
  const { calls } = device.isHost ? { calls: [] } : device.record(() => step(2));
  if (device.isHost) step(2);
  const { parameters } = model;
  const values = parameters!.part("lora").map(({ name }) => parameters!.read(name));
  model.close();
  return {
    numbers,
    values,
    calls,
    launched: new Set(calls.flatMap(({ launches }) => launches.map(({ name }) => name))),
  };
}

/** The root of all values' squares. */
const norm = (tensors: readonly Float32Array[]) =>
  Math.sqrt(tensors.reduce((sum, values) => values.reduce((part, x) => part + x * x, sum), 0));

function expectAlike(got: ReturnType<typeof train>, want: ReturnType<typeof train>, dtype: "f32" | "bf16") {
  const limit = dtype === "f32" ? 2e-4 : 2e-2;
  for (const [i, number] of want.numbers.entries())
    expect(Math.abs(got.numbers[i]! / number - 1)).toBeLessThan(limit);
  if (dtype === "bf16") return;
  // AdamW's first steps turn the rounding of a gradient near zero into a change of lr.
  const apart = want.values.map((values, i) => values.map((value, j) => value - got.values[i]![j]!));
  expect(norm(apart) / norm(want.values)).toBeLessThan(2e-3);
}

/** Gives A and B values that matter. */
function writeAdapters({ parameters }: Llama): void {
  for (const { name, shape } of parameters!.part("lora"))
    parameters!.write(
      name,
      new Float32Array(sizeOf(shape)).map((_, i) => Math.sin(i) / 4),
    );
  parameters!.afterWrite();
}

const scratch = scratchFolder();

/** The model with the weights of these linears in NF4, as checkpoints have it that leave some out. */
function partlyQuantized(device: Device, modules: RegExp): ModelSource {
  const path = join(scratch, "part.safetensors");
  const model = load(device, all, { dtype: "f32", recompute: "none", quantization: { double: false } });
  const weights = [...model.quantized].filter(([name]) => modules.test(name));
  writeSafetensors(
    path,
    weights.flatMap(([name, nf4]) => storedNf4Tensors(device, name, nf4)),
    { format: "pt" },
  );
  model.close();
  return checkpointSource(modelDir, readSafetensorsHeader(path));
}

const layers = source.config.numHiddenLayers;
const fewer: LoraOptions = {
  ...all,
  layerModules: Array.from({ length: layers }, (_, i) =>
    i === layers - 1 ? ["k_proj", "down_proj"] : [...linearModules],
  ),
};
const cases: Record<string, { lora: LoraOptions; isNf4?: boolean; isFolded: boolean | "in part" }> = {
  "all linears": { lora: all, isFolded: true },
  "a rank of 5": { lora: { ...all, r: 5 }, isFolded: true },
  "some linears, rsLoRA": {
    lora: { ...all, r: 8, useRslora: true, targetModules: ["q_proj", "v_proj", "up_proj", "down_proj"] },
    isFolded: true,
  },
  "one linear, the smallest": { lora: { ...all, targetModules: ["k_proj"] }, isFolded: true },
  "fewer linears in the last layer": { lora: fewer, isFolded: "in part" },
  "a rank of 128": { lora: { ...all, r: 128 }, isFolded: true },
  "a rank of 256": { lora: { ...all, r: 256, targetModules: ["q_proj", "v_proj"] }, isFolded: false },
  "NF4, all linears": { lora: all, isNf4: true, isFolded: true },
  "NF4, some linears": {
    lora: { ...all, targetModules: ["k_proj", "v_proj", "gate_proj", "down_proj"] },
    ...{ isNf4: true, isFolded: true },
  },
  "a rank of 256, all linears": { lora: { ...all, r: 256 }, isFolded: "in part" },
  dropout: { lora: { ...all, dropout: 0.25 }, isFolded: true },
  "dropout, fewer linears in the last layer": {
    lora: { ...fewer, dropout: 0.25 },
    isFolded: "in part",
  },
  "dropout, NF4, some linears": {
    lora: { ...all, dropout: 0.25, targetModules: ["q_proj", "v_proj", "up_proj", "o_proj"] },
    ...{ isNf4: true, isFolded: true },
  },
};

describe.skipIf(emulated === undefined)("on a GPU", () => {
  const device = emulated && openBackend(emulated);
  for (const [name, { lora, isNf4 = false, isFolded }] of Object.entries(cases)) {
    const dtypes =
      isFolded === true && lora.r === 16 && lora.targetModules.length > 1
        ? (["f32", "bf16"] as const)
        : (["f32"] as const);
    for (const dtype of dtypes) {
      test(`${name}, ${dtype}: the CPU's numbers`, () => {
        const cpu = Device.open({ threads: 2 });
        const loading: Loading = {
          ...{ dtype, recompute: "none" },
          quantization: isNf4 ? { double: true } : null,
        };
        const want = train(cpu, lora, loading);
        const got = train(device!, lora, loading);
        expectAlike(got, want, dtype);
        if (dtype === "bf16") expect(got.launched.has("lora_up_kernel")).toBe(!isFolded);
        expect(got.launched.has("copy_blocks_kernel")).toBe(isFolded !== false);
        cpu.close();
      });
    }
  }

  test("a group with some of its weights in NF4 is multiplied weight by weight", () => {
    const cpu = Device.open({ threads: 2 });
    const mixed = partlyQuantized(cpu, /\.(k|v|up|down)_proj\./);
    const loading: Loading = { dtype: "f32", recompute: "none", quantization: null };
    expectAlike(train(device!, all, loading, mixed), train(cpu, all, loading, mixed), "f32");
    cpu.close();
  });

  test("biases are in the products", () => {
    const cpu = Device.open({ threads: 2 });
    const biased = checkpointSource(join(folder, "models", "tiny-qwen2-tied-bf16"));
    const loading: Loading = { dtype: "f32", recompute: "none", quantization: null };
    expectAlike(train(device!, all, loading, biased), train(cpu, all, loading, biased), "f32");
    cpu.close();
  });

  test("few rows are multiplied with NF4 weights as they are stored", () => {
    const model = load(device!, all, { dtype: "bf16", recompute: "none", quantization: { double: true } });
    const isExpanded = (tokens: number) => {
      const ids = new Int32Array(tokens).fill(5);
      const short = layOut([{ ids, labels: ids, truncated: false }], true);
      const { calls } = device!.record(() => void model.evaluate(short));
      return calls.some(({ launches }) => launches.some(({ name }) => name === "dequantize_kernel"));
    };
    expect([isExpanded(8), isExpanded(9)]).toEqual([false, true]);
    model.close();
  });

  test("values that a checkpoint brings are in the products", () => {
    const cpu = Device.open({ threads: 2 });
    const [want, got] = [cpu, device!].map((one) => {
      const model = load(one, all, { dtype: "f32", recompute: "none", quantization: null });
      const before = model.evaluate(batch.batch);
      writeAdapters(model);
      const after = model.evaluate(batch.batch);
      model.close();
      return { before, after };
    });
    for (const [i, loss] of want!.after.entries()) expect(got!.after[i]! / loss - 1).toBeCloseTo(0, 4);
    expect(norm([want!.after.map((loss, i) => loss - want!.before[i]!)])).toBeGreaterThan(0.1);
    cpu.close();
  });

  test("dropout is in the forward pass of training, not of evaluation", () => {
    const cpu = Device.open({ threads: 2 });
    for (const one of [cpu, device!]) {
      const [changed, unchanged] = [0.25, 0].map((dropout) => {
        const model = load(one, { ...all, dropout }, { dtype: "f32", recompute: "none" });
        writeAdapters(model);
        const [trained, evaluated] = [model.trainBatch(batch.batch, 1, batch), model.evaluate(batch.batch)];
        model.close();
        return Math.max(...trained.map((loss, i) => Math.abs(loss - evaluated[i]!)));
      });
      expect(changed).toBeGreaterThan(0.01);
      expect(unchanged).toBe(0);
    }
    cpu.close();
  });

  test.each([0, 0.25])("what is recomputed has the same bits, dropout %p", (dropout) => {
    const [first, ...others] = (["none", "mlp", "layer"] as const).map((recompute) => {
      const loading: Loading = { dtype: "bf16", recompute, quantization: null };
      const { numbers, values } = train(device!, { ...all, dropout }, loading);
      return { numbers, values };
    });
    for (const other of others) expect(other).toEqual(first!);
  });

  test.each([0, 0.25])("a group is one product forward and one back, dropout %p", (dropout) => {
    const { calls } = train(device!, { ...all, dropout }, { dtype: "bf16", recompute: "none" });
    const products = (name: string) =>
      calls.filter((call) => call.name === name).map(({ launches }) => launches.length);
    expect(products("nt_linear_forward")).toEqual(new Array(4 * layers).fill(1));
    // The first layer's q, k and v pass no gradient on.
    expect(products("nt_linear_backward_input")).toEqual(new Array(4 * layers - 1).fill(1));
  });
});

test("columns fill sums to multiples of 64; a group without adapters, or with many, has none", () => {
  const { config } = source;
  const options = { ...({ dtype: "bf16", tune: "lora", training: true, quantization: null } as const) };
  const gpu = { isHost: false };
  const lora: LoraOptions = { ...all, r: 5, targetModules: ["q_proj", "k_proj", "gate_proj"] };
  const fold = foldOf(gpu, config, { ...options, lora })!;
  const { hiddenSize: H, intermediateSize: I, numAttentionHeads, numKeyValueHeads, headDim } = config;
  const qkv = (numAttentionHeads + 2 * numKeyValueHeads) * headDim;
  const behind = (width: number, R: number) => Math.ceil((width + R) / 64) * 64 - width;
  expect(fold.qkv).toEqual({ u: behind(H, 16), g: behind(qkv, 16) });
  expect(fold.gateUp).toEqual({ u: behind(H, 8), g: behind(2 * I, 8) });
  expect(fold.o).toEqual({ u: 0, g: 0 });
  const dropped = foldOf(gpu, config, { ...options, lora: { ...lora, dropout: 0.1 } })!;
  expect(dropped.qkv).toEqual({ u: behind(H, 16), g: 0 });
  const high = foldOf(gpu, config, { ...options, lora: { ...lora, r: 200 } })!;
  expect([high.qkv, high.gateUp]).toEqual([
    { u: 0, g: 0 },
    { u: behind(H, 200), g: behind(2 * I, 200) },
  ]);
  for (const other of [{ training: false }, { lora: { ...lora, r: 400 } }])
    expect(foldOf(gpu, config, { ...options, lora, ...other })).toBeNull();
  expect(foldOf({ isHost: true }, config, { ...options, lora })).toBeNull();
  // Another model's weights have no room for A and B beside them.
  const shared = {} as NonNullable<Parameters<typeof foldOf>[2]["shared"]>;
  expect(foldOf(gpu, config, { ...options, lora, shared })).toBeNull();
});

test("groups are folded in layers with all of their targets", () => {
  const { config } = source;
  const { lora } = cases["fewer linears in the last layer"]!;
  const columns = { u: 1, g: 2 };
  const groups = foldedGroups(config, lora, { qkv: columns, o: columns, gateUp: columns, down: columns });
  const firsts = { "self_attn.q_proj": 3, "self_attn.o_proj": 1, "mlp.gate_proj": 2, "mlp.down_proj": 1 };
  const wanted = Array.from({ length: layers }, (_, i) =>
    Object.entries(firsts).map(([name, weights]): [string, FoldedGroup] => [
      `model.layers.${i}.${name}.weight`,
      { ...columns, weights },
    ]),
  ).flat();
  expect([...groups]).toEqual(wanted.slice(0, -4).concat(wanted.slice(-1)));
});

test("memory for the largest matrix, and for the largest part beside its weights", () => {
  const { config } = source;
  const { hiddenSize: H, intermediateSize: I } = config;
  const [none, wide, high] = [
    { u: 0, g: 0 },
    { u: 1000, g: 1 },
    { u: 1, g: 1000 },
  ];
  const rest = { qkv: none, o: none };
  expect(foldedSizes(config, { ...rest, gateUp: wide, down: none })).toEqual({
    matrix: (2 * I + 1) * (H + 1000),
    part: 2 * I * 1000,
  });
  expect(foldedSizes(config, { ...rest, gateUp: none, down: high })).toEqual({
    matrix: (H + 1000) * (I + 1),
    part: 1000 * I,
  });
});
