// Checkpoints that do not fit their config.json are refused by name.

import { describe, expect, test } from "bun:test";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { makeBatch } from "../../src/data/batch.ts";
import {
  checkpointSource,
  choosePlan,
  chooseSize,
  Llama,
  type ModelOptions,
  type ModelPlan,
  parseConfig,
  planFor,
  randomSource,
} from "../../src/model/index.ts";
import type { PlanRequest } from "../../src/model/plan.ts";
import { Device } from "../../src/native/index.ts";
import { scratchFolder } from "../scratch.ts";

const scratch = scratchFolder();

/** A copy of the golden model with other config fields. */
function modelWith(name: string, changes: Record<string, unknown>): string {
  const dir = join(scratch, name);
  cpSync(join(import.meta.dir, "../golden/models/tiny-mha-f32"), dir, { recursive: true });
  const path = join(dir, "config.json");
  writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), ...changes }));
  return dir;
}

const options: ModelOptions = {
  ...{ dtype: "f32", tune: "none", recompute: "none", maxTokens: 8, maxTargets: 8, maxPosition: 8, seed: 0 },
};

describe("a checkpoint that does not fit its config.json", () => {
  test("with layers that config.json does not call for is refused", () => {
    const dir = modelWith("fewer-layers", { num_hidden_layers: 1 });
    expect(() => checkpointSource(dir)).toThrow("holds model.layers.1.");
  });

  test("without a layer that config.json calls for is refused", () => {
    expect(() => checkpointSource(modelWith("more-layers", { num_hidden_layers: 3 }))).toThrow(
      "config.json says num_hidden_layers 3, but the weights have 2",
    );
  });

  test("with another shape is refused", () => {
    expect(() => checkpointSource(modelWith("wider", { intermediate_size: 180 }))).toThrow(
      "has shape [176,64], but config.json makes it [180,64]",
    );
  });

  test.each([
    ["num_hidden_layers", 1e6],
    ["num_hidden_layers", 4000],
    ["hidden_size", 2 ** 40],
    ["hidden_size", 1000],
    ["intermediate_size", 2 ** 40],
    ["intermediate_size", 8e6],
    ["num_attention_heads", 2 ** 31],
    ["num_key_value_heads", 1e9],
    ["vocab_size", 2 ** 50],
    ["vocab_size", 1e8],
    ["head_dim", 1e9],
  ])("%s %d is refused at once", (field, value) => {
    const start = performance.now();
    expect(() => checkpointSource(modelWith(`${field}-${value}`, { [field]: value }))).toThrow();
    expect(performance.now() - start).toBeLessThan(1000);
  });
});

test("a source is unmapped by its last model, not its first", () => {
  const device = Device.open({ threads: 1 });
  const source = checkpointSource(modelWith("shared", {}));
  const [first, second] = [Llama.load(device, source, options), Llama.load(device, source, options)];
  const batch = makeBatch(
    [{ ids: Int32Array.of(1, 5, 9), labels: Int32Array.of(1, 5, 9), truncated: false }],
    { packing: true },
  );
  const losses = first.evaluate(batch);
  first.close();
  expect(second.evaluate(batch)).toEqual(losses);
  second.close();
  device.close();
});

test("every CPU thread has memory in the plan", () => {
  const source = checkpointSource(modelWith("threads", {}));
  const runtime = (threads: number, tune: "none" | "full") => {
    const device = Device.open({ threads });
    const request = { ...options, tune, lora: null, quantization: null, training: tune === "full" };
    const plan = planFor(device, source, request, "input");
    device.close();
    return plan.runtime / 2 ** 20;
  };
  expect(runtime(9, "none") - runtime(1, "none")).toBe(8 * 1.5);
  expect(runtime(9, "full") - runtime(1, "full")).toBe(8 * 3);
});

test("full tuning that would fit with 8-bit moments is advised to take them", () => {
  const device = Device.open({ threads: 1 });
  const config = parseConfig("config.json", {
    ...{ model_type: "llama", hidden_size: 2048, intermediate_size: 5632, num_hidden_layers: 22 },
    ...{ num_attention_heads: 32, num_key_value_heads: 4, vocab_size: 32000 },
  });
  const source = randomSource({ ...config, dtype: "bf16" });
  const request = {
    ...({ dtype: "bf16", tune: "full", lora: null, quantization: null, training: true } as const),
    ...({ recompute: "auto", maxTokens: 64, maxTargets: 64 } as const),
  };
  const [plain, small] = (["adamw", "adamw8bit"] as const).map((optim) =>
    planFor(device, source, { ...request, optim, maxTokens: 1, maxTargets: 1 }, "input"),
  ) as [ModelPlan, ModelPlan];
  // Values, gradients and a bf16 copy stay: of 18 bytes a parameter 8 become 2 and a 32nd.
  expect(small.trained / plain.trained).toBeCloseTo((10 + 2 + 1 / 32) / 18, 3);
  const adviceAt = (free: number, optim: "adamw" | "adamw8bit") => {
    device.freeMemory = () => free;
    return () => choosePlan(device, source, { ...request, optim });
  };
  expect(adviceAt(small.total, "adamw")).toThrow("free: try --optim adamw8bit");
  expect(adviceAt(small.total - 1, "adamw")).toThrow("free: try --tune lora");
  expect(adviceAt(small.total - 1, "adamw8bit")).toThrow("free: try --tune lora");

  // Ranks help: those that there are, or on GPUs, which have memory of their own, more of them.
  const among = (size: number, optim: "adamw" | "adamw8bit" = "adamw") =>
    planFor(
      device,
      source,
      { ...request, optim, partners: { rank: 0, size }, maxTokens: 1, maxTargets: 1 },
      "input",
    );
  const ofRanks = (changes: Partial<PlanRequest>) => () =>
    choosePlan(device, source, { ...request, ranks: 4, ...changes });
  device.freeMemory = () => among(4).total;
  expect(ofRanks({})).toThrow("free: try --shard optimizer");
  device.freeMemory = () => among(2, "adamw8bit").total;
  expect(ofRanks({ partners: { rank: 0, size: 2 }, ranks: 2 })).toThrow("free: try --optim adamw8bit");
  Object.defineProperty(device, "isHost", { value: false });
  const free = among(4).total;
  expect(adviceAt(free, "adamw")).toThrow(
    "free: try 4 GPUs like this one (--device cuda:all, or a launcher's ranks)",
  );
  expect(adviceAt(among(4, "adamw8bit").total, "adamw8bit")).toThrow("free: try 4 GPUs like this one");
  expect(adviceAt(small.total, "adamw")).toThrow("free: try --optim adamw8bit, or 2 GPUs like this one");
  expect(adviceAt(among(64).total / 2, "adamw")).toThrow("free: try --tune lora");
  device.close();
});

