// Checkpoints that neftune quantizes and merges, against what bitsandbytes, PEFT and PyTorch give.

import { describe, expect, test } from "bun:test";
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type MergeRequest, mergeInSteps } from "../../src/cli/merge.ts";
import { quantizeInSteps } from "../../src/cli/quantize.ts";
import { type Checkpoint, openCheckpoint } from "../../src/formats/checkpoint.ts";
import { nf4Entries } from "../../src/formats/nf4.ts";
import { readTensorData } from "../../src/formats/safetensors.ts";
import { checkpointSource, Llama, type ModelOptions } from "../../src/model/index.ts";
import type { Device } from "../../src/native/index.ts";
import { finish } from "../../src/steps.ts";
import { describeBackends } from "../backends.ts";
import { scratchFolder } from "../scratch.ts";
import {
  evalLoss,
  folder,
  type GoldenQuantizedCase,
  type GoldenRun,
  modelNames,
  readCase,
  relative,
} from "./support.ts";

const root = scratchFolder();
let made = 0;
const newFolder = () => {
  const dir = join(root, String(made++));
  mkdirSync(dir);
  return dir;
};
const modelDir = (name: string) => join(folder, "models", name);

function quantized(device: Device, name: string, double: boolean): string {
  const dir = newFolder();
  finish(quantizeInSteps(device, modelDir(name), dir, double));
  return dir;
}

function merged(device: Device, name: string, run: GoldenRun, changes: Partial<MergeRequest> = {}): string {
  const dir = newFolder();
  const adapter = join(folder, run.adapter_final);
  const request = { model: modelDir(name), adapter, base: undefined, dtype: "f32" as const, ...changes };
  finish(mergeInSteps(device, request, dir, { note() {} }));
  return dir;
}

/** The loss over the samples of a case of the model in `dir`. */
function lossOf(
  device: Device,
  dir: string,
  golden: Parameters<typeof evalLoss>[1],
  changes: Partial<ModelOptions> = {},
): number {
  const sizes = { maxTokens: 2048, maxTargets: 2048, maxPosition: 512, seed: 42, recompute: "none" } as const;
  const model = Llama.load(device, checkpointSource(dir), {
    ...sizes,
    dtype: "f32",
    tune: "none",
    ...changes,
  });
  try {
    return evalLoss(model, golden);
  } finally {
    model.close();
  }
}

const bytesOf = ({ tensors }: Checkpoint, name: string) => readTensorData(tensors.get(name)!.file, name);
const configOf = (dir: string) => JSON.parse(readFileSync(join(dir, "config.json"), "utf8"));

