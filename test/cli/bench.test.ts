import { expect, test } from "bun:test";
import { benchGeneration, describeGeneration } from "../../src/cli/bench/generation.ts";
import { kernelRows, kernelTable, kernelUses } from "../../src/cli/bench/kernels.ts";
import { measure } from "../../src/cli/bench/measure.ts";
import { CeilingBesideSteps, deviceRates } from "../../src/cli/bench/rates.ts";
import { describe, summarize } from "../../src/cli/bench/report.ts";
import { denseSamples, hasTargets, makeBatches, median, stepFlops } from "../../src/cli/bench/work.ts";
import { parseConfig } from "../../src/model/index.ts";
import { Device, type RecordedCall } from "../../src/native/index.ts";

const config = parseConfig("test", {
  model_type: "llama",
  hidden_size: 8,
  intermediate_size: 16,
  num_hidden_layers: 3,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  vocab_size: 32,
});
// Of a layer: q 8·8, k and v 4·8, o 8·8, gate, up and down 8·16.
const linear = 3 * (64 + 32 + 32 + 64 + 3 * 128);
const head = 32 * 8;

test("dense rows: full length, ids inside the vocabulary, the same for a seed", () => {
  const samples = denseSamples(5, 7, 32, 1);
  for (const { ids, labels } of samples) {
    expect(ids.length).toBe(7);
    expect(labels).toEqual(ids);
    for (const id of ids) expect(id >= 3 && id < 32).toBe(true);
  }
  expect(denseSamples(5, 7, 32, 1)).toEqual(samples);
  expect(denseSamples(5, 7, 32, 2)).not.toEqual(samples);
  expect(samples.every(hasTargets)).toBe(true);
});

test("model FLOPs by hand", () => {
  const [batch] = makeBatches(denseSamples(2, 5, 32, 1), 1, 2, 1);
  const attention = 6 * 3 * 2 * 4 * (25 + 25);
  const lora = {
    r: 2,
    alpha: 2,
    dropout: 0,
    targetModules: ["q_proj" as const, "down_proj" as const],
    useRslora: false,
  };
  const adapters = 3 * 2 * (8 + 8 + (8 + 16));
  // Ten tokens, eight of which are predicted.
  expect(stepFlops(config, batch!, lora)).toBe(4 * (linear * 10 + head * 8) + 6 * adapters * 10 + attention);
  expect(stepFlops(config, batch!, null)).toBe(6 * (linear * 10 + head * 8) + attention);
});

test("kernels of an operation are summed; copies over the bus have no bound", () => {
  const launch = (name: string, seconds: number, copiedBytes = 0) => ({
    ...{ name, seconds, blocks: 1, copiedBytes, product: null },
  });
  // dtype, h, gate_up, T, I
  const swiglu = { name: "nt_swiglu_forward", args: [1, 8, 10, 16, 20, 100, 10], hostSeconds: 0 } as const;
  const calls = [
    { ...swiglu, launches: [launch("swiglu_forward_kernel", 2e-9)] },
    { ...swiglu, launches: [launch("swiglu_forward_kernel", 4e-9)] },
    { name: "nt_copy_to_host", args: [], hostSeconds: 0, launches: [launch("copy to the host", 9e-9, 80)] },
    { name: "nt_cast", args: [], hostSeconds: 0, launches: [launch("new_kernel", 1e-9)] },
  ] as const satisfies RecordedCall[];
  const rows = kernelRows(kernelUses(calls), { copy: 2e12, matmul: 1e15 });
  expect(rows.map(({ operation, kernel, launches, bytes }) => [operation, kernel, launches, bytes])).toEqual([
    ["copy_to_host", "copy to the host", 1, 80],
    ["swiglu_forward", "swiglu_forward", 2, 2 * 3 * 100 * 10 * 2],
    ["cast", "new", 1, null],
  ]);
  const [host, own, unknown] = rows;
  expect(own!.bound_seconds).toBeCloseTo(12000 / 2e12, 15);
  expect(own!.share_of_bound).toBeCloseTo(1, 9);
  expect(host!.bound_seconds).toBeNull();
  expect(unknown!.bound_seconds).toBeNull();
  const lines = kernelTable(rows).split("\n");
  expect(lines[2]).toMatch(/swiglu_forward +swiglu_forward +2 +0\.000 +37\.5 % +2000 +– +100\.0 %/);
  expect(lines[3]).toMatch(/cast +new +1 .* – +– +–$/);
  const narrow = kernelTable(rows, 60).split("\n");
  for (const line of narrow) expect(line.length).toBeLessThanOrEqual(60);
  expect(narrow.filter((line) => /swiglu_forward +swiglu_forward/.test(line)).length).toBeGreaterThan(1);
});

