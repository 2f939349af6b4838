// Models with their linears in NF4: what they compute, what they take, and the cache of them.

import { afterAll, describe, expect, test } from "bun:test";
import {
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { basename, join } from "node:path";
import { writeRandomModel } from "../../src/cli/init.ts";
import { peakBytes, resetPeakBytes, residentBytes } from "../../src/cli/process/memory.ts";
import { openCheckpoint } from "../../src/formats/checkpoint.ts";
import { readTensorData, writeSafetensors } from "../../src/formats/safetensors.ts";
import {
  checkpointSource,
  Llama,
  type LlamaConfig,
  linearModules,
  type ModelOptions,
  type ModelSource,
  parseConfig,
  planFor,
  QuantizedCache,
  randomSource,
} from "../../src/model/index.ts";
import { Device, nf4Dequantize } from "../../src/native/index.ts";
import { modelPreset } from "../../src/presets/presets.ts";
import { presetConfig, readShape } from "../../src/presets/shapes.ts";
import { describeBackends } from "../backends.ts";
import { folder, packed, readCase } from "../golden/support.ts";
import { scratchFolder } from "../scratch.ts";

const scratch = scratchFolder();

const modelDir = (name: string) => join(folder, "models", name);
const common = {
  ...{ dtype: "f32", tune: "none", recompute: "none", maxTokens: 256, maxTargets: 256, maxPosition: 256 },
  seed: 0,
} satisfies ModelOptions;
const golden = await readCase("tiny-gqa-bf16-sharded");
const batch = packed(golden.forward.slice(0, 2));

function logitsOf(device: Device, source: ModelSource, changes: Partial<ModelOptions> = {}): Float32Array {
  const model = Llama.load(device, source, { ...common, ...changes });
  try {
    return model.logits(batch, Int32Array.from(batch.ids.keys()));
  } finally {
    model.close();
  }
}

const largest = (a: Float32Array, b: Float32Array) =>
  a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0);

describeBackends((device) => {
  for (const double of [true, false]) {
    test(`${double ? "double" : "single"} quantization computes with the values that it stands for`, () => {
      const source = checkpointSource(modelDir("tiny-gqa-bf16-sharded"));
      const model = Llama.load(device, source, { ...common, quantization: { double } });
      expect(model.quantized.size).toBe(3 * 7);
      const logits = model.logits(batch, Int32Array.from(batch.ids.keys()));
      const dense = join(scratch, `dense-${double}-${device.info.backend}`);
      cpSync(join(modelDir("tiny-gqa-bf16-sharded"), "config.json"), join(dense, "config.json"));
      const tensors = [...openCheckpoint(modelDir("tiny-gqa-bf16-sharded")).tensors].map(
        ([name, { file, entry }]) => {
          const nf4 = model.quantized.get(name);
          if (nf4 === undefined)
            return { name, dtype: entry.dtype, shape: entry.shape, data: readTensorData(file, name) };
          const values = device.allocate("f32", nf4.shape);
          nf4Dequantize(device, values, nf4);
          const data = device.readBytes(values);
          device.free(values.ptr);
          return { name, dtype: "F32" as const, shape: nf4.shape, data };
        },
      );
      writeSafetensors(join(dense, "model.safetensors"), tensors);
      model.close();
      expect(largest(logits, logitsOf(device, checkpointSource(dense)))).toBeLessThan(1e-4);
      // And they are not the values that were quantized.
      expect(
        largest(logits, logitsOf(device, checkpointSource(modelDir("tiny-gqa-bf16-sharded")))),
      ).toBeGreaterThan(1e-3);
    });
  }

  test("the cache gives the same bits; a file that is not whole counts as absent", () => {
    const dir = modelDir("tiny-gqa-bf16-sharded");
    for (const quantization of [{ double: true }, { double: false }]) {
      const cacheFolder = join(scratch, "cache", device.info.backend);
      const cache = new QuantizedCache(cacheFolder, dir, checkpointSource(dir), quantization, device);
      expect(cache.open()).toBeNull();
      const model = Llama.load(device, checkpointSource(dir), { ...common, quantization });
      const logits = model.logits(batch, Int32Array.from(batch.ids.keys()));
      cache.save(device, model.quantized);
      model.close();
      const source = checkpointSource(dir, cache.open());
      expect(source.isQuantized).toBe(true);
      expect(logitsOf(device, source, { quantization })).toEqual(logits);
      truncateSync(cache.path, 10_000);
      expect(cache.open()).toBeNull();
    }
    expect(readdirSync(join(scratch, "cache", device.info.backend))).toHaveLength(2);
  });
});

