// --model RUN, adapters on other bases, and the model looked at before any data.

import { describe, expect, test } from "bun:test";
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { noteOtherBase, noteOtherPrecision, withBase } from "../../src/cli/inputs/adapter-base.ts";
import { completeModel, findModel } from "../../src/cli/inputs/checked-model.ts";
import { readSafetensorsHeader } from "../../src/formats/safetensors.ts";
import { baseFingerprint, checkpointSource } from "../../src/model/index.ts";
import { folder as golden } from "../golden/support.ts";
import { scratchFolder } from "../scratch.ts";
import { quietContext } from "./quiet-context.ts";

const root = scratchFolder();
const notes: string[] = [];
const context = quietContext({
  env: { HF_HUB_OFFLINE: "1", HOME: root },
  note: (text) => notes.push(text),
});
const noted = (act: () => unknown) => {
  notes.length = 0;
  act();
  return [...notes];
};

const tiny = join(golden, "models", "tiny-mha-f32");
const adapter = join(golden, "adapters", "tiny-mha-f32-qv-r8-rslora-final");

let runs = 0;
/** An adapter's folder with another base, and the record of a run where there is one. */
function run(base: string | null, record?: Record<string, unknown>, more: object = {}): string {
  const dir = join(root, `run-${++runs}`);
  cpSync(adapter, dir, { recursive: true });
  const path = join(dir, "adapter_config.json");
  const config = { ...JSON.parse(readFileSync(path, "utf8")), base_model_name_or_path: base, ...more };
  writeFileSync(path, JSON.stringify(config));
  if (record !== undefined)
    writeFileSync(join(dir, "config.json"), JSON.stringify({ neftune_version: "1", ...record }));
  return dir;
}

/** A copy of the tiny model, changed on disk. */
function copyOf(change: (dir: string) => void): string {
  const dir = join(root, `model-${++runs}`);
  cpSync(tiny, dir, { recursive: true });
  change(dir);
  return dir;
}

function setBytes(dir: string, tensor: string, bytes: Uint8Array): void {
  const path = join(dir, "model.safetensors");
  const { begin } = readSafetensorsHeader(path).tensors.get(tensor)!;
  const file = new Uint8Array(readFileSync(path));
  file.set(bytes, begin);
  writeFileSync(path, file);
}

const other = copyOf((dir) => setBytes(dir, "model.embed_tokens.weight", Uint8Array.of(1, 2, 3, 62)));

describe("--model RUN", () => {
  test("stands for its base and itself as adapter, and says so", () => {
    const dir = run(tiny);
    const values: { model: string; adapter?: string; other: number } = { model: dir, other: 1 };
    expect(
      noted(() => expect(withBase(values, context)).toEqual({ model: tiny, adapter: dir, other: 1 })),
    ).toEqual([`${dir} is an adapter; loading it with its base model ${tiny}`]);
    expect(withBase({ model: `${dir}/`, adapter: dir }, context)).toEqual({
      model: tiny,
      adapter: `${dir}/`,
    });
  });

  test("finds a base on the Hub, with its revision", () => {
    expect(withBase({ model: run("org/base") }, context)).toMatchObject({ model: "org/base" });
    expect(withBase({ model: run("org/base", {}, { revision: "v2" }) }, context).model).toBe("org/base@v2");
  });

  test("finds a base that moved by the run's own record", () => {
    expect(withBase({ model: run("gone/from/here", { model_folder: tiny }) }, context).model).toBe(tiny);
  });

  test.each([
    [
      "a base that is not here",
      () => run("./nowhere"),
      "is an adapter, but its base model ./nowhere is not here; give the base",
    ],
    ["no base", () => run(null), "adapter_config.json names no base; give the base as --model"],
    ["an adapter as base", () => run(run(tiny)), "is an adapter, too; give the base"],
  ])("with %s says what to give", (_, make, message) => {
    expect(() => withBase({ model: make() }, context)).toThrow(message);
  });

  test("beside another --adapter is refused", () => {
    expect(() => withBase({ model: run(tiny), adapter: adapter }, context)).toThrow("is an adapter, too");
  });

  test("leaves models alone, those with an adapter's files beside the weights too", () => {
    const both = copyOf((dir) =>
      cpSync(join(adapter, "adapter_config.json"), join(dir, "adapter_config.json")),
    );
    for (const model of [tiny, both, "org/name", undefined])
      expect(withBase({ model }, context)).toEqual({ model });
  });
});

