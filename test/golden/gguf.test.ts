// GGUF files that neftune exports, against those of llama.cpp's own converters: names, order, shapes, types, bits, metadata.

import { afterAll, describe, expect, test } from "bun:test";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { exportAdapterInSteps, exportModelInSteps } from "../../src/cli/export.ts";
import { mergeInSteps } from "../../src/cli/merge.ts";
import type { GgufTypeName } from "../../src/formats/gguf.ts";
import { readSafetensorsHeader } from "../../src/formats/safetensors.ts";
import { Device } from "../../src/native/index.ts";
import { finish } from "../../src/steps.ts";
import { describeBackends } from "../backends.ts";
import { byteTokenizerJson, HEADER_TEMPLATE, llamaTokenizerJson } from "../data/tiny-tokenizer.ts";
import { fieldSummaries, readGguf } from "../formats/gguf-reader.ts";
import { folder, modelNames } from "./support.ts";

interface Golden {
  types: Partial<Record<GgufTypeName, Record<string, string>>>;
  fields: Record<string, unknown>;
}

const golden = JSON.parse(readFileSync(join(folder, "gguf.json"), "utf8")) as {
  models: Record<string, Golden>;
  adapters: Record<string, Golden & { model: string }>;
};

const root = mkdtempSync(join(tmpdir(), "neftune-gguf-"));
afterAll(() => rmSync(root, { recursive: true }));

const json = (dir: string, name: string, content: unknown) =>
  writeFileSync(join(dir, name), JSON.stringify(content));

/** A golden model with a tokenizer: SentencePiece's kind for two of them, bytes for the others. */
function withTokenizer(name: string): string {
  const dir = join(root, name);
  cpSync(join(folder, "models", name), dir, { recursive: true });
  const isSpm = name === "tiny-mha-f32" || name === "tiny-mistral-window";
  json(dir, "tokenizer.json", isSpm ? llamaTokenizerJson() : byteTokenizerJson());
  json(
    dir,
    "tokenizer_config.json",
    isSpm
      ? { bos_token: "<s>", eos_token: { content: "</s>" }, unk_token: "<unk>", add_bos_token: true }
      : {
          bos_token: "<|begin_of_text|>",
          eos_token: "<|end_of_text|>",
          chat_template: HEADER_TEMPLATE,
        },
  );
  return dir;
}
const models = new Map(modelNames.map((name) => [name as string, withTokenizer(name)]));
const adapterDir = (name: string) => join(folder, "adapters", name);
const notes: string[] = [];
const context = { note: (text: string) => void notes.push(text) };
const summaries = ({ tensors }: ReturnType<typeof readGguf>) =>
  Object.fromEntries([...tensors].map(([name, { summary }]) => [name, summary]));

let files = 0;
function exported(
  device: Device,
  name: string,
  type: GgufTypeName,
  adapter: string | null = null,
  model = models.get(name)!,
) {
  const output = join(root, `${files++}.gguf`);
  const request = { model, adapter, name, base: undefined, type };
  finish(exportModelInSteps(device, request, output, context));
  return readGguf(output);
}

describeBackends((device) => {
  for (const name of modelNames) {
    const { types, fields } = golden.models[name]!;
    for (const [type, tensors] of Object.entries(types) as [GgufTypeName, Record<string, string>][]) {
      test(`${name} in ${type}: the tensors of llama.cpp's converter`, () => {
        const got = summaries(exported(device, name, type));
        expect(got).toEqual(tensors);
        expect(Object.keys(got)).toEqual(Object.keys(tensors)); // in its order
      });
    }

    test(`${name}: the metadata of llama.cpp's converter`, () => {
      const got = exported(device, name, "f16").fields;
      expect(fieldSummaries(got)).toMatchObject(fields);
      const own = new Set(["tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type"]);
      const keys = (all: Iterable<string>) => [...all].filter((key) => !own.has(key));
      expect(keys(got.keys())).toEqual(keys(Object.keys(fields)));
    });
  }

  test("an adapter added to the weights: as merge adds it, rounded once", () => {
    const name = "tiny-gqa-bf16-sharded";
    const adapter = adapterDir(`${name}-all7-r4-final`);
    const dir = mkdtempSync(join(root, "merged-"));
    const model = models.get(name)!;
    finish(mergeInSteps(device, { model, adapter, base: undefined, dtype: "f32" }, dir, context));
    for (const type of ["f32", "q8_0"] as const) {
      const got = summaries(exported(device, name, type, adapter));
      expect(got).toEqual(summaries(exported(device, name, type, null, dir)));
      expect(got).not.toEqual(golden.models[name]!.types[type]!);
    }
  });

  test("a model stored in NF4: what its codes stand for", () => {
    const dir = join(root, "nf4");
    cpSync(join(folder, "models", "tiny-mha-nf4"), dir, { recursive: true });
    for (const file of ["tokenizer.json", "tokenizer_config.json"])
      cpSync(join(models.get("tiny-mha-f32")!, file), join(dir, file));
    const got = exported(device, "nf4", "f32", null, dir);
    const plain = golden.models["tiny-mha-f32"]!.types.f32!;
    expect([...got.tensors.keys()]).toEqual(Object.keys(plain));
    const values = (bytes: Uint8Array) => new Float32Array(Uint8Array.from(bytes).buffer);
    const of = exported(device, "tiny-mha-f32", "f32").tensors;
    const linear = "blk.0.ffn_up.weight";
    const [a, b] = [values(got.tensors.get(linear)!.bytes), values(of.get(linear)!.bytes)];
    expect(a).not.toEqual(b);
    const norm = (of: (i: number) => number) => Math.hypot(...a.map((_, i) => of(i)));
    const off = norm((i) => a[i]! - b[i]!) / norm((i) => b[i]!);
    expect(off).toBeGreaterThan(0.05);
    expect(off).toBeLessThan(0.12);
    expect(got.tensors.get("token_embd.weight")!.bytes).toEqual(of.get("token_embd.weight")!.bytes);
  });
});

