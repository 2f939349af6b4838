// merge: what rounding costs, weights and adapters that are not finite, and the check.

import { afterAll, describe, expect, test } from "bun:test";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type MergeRequest, mergeInSteps, roundingNote } from "../../src/cli/merge.ts";
import { checkMerge } from "../../src/cli/merge-check.ts";
import { makeFolder } from "../../src/cli/outputs/new-folder.ts";
import { decodeFloats, floatTypeNamed } from "../../src/floats.ts";
import { checkpointBytes, openCheckpoint } from "../../src/formats/checkpoint.ts";
import { readSafetensorsHeader, readTensorData } from "../../src/formats/safetensors.ts";
import { Device } from "../../src/native/index.ts";
import { folder as golden } from "../golden/support.ts";
import { quietContext } from "./quiet-context.ts";

const root = mkdtempSync(join(tmpdir(), "merge-"));
const device = Device.open({ threads: 1 });
afterAll(() => {
  device.close();
  rmSync(root, { recursive: true });
});
const { signal } = new AbortController();
const notes: string[] = [];
const context = { note: (text: string) => void notes.push(text) };
let folders = 0;

const gqa = join(golden, "models", "tiny-gqa-bf16-sharded");
const gqaAdapter = join(golden, "adapters", "tiny-gqa-bf16-sharded-all7-r4-final");
const mha = join(golden, "models", "tiny-mha-f32");
const mhaAdapter = join(golden, "adapters", "tiny-mha-f32-qv-r8-rslora-final");

async function merged(request: Partial<MergeRequest>) {
  const dir = join(root, `merged-${++folders}`);
  const whole = { model: gqa, adapter: gqaAdapter, base: undefined, dtype: null, ...request };
  notes.length = 0;
  const result = await makeFolder(dir, "merge", { signal }, (to) => mergeInSteps(device, whole, to, context));
  return { ...result, dir };
}

const values = (dir: string, name: string) => {
  const { file, entry } = openCheckpoint(dir).tensors.get(name)!;
  return decodeFloats(floatTypeNamed("safetensors", entry.dtype)!, readTensorData(file, entry.name));
};

/** A copy of a folder with other bytes at the start of a tensor. */
function damaged(from: string, file: string, tensor: string, bytes: readonly number[]): string {
  const dir = join(root, `damaged-${++folders}`);
  cpSync(from, dir, { recursive: true });
  const { begin } = readSafetensorsHeader(join(dir, file)).tensors.get(tensor)!;
  const content = new Uint8Array(readFileSync(join(dir, file)));
  content.set(bytes, begin);
  writeFileSync(join(dir, file), content);
  return dir;
}

test.each(["bf16", "f32"] as const)("tells the bytes of %s tensors before it writes the first", (dtype) => {
  const dir = join(root, `merged-${++folders}`);
  const request = { model: gqa, adapter: gqaAdapter, base: undefined, dtype };
  const told: number[] = [];
  mkdirSync(dir);
  const weightFiles = () => readdirSync(dir).filter((name) => name.endsWith(".safetensors"));
  const steps = mergeInSteps(device, request, dir, context);
  for (let step = steps.next(); step.done !== true; step = steps.next()) {
    if (told.length === 0) expect(weightFiles()).toEqual([]);
    if (step.value !== undefined) told.push(step.value);
  }
  expect(weightFiles()).not.toEqual([]);
  expect(told).toEqual([checkpointBytes(openCheckpoint(dir))]);
});

describe("what rounding costs", () => {
  test.each(["bf16", "f16"] as const)(
    "is the norm of what %s loses over the norm of the change",
    async (dtype) => {
      const exact = await merged({ dtype: "f32" });
      expect(exact.roundingLoss).toBeNull();
      expect(notes).toEqual([]);
      const rounded = await merged({ dtype });
      let [change, lost] = [0, 0];
      for (const name of openCheckpoint(gqa).tensors.keys()) {
        if (!name.endsWith("_proj.weight")) continue;
        const [base, whole, part] = [gqa, exact.dir, rounded.dir].map((dir) => values(dir, name));
        for (const [i, value] of whole!.entries()) {
          change += (value - base![i]!) ** 2;
          lost += (part![i]! - value) ** 2;
        }
      }
      expect(rounded.roundingLoss! / Math.sqrt(lost / change)).toBeCloseTo(1, 3);
      expect(notes).toEqual([
        expect.stringMatching(new RegExp(`^rounding to ${dtype} loses \\S+ % of the change \\(norm\\)`)),
      ]);
    },
  );

  test.each<[number, "bf16" | "f16", string]>([
    [0.884, "bf16", "rounding to bf16 loses 88 % of the change (norm); --dtype f32 or f16 keeps it"],
    [0.12, "f16", "rounding to f16 loses 12 % of the change (norm); --dtype f32 keeps it"],
    [0.0021, "f16", "rounding to f16 loses 0.2 % of the change (norm)"],
    [
      12.3,
      "bf16",
      "rounding to bf16 changes the weights 12 times as much as the adapter does; --dtype f32 keeps its change",
    ],
  ])("%d to %s reads as a sentence", (loss, dtype, text) => {
    expect(roundingNote(dtype, loss)).toBe(text);
  });
});

