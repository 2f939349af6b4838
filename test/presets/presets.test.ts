import { describe, expect, test } from "bun:test";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { locateModel } from "../../src/cli/inputs/locate.ts";
import { datasetFiles } from "../../src/cli/inputs/model-data.ts";
import { type LlamaConfig, tensorSpecs } from "../../src/model/index.ts";
import { datasetPresets, modelPresets } from "../../src/presets/presets.ts";
import { readShape, shapeNames } from "../../src/presets/shapes.ts";
import { quietContext } from "../cli/quiet-context.ts";
import { scratchFolder } from "../scratch.ts";

const root = scratchFolder();
const env = { HF_HUB_CACHE: root, HF_HUB_OFFLINE: "1" };
const context = quietContext({ env });

function parametersOf(config: LlamaConfig): number {
  return tensorSpecs(config).reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
}

/** A repository as huggingface_hub lays it out. */
function cacheRepo(folder: string, files: Record<string, string>): string {
  const repo = join(root, folder);
  const snapshot = join(repo, "snapshots", "abc123");
  mkdirSync(join(repo, "refs"), { recursive: true });
  mkdirSync(join(snapshot, "data"), { recursive: true });
  writeFileSync(join(repo, "refs", "main"), "abc123");
  for (const [name, text] of Object.entries(files)) writeFileSync(join(snapshot, name), text);
  return snapshot;
}

/** Files that make a folder a model, as far as finding it goes. */
const model = { "config.json": "{}", "tokenizer.json": "{}", "model.safetensors": "" };

describe("architectures have the parameters that their models are published with", () => {
  const published: Record<string, number> = {
    m25: 38_738_304,
    s135m: 134_515_008,
    t1b: 1_100_048_384,
    l1b: 1_235_814_400,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-7b-chat": 6_738_415_616,
    "llama2-13b-chat": 13_015_864_320,
    "llama3-8b": 8_030_261_248,
    "llama3-8b-instruct": 8_030_261_248,
    "llama3.1-8b": 8_030_261_248,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "tinyllama-1.1b": 1_100_048_384,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "mistral-7b": 7_248_023_552,
    "mistral-7b-instruct": 7_248_023_552,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-7b-instruct": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-8b": 8_190_735_360,
  };
  for (const [name, count] of Object.entries(published)) {
    test(name, () => expect(parametersOf(readShape(name))).toBe(count));
  }

  test("all are listed, and another name is refused with the nearest", () => {
    expect([...shapeNames].sort()).toEqual(Object.keys(published).sort());
    expect(() => readShape("lama2-7b")).toThrow("did you mean llama2-7b?");
    expect(() => readShape(import.meta.path)).toThrow("presets.test.ts is not valid JSON");
  });

  test("Llama 3.1 and 3.2 stretch RoPE; the small ones share embedding and lm_head", () => {
    const of = (name: string) => readShape(name);
    expect(of("llama3.1-8b").ropeScaling).toMatchObject({ type: "llama3", factor: 8 });
    expect(of("llama3.2-3b").ropeScaling).toMatchObject({ type: "llama3", factor: 32 });
    expect(of("llama3-8b").ropeScaling).toBe(null);
    const tied = shapeNames.filter((name) => of(name).tieWordEmbeddings);
    expect(tied).toEqual([
      ...["s135m", "l1b", "llama3.2-1b", "llama3.2-3b"],
      ...["smollm2-135m", "smollm2-360m", "smollm2-1.7b"],
      ...["qwen2.5-0.5b", "qwen2.5-1.5b", "qwen3-0.6b", "qwen3-1.7b"],
    ]);
    // TOML cannot say that sliding_window is null; what a preset leaves out is no window.
    expect(of("mistral-7b").window).toBeNull();
  });
});

test("every preset names its repository's page as the source of its facts", () => {
  for (const { source, hub } of [...modelPresets, ...datasetPresets]) {
    expect(source).toStartWith("https://huggingface.co/");
    expect(source).toContain(hub);
  }
});