describe("an adapter alone", () => {
  for (const [name, { model, types, fields }] of Object.entries(golden.adapters)) {
    for (const [type, tensors] of Object.entries(types) as [GgufTypeName, Record<string, string>][]) {
      test(`${name} in ${type}: as llama.cpp's converter writes it`, () => {
        const output = join(root, `${files++}.gguf`);
        const request = { model: models.get(model)!, adapter: adapterDir(name), type };
        finish(exportAdapterInSteps(request, output, context));
        const got = readGguf(output);
        expect(summaries(got)).toEqual(tensors);
        // The converter forgets that rsLoRA divides by the root of r; llama.cpp divides by r.
        const alpha = name.includes("rslora") ? Math.fround(8 * Math.sqrt(8)) : fields["adapter.lora.alpha"];
        expect(fieldSummaries(got.fields)).toEqual({ ...fields, "adapter.lora.alpha": alpha });
      });
    }
  }
});

describe("tokens", () => {
  const device = Device.open({ threads: 1 });
  afterAll(() => device.close());
  const exportedOnce = (name: string) => exported(device, name, "f16");

  test("scores of SentencePiece's kind: a merge made earlier scores higher; ids without a token are never used", () => {
    const { fields } = exportedOnce("tiny-mha-f32");
    const [tokens, scores, types] = ["tokens", "scores", "token_type"].map(
      (key) => fields.get(`tokenizer.ggml.${key}`) as (string | number)[],
    ) as [string[], number[], number[]];
    expect([tokens.length, scores.length, types.length]).toEqual([512, 512, 512]);
    expect(tokens.slice(0, 4)).toEqual(["<unk>", "<s>", "</s>", "<0x00>"]);
    expect(types.slice(0, 4)).toEqual([3, 3, 3, 6]);
    const { merges } = (llamaTokenizerJson() as { model: { merges: [string, string][] } }).model;
    for (const [rank, pair] of merges.entries()) {
      const first = merges.findIndex((other) => other.join("") === pair.join(""));
      expect(scores[tokens.indexOf(pair.join(""))]).toBe(first === rank ? -rank : -first);
    }
    expect([tokens[511], types[511], scores[511]]).toEqual(["[PAD511]", 5, -10000]);
  });

  test("values that a type cannot hold are refused by name, and nothing is left", () => {
    const name = "tiny-mha-f32";
    const dir = join(root, "large");
    cpSync(models.get(name)!, dir, { recursive: true });
    const path = join(dir, "model.safetensors");
    const tensor = "model.layers.1.mlp.up_proj.weight";
    const { begin } = readSafetensorsHeader(path).tensors.get(tensor)!;
    const bytes = new Uint8Array(readFileSync(path));
    bytes.set(new Uint8Array(Float32Array.of(65520).buffer), begin);
    writeFileSync(path, bytes);
    const before = readdirSync(root).length;
    const wanted = (type: GgufTypeName) => () => exported(device, name, type, null, dir);
    expect(wanted("f16")).toThrow(
      "blk.1.ffn_up.weight holds values that f16 cannot; give --type f32 or bf16",
    );
    expect(readdirSync(root).length).toBe(before);
    for (const type of ["bf16", "q8_0", "q4_0"] as const) expect(wanted(type)).not.toThrow();
    bytes.set(new Uint8Array(Float32Array.of(Number.NaN).buffer), begin);
    writeFileSync(path, bytes);
    expect(wanted("f32")).toThrow(`${tensor} has a value that is NaN or infinite`);
  });

  test("a window is told: llama.cpp attends to all", () => {
    notes.length = 0;
    exportedOnce("tiny-mistral-window");
    expect(notes.join("\n")).toContain("attends to the last 16 tokens; llama.cpp has no window");
  });
});