test("ranks of one machine plan with what each may take, mapped weights counted once", () => {
  const device = Device.open({ threads: 1 });
  const config = parseConfig("config.json", {
    ...{ model_type: "llama", hidden_size: 256, intermediate_size: 512, num_hidden_layers: 2 },
    ...{ num_attention_heads: 4, num_key_value_heads: 4, vocab_size: 1000 },
  });
  const source = randomSource({ ...config, dtype: "bf16" });
  const request = {
    ...({ dtype: "bf16", tune: "full", lora: null, quantization: null, training: true } as const),
    ...({ recompute: "layer", maxTokens: 64, maxTargets: 64 } as const),
  };
  const { total } = planFor(device, source, request, "input");
  const planAt = (free: number) => choosePlan(device, source, { ...request, sharing: { ranks: 3, free } });
  expect(planAt(3 * total).total).toBe(total);
  expect(() => planAt(3 * total - 1)).toThrow(/needs 0\.\d GiB for each of 3 ranks/);
  device.close();
});

test("a larger micro-batch is planned for where that needs no more recomputation and leaves memory", () => {
  const device = Device.open({ threads: 1 });
  const config = parseConfig("config.json", {
    ...{ model_type: "llama", hidden_size: 256, intermediate_size: 512, num_hidden_layers: 4 },
    ...{ num_attention_heads: 4, num_key_value_heads: 4, vocab_size: 1000 },
  });
  const source = randomSource({ ...config, dtype: "bf16" });
  const request = {
    ...({ dtype: "bf16", tune: "full", lora: null, quantization: null, training: true } as const),
    ...({ recompute: "auto", maxTokens: 1000, maxTargets: 500 } as const),
  };
  const larger = [4000, 2000].map((maxTokens) => ({ maxTokens, maxTargets: maxTokens / 2 }));
  const planOf = (maxTokens: number, kept: ModelPlan["kept"]) =>
    planFor(device, source, { ...request, maxTokens, maxTargets: maxTokens / 2 }, kept).total;
  const chosenAt = (free: number) => {
    device.freeMemory = () => free;
    const { plan, size } = chooseSize(device, source, request, larger);
    return [size.maxTokens, plan.kept];
  };
  expect(chosenAt(2 * planOf(4000, "gateUp"))).toEqual([4000, "gateUp"]);
  expect(chosenAt(2 * planOf(4000, "gateUp") - 2)).toEqual([2000, "gateUp"]);
  expect(chosenAt(2 * planOf(2000, "gateUp") - 2)).toEqual([1000, "gateUp"]);
  expect(chosenAt(planOf(1000, "gateUp"))).toEqual([1000, "gateUp"]);
  expect(chosenAt(planOf(1000, "gateUp") - 1)).toEqual([1000, "attention"]);
  device.freeMemory = () => planOf(1000, "input") - 1;
  expect(() => chooseSize(device, source, request, larger)).toThrow(
    "a micro-batch 1/2 the size (500 tokens) would fit; take a smaller --batch-size or --max-length, or --micro-batch-tokens 500, which divides batches but no sample",
  );
  // A GPU has less to share, but its room for kernels is an estimate.
  Object.defineProperty(device, "isHost", { value: false });
  const tenth = Math.ceil(planOf(4000, "norms") / 9);
  expect(chosenAt(planOf(4000, "norms") + tenth + 1)).toEqual([4000, "norms"]);
  expect(chosenAt(planOf(4000, "norms") + tenth - 2)).toEqual([2000, "norms"]);
  device.close();
});

test("memory that does not suffice becomes advice with numbers", () => {
  const device = Device.open({ threads: 1 });
  const config = parseConfig("config.json", {
    ...{ model_type: "llama", hidden_size: 8192, intermediate_size: 28672, num_hidden_layers: 800 },
    ...{ num_attention_heads: 64, num_key_value_heads: 8, vocab_size: 128256 },
  });
  const load = (changes: Partial<ModelOptions>) => () =>
    Llama.load(device, randomSource({ ...config, dtype: "bf16" }), { ...options, dtype: "bf16", ...changes });
  expect(load({ tune: "full" })).toThrow(
    /needs \d+\.\d GiB, of which \d+\.\d GiB for weights and trained state; \d+\.\d GiB free: try --tune lora/,
  );
  expect(load({})).toThrow("free: try --quantization nf4");
  expect(load({ quantization: { double: true } })).toThrow("free: take a smaller model");
  device.close();
});
