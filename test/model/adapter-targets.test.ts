// PEFT's ways to name the modules of an adapter, against PEFT; and adapters on some layers only.

import { afterAll, describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { makeBatch } from "../../src/data/batch.ts";
import { readAdapterConfig } from "../../src/formats/peft.ts";
import { pythonFullMatch } from "../../src/formats/python-regex.ts";
import type { LinearModule } from "../../src/model/architecture.ts";
import {
  adapterLoraOptions,
  checkpointSource,
  Llama,
  type LoraOptions,
  type ModelOptions,
  readConfig,
  targetNames,
} from "../../src/model/index.ts";
import { loraOnLayers, targetPaths } from "../../src/model/lora.ts";
import { Device } from "../../src/native/index.ts";
import { accumulateGradients } from "../../src/train/step.ts";
import golden from "../golden/peft-targets.json" with { type: "json" };
import { scratchFolder } from "../scratch.ts";

const scratch = scratchFolder();
const folder = join(import.meta.dir, "../golden/models/tiny-mha-f32");
const config = readConfig(folder);

function optionsOf(fields: object): LoraOptions {
  const adapter = { peft_type: "LORA", r: 4, lora_alpha: 8, ...fields };
  writeFileSync(join(scratch, "adapter_config.json"), JSON.stringify(adapter));
  return adapterLoraOptions(scratch, readAdapterConfig(scratch), config);
}

describe("target_modules picks what PEFT picks:", () => {
  test.each(Object.entries(golden.cases))("%s", (_, { config: fields, modules }) => {
    const lora = optionsOf(fields);
    const paths = targetPaths(config, lora).map((path) => path.replace("model.layers.", ""));
    expect(paths.sort()).toEqual(modules);
    // What a run of ours writes picks the same.
    expect(optionsOf({ target_modules: targetNames(lora) })).toEqual(lora);
  });
});

describe("target_modules is refused where PEFT refuses it:", () => {
  test.each(Object.entries(golden.refused))("%s", (_, fields) => {
    expect(() => optionsOf(fields)).toThrow(join(scratch, "adapter_config.json"));
  });

  test.each([
    ["lm_head", { target_modules: ["q_proj", "lm_head"] }],
    ["model.embed_tokens", { target_modules: "model\\.embed_tokens|.*q_proj" }],
    ["model.layers.0.mlp", { target_modules: ["q_proj", "mlp"] }],
  ])("%s, where LoRA is not supported", (name, fields) => {
    expect(() => optionsOf(fields)).toThrow(`target_modules picks ${name}; LoRA is supported on q_proj`);
  });

  test.each(["(?>q)_proj", "q++", "(?(1)a|b)", "\\q", "(?P>x)", "[a", "(a", "*a"])(
    "the expression %s",
    (expression) => {
      expect(() => optionsOf({ target_modules: expression })).toThrow(
        `target_modules is the regular expression ${JSON.stringify(expression)}, which cannot be read here`,
      );
    },
  );
});

test.each([
  ["a{,2}b", "aab", true],
  ["a{,2}b", "a{,2}b", false],
  ["a{x}", "a{x}", true],
  ["[]a]+", "]a]", true],
  ["[[a]+", "[a", true],
  ["(?s).", "\n", true],
  ["\\Aab\\Z", "ab", true],
  ["\\x61\\u0062\\U00000063", "abc", true],
  ["a\\.b", "axb", false],
  ["(?aiu)ÄB", "Äb", true],
  ["(?i:a)b", "Ab", true],
  ["(?i:a)b", "AB", false],
])("Python's %s on %p", (expression, text, isMatch) => {
  expect(pythonFullMatch(expression).test(text)).toBe(isMatch);
});

describe("an adapter on some layers only", () => {
  const device = Device.open({ threads: 1 });
  afterAll(() => device.close());
  const values = { r: 2, alpha: 4, dropout: 0, useRslora: false };
  const some: LinearModule[][] = [
    ["q_proj", "v_proj"],
    ["v_proj", "o_proj", "gate_proj", "down_proj"],
  ];
  const partial = loraOnLayers(values, some);
  const whole = loraOnLayers(values, [partial.targetModules, partial.targetModules]);
  const ids = Int32Array.of(1, 5, 9, 33, 7);
  const batch = makeBatch([{ ids, labels: ids, truncated: false }], { packing: true });

  function load(lora: LoraOptions, changes: Partial<ModelOptions> = {}): Llama {
    const source = checkpointSource(folder);
    const options = {
      ...({ dtype: "f32", tune: "lora", recompute: "none", lora, seed: 3 } as const),
      ...{ maxTokens: 8, maxTargets: 8, maxPosition: 8 },
    };
    const model = Llama.load(device, source, { ...options, ...changes });
    // The same values wherever a tensor is; none where only the whole adapter has one.
    const there = new Set(targetPaths(config, partial));
    for (const { name, shape } of model.parameters!.tensors) {
      const size = shape.reduce((product, n) => product * n, 1);
      const seed = name.length + name.charCodeAt(13);
      const isThere = there.has(name.replace(/\.lora_[AB]\.weight$/, ""));
      const value = (_: number, i: number) => (isThere ? Math.sin(i * 1.7 + seed) * 0.1 : 0);
      model.parameters!.write(name, new Float32Array(size).map(value));
    }
    model.parameters!.afterWrite();
    return model;
  }

  test("is told layer by layer", () => {
    expect(partial.layerModules).toEqual(some);
    expect(whole.layerModules).toBeUndefined();
    expect(targetPaths(config, partial)).toHaveLength(6);
  });

  test.each(["none", "mlp", "layer"] as const)(
    "computes and learns as one whose others are zero (recompute %s)",
    (recompute) => {
      const [ours, theirs] = [load(partial, { recompute }), load(whole, { recompute })];
      expect(ours.parameters!.tensors.length).toBe(12);
      const [a, b] = [ours.evaluate(batch), theirs.evaluate(batch)];
      for (const [i, loss] of a.entries()) expect(loss).toBeCloseTo(b[i]!, 5);
      for (const model of [ours, theirs]) {
        accumulateGradients(model, [{ batch, draws: new BigInt64Array(1) }]);
      }
      for (const { name } of ours.parameters!.tensors) {
        const [mine, full] = [ours, theirs].map((model) =>
          device.readFloats(model.parameters!.gradient(name)),
        );
        const norm = Math.hypot(...full!);
        expect(norm).toBeGreaterThan(0);
        expect(Math.hypot(...mine!.map((value, i) => value - full![i]!)) / norm).toBeLessThan(1e-4);
      }
      ours.close();
      theirs.close();
    },
  );

  test("applies without training", () => {
    const [ours, trained] = [load(partial, { inference: true }), load(partial)];
    const [a, b] = [ours.evaluate(batch), trained.evaluate(batch)];
    for (const [i, loss] of a.entries()) expect(loss).toBeCloseTo(b[i]!, 6);
    ours.close();
    trained.close();
  });
});
