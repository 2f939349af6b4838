// Checkpoints that do not fit their config.json are refused by name.

import { afterAll, describe, expect, test } from "bun:test";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  checkpointSource,
  Llama,
  type ModelOptions,
  parseConfig,
  randomSource,
} from "../../src/model/index.ts";
import { Device } from "../../src/native/index.ts";

const scratch = mkdtempSync(join(tmpdir(), "source-"));
afterAll(() => rmSync(scratch, { recursive: true }));

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
  const device = Device.open({ threads: 1 });
  afterAll(() => device.close());

  test("with layers that config.json does not call for is refused", () => {
    const dir = modelWith("fewer-layers", { num_hidden_layers: 1 });
    expect(() => checkpointSource(dir)).toThrow("holds model.layers.1.");
  });

  test("without a layer that config.json calls for is refused", () => {
    const source = checkpointSource(modelWith("more-layers", { num_hidden_layers: 3 }));
    expect(() => Llama.load(device, source, options)).toThrow(
      "has no tensor model.layers.2.input_layernorm.weight",
    );
  });

  test("with another shape is refused", () => {
    const source = checkpointSource(modelWith("wider", { intermediate_size: 180 }));
    expect(() => Llama.load(device, source, options)).toThrow(
      "has shape [176,64], but config.json makes it [180,64]",
    );
  });
});

test("a source is unmapped by its last model, not its first", () => {
  const device = Device.open({ threads: 1 });
  const source = checkpointSource(modelWith("shared", {}));
  const [first, second] = [Llama.load(device, source, options), Llama.load(device, source, options)];
  const batch = {
    ids: Int32Array.of(1, 5, 9),
    positions: Int32Array.of(0, 1, 2),
    cuSeqlens: Int32Array.of(0, 3),
    lengths: Int32Array.of(3),
    targetRows: Int32Array.of(0, 1),
    targets: Int32Array.of(5, 9),
    tokens: 3,
  };
  const losses = first.evaluate(batch);
  first.close();
  expect(second.evaluate(batch)).toEqual(losses);
  second.close();
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