test("what a killed process left in the cache goes, what another process writes now stays", () => {
  const device = Device.open({ threads: 1 });
  const dir = modelDir("tiny-mha-nf4");
  const cache = join(scratch, "leftovers");
  mkdirSync(cache);
  const partial = (digit: string) => `.${digit.repeat(32)}.safetensors.1.partial`;
  for (const [name, hours] of [
    [partial("0"), 2],
    [partial("1"), 0.5],
    ["mine.partial", 2],
  ] as const) {
    writeFileSync(join(cache, name), "");
    utimesSync(join(cache, name), 1, Date.now() / 1000 - hours * 3600);
  }
  const source = checkpointSource(dir);
  const model = Llama.load(device, source, common);
  const place = new QuantizedCache(cache, dir, source, { double: true }, device);
  place.save(device, model.quantized);
  model.close();
  expect(readdirSync(cache).sort()).toEqual([partial("1"), basename(place.path), "mine.partial"].sort());
  device.close();
});

test("the cache tells models, settings and versions of a file apart", () => {
  const device = Device.open({ threads: 1 });
  const dir = join(scratch, "changing");
  cpSync(modelDir("tiny-mha-f32"), dir, { recursive: true });
  const pathOf = (double: boolean) =>
    new QuantizedCache("cache", dir, checkpointSource(dir), { double }, device).path;
  const first = pathOf(true);
  expect(pathOf(true)).toBe(first);
  expect(pathOf(false)).not.toBe(first);
  utimesSync(join(dir, "model.safetensors"), 1, 1);
  expect(pathOf(true)).not.toBe(first);
  device.close();
});

describe("refused", () => {
  const device = Device.open({ threads: 1 });
  afterAll(() => device.close());

  test("full fine-tuning in 4 bits, and of a quantized checkpoint", () => {
    const load = (name: string, changes: Partial<ModelOptions>) =>
      Llama.load(device, checkpointSource(modelDir(name)), { ...common, tune: "full", ...changes });
    expect(() => load("tiny-mha-f32", { quantization: { double: true } })).toThrow(
      "leave --quantization nf4 out, or take --tune lora",
    );
    expect(() => load("tiny-mha-nf4", {})).toThrow(
      "this checkpoint's are quantized; take the original weights",
    );
  });

  test("a quantized checkpoint of another shape than its config.json", () => {
    const dir = join(scratch, "wider");
    cpSync(modelDir("tiny-mha-nf4"), dir, { recursive: true });
    const config = JSON.parse(readFileSync(join(dir, "config.json"), "utf8")) as object;
    writeFileSync(join(dir, "config.json"), JSON.stringify({ ...config, intermediate_size: 180 }));
    expect(() => Llama.load(device, checkpointSource(dir), common)).toThrow(
      "has shape [176,64], but config.json makes it [180,64]",
    );
  });
});