describe("values that are not finite are refused by name, and nothing stays:", () => {
  const infinity = [0, 0, 0x80, 0x7f];
  const nan = [0, 0, 0xc0, 0x7f];
  const q = "model.layers.1.self_attn.q_proj.weight";
  const a = "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight";
  const b = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight";
  test.each<[string, () => Partial<MergeRequest>, string]>([
    [
      "an adapted weight",
      () => ({ model: damaged(mha, "model.safetensors", q, nan) }),
      `${q} has a value that is NaN or infinite`,
    ],
    [
      "a norm",
      () => ({ model: damaged(mha, "model.safetensors", "model.norm.weight", infinity) }),
      "model.norm.weight has a value",
    ],
    [
      "the embedding",
      () => ({ model: damaged(mha, "model.safetensors", "model.embed_tokens.weight", nan) }),
      "model.embed_tokens.weight has",
    ],
    [
      "the adapter's B",
      () => ({ adapter: damaged(mhaAdapter, "adapter_model.safetensors", b, infinity) }),
      `${b} has a value`,
    ],
    [
      "the adapter's A",
      () => ({ adapter: damaged(mhaAdapter, "adapter_model.safetensors", a, nan) }),
      `${a} has a value`,
    ],
    [
      "the sum",
      () => ({ adapter: damaged(mhaAdapter, "adapter_model.safetensors", b, [0, 0, 0x7f, 0x7f]) }),
      q,
    ],
  ])("%s", async (_, make, message) => {
    for (const dtype of [null, "f32", "bf16", "f16"] as const) {
      const request = { model: mha, adapter: mhaAdapter, ...make(), dtype };
      await expect(merged(request)).rejects.toThrow(message);
      expect(existsSync(join(root, `merged-${folders}`))).toBe(false);
      expect(existsSync(join(root, `.merged-${folders}.partial`))).toBe(false);
    }
  });
});

test("a config that says two dtypes says the one that was written, a head that is stored is no longer tied", async () => {
  const model = join(root, "two-dtypes");
  cpSync(mha, model, { recursive: true });
  const path = join(model, "config.json");
  const config = JSON.parse(readFileSync(path, "utf8"));
  writeFileSync(
    path,
    JSON.stringify({ ...config, dtype: null, torch_dtype: "float32", tie_word_embeddings: true }),
  );
  const { dir } = await merged({ model, adapter: mhaAdapter, dtype: "bf16" });
  expect(notes[0]).toContain("another lm_head.weight is stored");
  expect(JSON.parse(readFileSync(join(dir, "config.json"), "utf8"))).toMatchObject({
    ...{ dtype: "bfloat16", torch_dtype: "bfloat16", tie_word_embeddings: false },
  });
});

test("the check evaluates base + adapter and the merged model on the same data", async () => {
  const ids = Int32Array.from({ length: 12 }, (_, i) => (i * 37 + 5) % 500);
  const dataset = [{ ids, labels: ids, truncated: false }];
  const losses = async (dtype: "f32" | "bf16") => {
    const { dir } = await merged({ dtype, model: mha, adapter: mhaAdapter });
    const check = { model: mha, adapter: mhaAdapter, merged: dir, quantization: null };
    const result = await checkMerge(device, check, dataset, quietContext());
    return [result.separate.loss, result.merged.loss] as const;
  };
  const [separate, exact] = await losses("f32");
  expect(exact).toBeCloseTo(separate, 5);
  const [again, rounded] = await losses("bf16");
  expect(again).toBe(separate);
  expect(Math.abs(rounded - separate)).toBeGreaterThan(1e-5);
});
