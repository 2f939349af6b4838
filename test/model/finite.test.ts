// Models with values that are NaN or infinite: refused by tensor name, however they are loaded.

import { expect, test } from "bun:test";
import { cpSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { quantizeInSteps } from "../../src/cli/quantize.ts";
import { openCheckpoint } from "../../src/formats/checkpoint.ts";
import { checkpointSource, Llama, linearModules, type ModelOptions } from "../../src/model/index.ts";
import { finish } from "../../src/steps.ts";
import { describeBackends } from "../backends.ts";
import { folder } from "../golden/support.ts";
import { scratchFolder } from "../scratch.ts";

const scratch = scratchFolder();

const options = {
  ...{ dtype: "bf16", tune: "none", recompute: "none", maxTokens: 16, maxTargets: 16, maxPosition: 16 },
  seed: 0,
} satisfies ModelOptions;
const lora = { r: 2, alpha: 2, dropout: 0, targetModules: [...linearModules], useRslora: false };

const f32 = (value: number) => new Uint8Array(Float32Array.of(value).buffer);
/** A signaling NaN and −∞, which differ in bf16 too. */
const [nan, infinity] = [Uint8Array.of(0x01, 0x00, 0xa0, 0x7f), Uint8Array.of(0x00, 0x00, 0x80, 0xff)];
const bf16 = (value: Uint8Array) => value.subarray(2);

/** A copy of a golden model with other bytes at an element of a tensor. */
function damaged(model: string, tensor: string, element: number, bytes: Uint8Array): string {
  const dir = mkdtempSync(join(scratch, `${model}-`));
  cpSync(join(folder, "models", model), dir, { recursive: true });
  const { file, entry } = openCheckpoint(dir).tensors.get(tensor)!;
  const all = readFileSync(file.path);
  all.set(bytes, entry.begin + element * bytes.length);
  writeFileSync(file.path, all);
  return dir;
}

const plain = "tiny-mha-f32";
const sharded = "tiny-gqa-bf16-sharded";
const weights: [model: string, tensor: string, element: number, bytes: Uint8Array][] = [
  [plain, "model.layers.1.self_attn.q_proj.weight", 64 * 64 - 1, nan],
  [plain, "model.layers.0.mlp.down_proj.weight", 0, infinity],
  [plain, "model.embed_tokens.weight", 511 * 64, nan],
  [plain, "lm_head.weight", 3, infinity],
  [plain, "model.layers.0.input_layernorm.weight", 63, nan],
  [plain, "model.norm.weight", 0, infinity],
  [sharded, "model.layers.2.self_attn.k_proj.weight", 77, bf16(nan)],
  [sharded, "model.embed_tokens.weight", 5, bf16(infinity)],
];

describeBackends((device) => {
  for (const [model, tensor, element, bytes] of weights) {
    test(`${model} with ${bytes.at(-1) === 0xff ? "an infinity" : "a NaN"} in ${tensor}`, () => {
      const dir = damaged(model, tensor, element, bytes);
      const refused = `${tensor} has a value that is NaN or infinite`;
      const load = (changes: Partial<ModelOptions>) => () => {
        Llama.load(device, checkpointSource(dir), { ...options, ...changes }).close();
      };
      expect(load({})).toThrow(refused);
      expect(load({ dtype: "f32" })).toThrow(refused);
      expect(load({ tune: "lora", lora })).toThrow(refused);
      expect(load({ tune: "full" })).toThrow(refused);
      for (const double of [true, false]) {
        expect(load({ quantization: { double } })).toThrow(refused);
        const out = mkdtempSync(join(scratch, "out-"));
        expect(() => finish(quantizeInSteps(device, dir, out, double))).toThrow(refused);
      }
    });
  }

  test("several values are counted", () => {
    const name = "model.layers.1.mlp.gate_proj.weight";
    const dir = damaged(plain, name, 1, Uint8Array.of(...nan, ...infinity));
    expect(() => Llama.load(device, checkpointSource(dir), options)).toThrow(`${name} has 2 values that are`);
  });

  test("a finite value that bf16 cannot hold is infinite there, and fine in float32", () => {
    const name = "model.layers.0.mlp.up_proj.weight";
    const dir = damaged(plain, name, 9, f32(3.4028e38));
    expect(() => Llama.load(device, checkpointSource(dir), options)).toThrow(`${name} has a value`);
    Llama.load(device, checkpointSource(dir), { ...options, dtype: "f32" }).close();
  });

  test("the scales of a weight stored in NF4", () => {
    const name = "model.layers.0.self_attn.o_proj.weight";
    const model = "tiny-mha-nf4";
    const { tensors } = openCheckpoint(join(folder, "models", model));
    const scales = tensors.has(`${name}.nested_absmax`) ? "nested_absmax" : "absmax";
    for (const value of [nan, infinity]) {
      const dir = damaged(model, `${name}.${scales}`, 0, value);
      expect(() => Llama.load(device, checkpointSource(dir), options)).toThrow(`${name} has a value`);
    }
    const single = mkdtempSync(join(scratch, "single-"));
    finish(quantizeInSteps(device, join(folder, "models", plain), single, false));
    const { file, entry } = openCheckpoint(single).tensors.get(`${name}.absmax`)!;
    const all = readFileSync(file.path);
    all.set(nan, entry.begin + 8);
    writeFileSync(file.path, all);
    expect(() => Llama.load(device, checkpointSource(single), options)).toThrow(`${name} has a value`);
  });
});