describeBackends((device) => {
  describe("quantize", () => {
    test("gives the tensors that Transformers and bitsandbytes wrote", () => {
      const ours = openCheckpoint(quantized(device, "tiny-mha-f32", true));
      const theirs = openCheckpoint(modelDir("tiny-mha-nf4"));
      expect([...ours.tensors.keys()].sort()).toEqual([...theirs.tensors.keys()].sort());
      let [unlike, codes] = [0, 0];
      for (const [name, { entry }] of theirs.tensors) {
        const { dtype, shape } = ours.tensors.get(name)!.entry;
        expect(dtype).toBe(entry.dtype);
        const [got, want] = [bytesOf(ours, name), bytesOf(theirs, name)];
        if (name.endsWith("nf4")) {
          // Its spaces at the end are ours.
          const weight = name.replace(".quant_state.bitsandbytes__nf4", "");
          const [a, b] = [nf4Entries(ours, weight)!, nf4Entries(theirs, weight)!];
          expect([a.shape, a.dtype]).toEqual([b.shape, b.dtype]);
          expect(relative(a.nested!.offset, b.nested!.offset)).toBeLessThan(1e-6);
          continue;
        }
        expect(shape).toEqual(entry.shape);
        if (name.endsWith("nested_absmax")) {
          const [a, b] = [got, want].map((bytes) => new Float32Array(bytes.slice().buffer)[0]!);
          expect(relative(a!, b!)).toBeLessThan(1e-6);
        } else if (name.endsWith("absmax")) {
          // bitsandbytes' CPU code takes the second nearest entry now and then.
          for (const [i, code] of want.entries()) {
            expect(Math.abs(code - got[i]!)).toBeLessThan(2);
            unlike += Number(code !== got[i]);
          }
          codes += want.length;
        } else {
          expect({ name, same: Buffer.compare(got, want) === 0 }).toEqual({ name, same: true });
        }
      }
      expect(unlike).toBeLessThan(codes / 200);
    });

    test("and its config.json; all else in config.json as it was, to the letter", () => {
      const dir = quantized(device, "tiny-mha-f32", true);
      const theirs = configOf(modelDir("tiny-mha-nf4"));
      expect(configOf(dir).quantization_config).toEqual(theirs.quantization_config);
      const [ours, before] = [dir, modelDir("tiny-mha-f32")].map((from) =>
        readFileSync(join(from, "config.json"), "utf8"),
      );
      expect(ours).toContain('"llm_int8_threshold": 6.0,');
      expect(ours).toStartWith(before!.trimEnd().replace(/\n}$/, ",\n"));
    });

    for (const name of modelNames) {
      for (const double of [true, false]) {
        test(`${name}, ${double ? "double" : "single"}: computes what --quantization nf4 does, to the bit`, async () => {
          const golden = await readCase(name);
          const dir = quantized(device, name, double);
          const { quantization_config } = configOf(dir);
          expect(quantization_config.bnb_4bit_use_double_quant).toBe(double);
          const onLoad = lossOf(device, modelDir(name), golden, { quantization: { double } });
          expect(lossOf(device, dir, golden)).toBe(onLoad);
        });
      }
    }

    test("a bfloat16 model stays one beside its linears", () => {
      const { tensors } = openCheckpoint(quantized(device, "tiny-gqa-bf16-sharded", false));
      expect(tensors.get("model.embed_tokens.weight")!.entry.dtype).toBe("BF16");
      const name = "model.layers.2.mlp.down_proj.weight";
      expect(nf4Entries({ tensors }, name)).toMatchObject({ shape: [64, 144], dtype: "bf16", nested: null });
    });
  });

  describe("merge computes what PyTorch does with base and adapter", () => {
    for (const name of modelNames) {
      test(name, async () => {
        const golden = await readCase(name);
        for (const run of [...golden.lora_train, ...golden.lora_train_neftune]) {
          const dir = merged(device, name, run);
          expect({
            run: run.name,
            off: relative(lossOf(device, dir, golden), run.eval_loss_after) < 1e-5,
          }).toEqual({
            run: run.name,
            off: true,
          });
        }
      });
    }

    test("tiny-mha-nf4, whose base is quantized: onto its dequantized weights", async () => {
      const golden = await readCase<GoldenQuantizedCase>("tiny-mha-nf4");
      for (const run of golden.qlora_train) {
        const dir = merged(device, "tiny-mha-nf4", run, { dtype: null });
        expect(relative(lossOf(device, dir, golden), run.eval_loss_after)).toBeLessThan(1e-5);
        expect(configOf(dir)).not.toHaveProperty("quantization_config");
        const { tensors } = openCheckpoint(dir);
        expect(tensors.size).toBe(21);
        for (const { entry } of tensors.values()) expect(entry.dtype).toBe("F32");
      }
    });

    test("--base dequantized of the model that it was quantized from is nearly the same", async () => {
      const golden = await readCase<GoldenQuantizedCase>("tiny-mha-nf4");
      const run = golden.qlora_train[0]!;
      const near = lossOf(device, merged(device, "tiny-mha-f32", run, { base: "dequantized" }), golden);
      expect(relative(near, run.eval_loss_after)).toBeLessThan(1e-4);
      const original = lossOf(device, merged(device, "tiny-mha-f32", run), golden);
      expect(relative(original, run.eval_loss_after)).toBeGreaterThan(1e-3);
    });

    test("in 16 bits, as the model has it or as --dtype says, within their rounding", async () => {
      const golden = await readCase("tiny-gqa-bf16-sharded");
      const run = golden.lora_train[0]!;
      for (const [dtype, stored, limit] of [
        [null, "BF16", 5e-3],
        ["f16", "F16", 5e-4],
      ] as const) {
        const dir = merged(device, "tiny-gqa-bf16-sharded", run, { dtype });
        const stores = [...openCheckpoint(dir).tensors.values()].map(({ entry }) => entry.dtype);
        expect(new Set(stores)).toEqual(new Set([stored]));
        expect(relative(lossOf(device, dir, golden), run.eval_loss_after)).toBeLessThan(limit);
      }
    });
  });

  test("values past float16 or bfloat16 are refused", async () => {
    const golden = await readCase("tiny-mha-f32");
    const run = golden.lora_train[0]!;
    const [model, path] = [newFolder(), join(folder, "models", "tiny-mha-f32", "model.safetensors")];
    cpSync(modelDir("tiny-mha-f32"), model, { recursive: true });
    const bytes = readFileSync(path);
    const { begin } = openCheckpoint(modelDir("tiny-mha-f32")).tensors.get("model.norm.weight")!.entry;
    bytes.writeFloatLE(65520, begin + 8);
    rmSync(join(model, "model.safetensors"));
    writeFileSync(join(model, "model.safetensors"), bytes);
    expect(() => merged(device, "tiny-mha-f32", run, { model, dtype: "f16" })).toThrow(
      "model.norm.weight holds values past float16's 65504; give --dtype bf16 or f32",
    );
    merged(device, "tiny-mha-f32", run, { model, dtype: "bf16" });
    // float32 has it, and bfloat16 would round it to infinity
    bytes.writeFloatLE(3.4e38, begin + 8);
    writeFileSync(join(model, "model.safetensors"), bytes);
    expect(() => merged(device, "tiny-mha-f32", run, { model, dtype: "bf16" })).toThrow(
      "model.norm.weight holds values past bfloat16's 3.39e38; give --dtype f32",
    );
    merged(device, "tiny-mha-f32", run, { model });
  });

  test("a merge rounds W + s·B·A once, to the nearest", async () => {
    const golden = await readCase("tiny-gqa-bf16-sharded");
    const run = golden.lora_train.find(({ name }) => name.includes("rslora"))!;
    const name = "model.layers.1.self_attn.q_proj.weight";
    const exact = openCheckpoint(merged(device, "tiny-gqa-bf16-sharded", run));
    const rounded = openCheckpoint(merged(device, "tiny-gqa-bf16-sharded", run, { dtype: null }));
    const floats = new Float32Array(bytesOf(exact, name).slice().buffer);
    const halves = new Uint16Array(bytesOf(rounded, name).slice().buffer);
    const bits = new Uint32Array(floats.buffer);
    for (const [i, word] of bits.entries())
      expect(halves[i]).toBe((word + 0x7fff + ((word >>> 16) & 1)) >>> 16);
  });
});