describe("an adapter on another base", () => {
  const base_fingerprint = baseFingerprint(checkpointSource(tiny));
  const says = (dir: string, model: string) =>
    noted(() => noteOtherBase(dir, checkpointSource(model), model, context));

  test("is told by the run's fingerprint, wherever the base lies", () => {
    const dir = run("org/tiny", { base_fingerprint });
    expect(says(dir, tiny)).toEqual([]);
    expect(
      says(
        dir,
        copyOf(() => {}),
      ),
    ).toEqual([]);
    expect(says(dir, other)).toEqual([
      expect.stringContaining("was trained on another model (org/tiny) than"),
    ]);
  });

  test("is told by name where there is no fingerprint", () => {
    expect(says(run("org/tiny-mha-f32"), tiny)).toEqual([]);
    expect(says(run("org/another"), tiny)).toEqual([
      expect.stringContaining("names org/another as its base"),
    ]);
  });

  test("is the same base in another dtype or quantized, another one with other widths or RoPE", () => {
    const nf4 = join(golden, "models", "tiny-mha-nf4");
    expect(baseFingerprint(checkpointSource(nf4))).toBe(base_fingerprint);
    const theta = copyOf((dir) => {
      const path = join(dir, "config.json");
      writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), rope_theta: 5e5 }));
    });
    expect(baseFingerprint(checkpointSource(theta))).not.toBe(base_fingerprint);
  });

  test("of another precision is said, with the flags that load it", () => {
    const qlora = run(tiny, { quantization: "nf4", "double-quantization": false });
    expect(noted(() => noteOtherPrecision(qlora, false, context))).toEqual([
      expect.stringContaining("--quantization nf4 --double-quantization off loads those"),
    ]);
    const plain = run(tiny, { quantization: "none" });
    expect(noted(() => noteOtherPrecision(plain, true, context))).toHaveLength(1);
    for (const [dir, isQuantized] of [
      [qlora, true],
      [plain, false],
      [adapter, false],
    ] as const)
      expect(noted(() => noteOtherPrecision(dir, isQuantized, context))).toEqual([]);
  });
});

describe("findModel", () => {
  const find = (model: string, adapter?: string) =>
    findModel({ model, adapter, quantization: "none" }, "train", context);

  test("checks a folder, and completeModel does nothing more", async () => {
    const found = await find(tiny, adapter);
    expect(found).toMatchObject({ path: tiny, isWhole: true });
    expect(await completeModel(found, { model: tiny }, context)).toBe(found);
  });

  test.each<[string, () => [string, string?], string]>([
    ["no such folder", () => ["./nope"], "--model ./nope: no such folder"],
    [
      "a folder without config",
      () => [mkdirSync(join(root, "empty"), { recursive: true }) ?? root],
      "config.json cannot be read",
    ],
    [
      "a missing shard",
      () => [
        copyOf((dir) => {
          rmSync(join(dir, "model.safetensors"));
          const weight_map = { "model.norm.weight": "model-00001-of-00002.safetensors" };
          writeFileSync(join(dir, "model.safetensors.index.json"), JSON.stringify({ weight_map }));
        }),
      ],
      "names the shard model-00001-of-00002.safetensors, which is not in the folder",
    ],
    [
      "another shape",
      () => [
        copyOf((dir) => {
          const path = join(dir, "config.json");
          writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), vocab_size: 600 }));
        }),
      ],
      "has shape [512,64], but config.json makes it [600,64]",
    ],
    [
      "a tokenizer that is a pointer",
      () => [
        copyOf((dir) =>
          writeFileSync(join(dir, "tokenizer.json"), "version https://git-lfs.github.com/spec/v1\n"),
        ),
      ],
      "tokenizer.json is a Git LFS pointer",
    ],
    ["no adapter", () => [tiny, "./nope"], "--adapter ./nope: no such folder"],
    [
      "an adapter of another shape",
      () => [join(golden, "models", "tiny-gqa-bf16-sharded"), adapter],
      "but this model",
    ],
  ])("refuses %s", async (_, make, message) => {
    await expect(find(...make())).rejects.toThrow(message);
  });
});