test("median", () => {
  expect(median([3, 1, 2])).toBe(2);
  expect(median([4, 1, 2, 3])).toBe(2.5);
});

test("a CPU's ceiling is measured after each measured step, and is no part of the steps' operations", async () => {
  const device = Device.open({ threads: 1 });
  const context = { signal: new AbortController().signal, draw: () => {} };
  const beside = new CeilingBesideSteps(device, "f32");
  let rated = 0;
  try {
    const measured = await measure(
      device,
      config,
      makeBatches(denseSamples(3, 5, 32, 1), 3, 1, 1),
      {
        ...{ tune: "full", quantization: null, dtype: "f32", recompute: "none", optim: "adamw", lora: null },
        ...{ learningRate: 1e-3, warmup: 1, seed: 1 },
      },
      context,
      () => {
        rated++;
        beside.afterStep();
      },
    );
    expect([measured.steps.length, rated]).toEqual([3, 2]);
    // Two steps of three layers with four products forward each.
    expect(measured.seconds_by_operation.nt_linear_forward?.calls).toBe(2 * 3 * 4);
    const rates = deviceRates(device, config, "f32", 5, beside);
    const { matmuls } = rates;
    expect(matmuls[0]).toEqual(beside.rate);
    expect(matmuls.map(({ shape }) => shape.join(" "))).toEqual([
      "2048 2048 2048",
      "5 8 16",
      "5 8 8",
      "5 8 32",
      "5 16 8",
    ]);
    for (const { gflops } of matmuls) expect(gflops).toBeGreaterThan(0);
    const values = { shape: "tiny", mode: "full", dtype: "f32", optim: "adamw", data: "dense", warmup: 1 };
    const sizes = { "batch-size": 1, "max-length": 5 };
    const report = summarize(measured, rates, { ...values, ...sizes }, device.info, 1);
    expect(describe(report, undefined)).toMatch(/^planned +.*: weights .*\(recompute none\)$/m);
    for (const columns of [80, 60]) {
      const text = describe(report, columns);
      for (const line of text.split("\n")) expect(line.length).toBeLessThanOrEqual(columns);
      expect(text.replaceAll(/\n +/g, " ")).toContain("(recompute none)");
    }
  } finally {
    beside.close();
    device.close();
  }
});

test("generation: rates, the weights that a token reads, and the memory's rate", async () => {
  const device = Device.open({ threads: 1 });
  const context = { signal: new AbortController().signal, draw: () => {} };
  try {
    const settings = { shape: "tiny", dtype: "f32", promptTokens: 6, seed: 1 } as const;
    const report = await benchGeneration(device, config, settings, context);
    expect(report).toMatchObject({ shape: "tiny", prompt_tokens: 6, bytes_per_token: 4 * (linear + head) });
    const { decode_tokens_per_second: one, memory_bytes_per_second: rate } = report;
    for (const value of [report.prefill_tokens_per_second, one, report.decode_8_tokens_per_second, rate])
      expect(value).toBeGreaterThan(1);
    expect(report.share_of_memory_rate).toBeCloseTo((one * report.bytes_per_token) / rate, 12);
    expect(describeGeneration(report)).toMatch(/8 sequences together +[\d,]+ tokens\/s/);
    for (const line of describeGeneration(report, 45).split("\n"))
      expect(line.length).toBeLessThanOrEqual(45);
    const stopped = { signal: AbortSignal.abort(), draw: () => {} };
    await expect(benchGeneration(device, config, settings, stopped)).rejects.toThrow("bench was stopped");
  } finally {
    device.close();
  }
});