describe("models", () => {
  const find = (name: string) => locateModel(name, "weights", context);

  test("a preset is found in the cache under its Hub id", async () => {
    const snapshot = cacheRepo("models--meta-llama--Llama-2-7b-hf", model);
    expect(await find("llama2-7b")).toMatchObject({
      path: snapshot,
      label: "llama2-7b",
      name: "meta-llama/Llama-2-7b-hf",
    });
  });

  test("a Hub id keeps its name, a folder its path", async () => {
    cacheRepo("models--some--model.v1", model);
    expect(await find("some/model.v1")).toMatchObject({ label: "model.v1", name: "some/model.v1" });
    expect(await find(`${root}/`)).toMatchObject({ path: `${root}/`, name: `${root}/` });
  });

  test("a preset file of one's own", async () => {
    const snapshot = cacheRepo("models--some--own", model);
    const path = join(root, "my.toml");
    writeFileSync(path, 'kind = "model"\nname = "mine"\nhub = "some/own"\nprompt_template = "vicuna"\n');
    const found = await find(path);
    expect(found).toMatchObject({ path: snapshot, label: "mine", name: "some/own" });
    expect(found.preset?.prompt_template).toBe("vicuna");
  });

  test.each([
    ['name = "mine"', /kind: /],
    ['kind = "model"\nname = "x"\nhub = "some/own"\nalfa = 3', /alfa: /],
    ['kind = "model"\nname = "x"\nhub = "nowhere"', /hub: a Hub id such as org\/name/],
    ["kind = ", /Invalid TOML/],
  ])("a preset file that is none: %j", async (text, message) => {
    const path = join(root, "bad.toml");
    writeFileSync(path, text);
    await expect(find(path)).rejects.toThrow(message);
    await expect(find(path)).rejects.toThrow(path);
  });

  test("where nothing is found, it says where it looked and what is near", async () => {
    await expect(find("no/such")).rejects.toThrow(join(root, "models--no--such"));
    await expect(find("lama2-7b")).rejects.toThrow("did you mean llama2-7b?");
    await expect(find("./not/here")).rejects.toThrow("no such folder");
    await expect(find("mine.toml")).rejects.toThrow("mine.toml: no such file");
    await expect(find("llama2-13b")).rejects.toThrow(
      /the preset llama2-13b \(Llama 2 13B\): .*models--meta-llama--Llama-2-13b-hf/,
    );
  });
});

describe("data sets", () => {
  const find = (name: string, splits: readonly string[] | null = null) => datasetFiles(name, context, splits);

  test("the one data file of a repository, or a split's shards", async () => {
    const snapshot = cacheRepo("datasets--some--data", { "data/rows.jsonl": "", "dataset_infos.json": "{}" });
    expect(await find("some/data")).toMatchObject({
      path: join(snapshot, "data/rows.jsonl"),
      label: "data",
    });
    const shards = [0, 1].map((i) => `data/train-0000${i}-of-00002.parquet`);
    const files = { "data/test.parquet": "", [shards[0]!]: "", [shards[1]!]: "" };
    const folder = cacheRepo("datasets--some--split", files);
    const whole = shards.map((shard) => join(folder, shard));
    expect((await find("some/split")).files).toEqual(whole);
    expect((await find("some/split", ["test"])).files).toEqual([join(folder, "data/test.parquet")]);
    rmSync(whole[1]!);
    await expect(find("some/split")).rejects.toThrow("lacks some shards, and HF_HUB_OFFLINE");
  });

  test("several are refused with what to do; one of them can be named", async () => {
    const snapshot = cacheRepo("datasets--some--two", { "a.json": "", "b.json": "" });
    await expect(find("some/two")).rejects.toThrow("holds several: a.json, b.json");
    expect(await find("some/two/b.json")).toMatchObject({ path: join(snapshot, "b.json"), label: "b" });
    await expect(find("some/two/c.json")).rejects.toThrow("has no file c.json; it has a.json, b.json");
  });

  test("a preset takes its own file", async () => {
    const file = "ShareGPT_V3_unfiltered_cleaned_split.json";
    const snapshot = cacheRepo("datasets--anon8231489123--ShareGPT_Vicuna_unfiltered", {
      [file]: "[]",
      "ShareGPT_V3_unfiltered_cleaned_split_no_imsorry.json": "[]",
    });
    expect(await find("sharegpt")).toMatchObject({ path: join(snapshot, file), label: "sharegpt" });
  });

  test("where nothing is found, it says so and what is near", async () => {
    await expect(find("alpacca")).rejects.toThrow("did you mean alpaca?");
    await expect(find("mine.json")).rejects.toThrow("--dataset mine.json: no such file");
    await expect(find("open-platypus")).rejects.toThrow(
      /the preset open-platypus .*datasets--garage-bAInd--Open-Platypus/,
    );
  });

  test("the alpha of the paper comes with the data", () => {
    const alphas = Object.fromEntries(datasetPresets.map(({ name, alpha }) => [name, alpha]));
    expect(alphas).toEqual({
      alpaca: 5,
      "evol-instruct": 5,
      sharegpt: 10,
      "open-platypus": 15,
      "alpaca-eval": undefined,
    });
  });
});