describe("the plan", () => {
  const device = Device.open({ threads: 1 });
  afterAll(() => device.close());
  const lora = { r: 16, alpha: 16, dropout: 0, targetModules: [...linearModules], useRslora: false };
  const plan = (config: LlamaConfig, double: boolean | null, tokens = 4096) => {
    const request = {
      ...({ dtype: "bf16", tune: "lora", lora, training: true, recompute: "auto" } as const),
      ...{ maxTokens: tokens, maxTargets: tokens },
      quantization: double === null ? null : { double },
    };
    return planFor(device, randomSource({ ...config, dtype: "bf16" }), request, "input");
  };

  test("7B in NF4: weights of at most 4.3 GiB, and one matrix in full", () => {
    const config = presetConfig(modelPreset("llama2-7b")!)!;
    const [nf4, single, dense] = [plan(config, true), plan(config, false), plan(config, null)];
    expect(nf4.weights).toBeLessThan(4.3 * 2 ** 30);
    // 4 bits and an 8-bit scale for 64 of them; embeddings and lm_head in bf16.
    const linears = 32 * (4 * 4096 ** 2 + 3 * 4096 * 11008);
    const others = (2 * 32000 * 4096 + 65 * 4096) * 2;
    expect(nf4.weights / (linears * (1 / 2 + 1 / 64 + 4 / 64 / 256) + others)).toBeCloseTo(1, 3);
    expect(single.weights - nf4.weights).toBeGreaterThan((linears / 64) * 2.9);
    const matrix = 4096 * 11008;
    expect(nf4.workspace - dense.workspace).toBeGreaterThanOrEqual(2 * matrix);
    expect(nf4.workspace - dense.workspace).toBeLessThan(2.1 * matrix);
    expect(nf4.trained).toBe(dense.trained);
    expect(nf4.activations).toBe(dense.activations);
  });

  test("1.1B in NF4 trains in 2 GiB", () => {
    expect(plan(readShape("t1b"), true, 2048).total).toBeLessThan(2 * 2 ** 30 - 150 * 2 ** 20);
  });
});

test("quantizing on load holds one weight at a time in full, of the file's pages too", () => {
  const device = Device.open({ threads: 2 });
  const config = parseConfig("config.json", {
    ...{ model_type: "llama", hidden_size: 1024, intermediate_size: 4096, num_hidden_layers: 4 },
    ...{ num_attention_heads: 8, vocab_size: 512, tie_word_embeddings: true },
  });
  const dir = join(scratch, "large");
  mkdirSync(dir);
  writeRandomModel(device, dir, { ...config, dtype: "bf16" }, 1);
  const bytes = statSync(join(dir, "model.safetensors")).size; // 135 MB
  Bun.gc(true);
  expect(resetPeakBytes()).toBe(true);
  const before = residentBytes();
  const options = { ...common, dtype: "bf16", quantization: { double: true } } as const;
  const model = Llama.load(device, checkpointSource(dir), options);
  const planned = model.plan.weights + model.plan.workspace + model.plan.mapped;
  expect(planned).toBeLessThan(0.4 * bytes);
  // Beside them: one matrix of the file, 8 MiB, and what JavaScript takes.
  expect(peakBytes() - before).toBeLessThan(planned + 32 * 2 ** 20);
  model.close();
  device.close();
});

test("pages of a mapped file are let go of, and come back", () => {
  const device = Device.open({ threads: 1 });
  const path = join(scratch, "pages");
  const bytes = 32 * 2 ** 20;
  writeFileSync(path, new Uint8Array(bytes).fill(7));
  const mapped = device.mapFile(path);
  const tensor = device.allocate("f32", [bytes / 4]);
  const read = () => device.call("nt_copy_to_device", tensor.ptr, mapped.address, bytes);
  const resident = () => process.memoryUsage.rss();
  read();
  const before = resident();
  device.forgetFile(mapped.address + 1, bytes - 1);
  expect(before - resident()).toBeGreaterThan(0.9 * bytes);
  device.fill(tensor, 0);
  read();
  expect(device.readBytes(tensor).every((byte) => byte === 7)).toBe(true);
  device.unmapFile(mapped);
  device.free(tensor.ptr);
  device.close();
});
