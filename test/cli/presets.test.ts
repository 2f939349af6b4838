import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Context } from "../../src/cli/command.ts";
import { datasetFiles } from "../../src/cli/model-data.ts";
import { locateModel, readShape, shapeNames } from "../../src/cli/presets.ts";
import { tensorSpecs } from "../../src/model/index.ts";

const root = mkdtempSync(join(tmpdir(), "neftune-presets-"));
afterAll(() => rmSync(root, { recursive: true }));
const env = { HF_HUB_CACHE: root, HF_HUB_OFFLINE: "1" };
const context: Context = {
  version: "0",
  env,
  positionals: [],
  given: new Set(),
  signal: new AbortController().signal,
  isTerminal: false,
  print: () => {},
  note: () => {},
  draw: () => {},
};

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

describe("shapes have the parameters that their models are published with", () => {
  const published: Record<string, number> = {
    s135m: 134_515_008,
    t1b: 1_100_048_384,
    l1b: 1_235_814_400,
    "llama2-7b": 6_738_415_616,
    "llama3-8b": 8_030_261_248,
  };
  for (const [name, count] of Object.entries(published)) {
    test(name, () => {
      const specs = tensorSpecs(readShape(name));
      expect(specs.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0)).toBe(count);
    });
  }

  test("all are listed, and another name is refused with the nearest", () => {
    expect(shapeNames).toEqual(["m25", "s135m", "t1b", "l1b", "llama2-7b", "llama3-8b"]);
    expect(() => readShape("lama2-7b")).toThrow("did you mean llama2-7b?");
  });
});

describe("models", () => {
  test("a preset is found in the cache under its Hub id", () => {
    const snapshot = cacheRepo("models--meta-llama--Llama-2-7b-hf", { "config.json": "{}" });
    const found = locateModel("llama2-7b", env);
    expect(found).toEqual({ path: snapshot, label: "llama2-7b", name: "meta-llama/Llama-2-7b-hf" });
  });

  test("a Hub id keeps its name, a folder its path", () => {
    cacheRepo("models--some--model.v1", {});
    expect(locateModel("some/model.v1", env)).toMatchObject({ label: "model.v1", name: "some/model.v1" });
    expect(locateModel(`${root}/`, env)).toMatchObject({ path: `${root}/`, name: `${root}/` });
  });

  test("where nothing is found, it says where it looked", () => {
    expect(() => locateModel("no/such", env)).toThrow(join(root, "models--no--such"));
  });
});

describe("data sets", () => {
  test("the one JSON file of a repository", async () => {
    const snapshot = cacheRepo("datasets--some--data", { "data/rows.jsonl": "", "dataset_infos.json": "{}" });
    expect(await datasetFiles("some/data", context)).toMatchObject({
      path: join(snapshot, "data/rows.jsonl"),
      label: "data",
    });
  });

  test("several, or only Parquet, are refused with what to do", async () => {
    cacheRepo("datasets--some--two", { "a.json": "", "b.json": "" });
    await expect(datasetFiles("some/two", context)).rejects.toThrow("holds several: a.json, b.json");
    cacheRepo("datasets--some--table", { "data/train.parquet": "" });
    await expect(datasetFiles("some/table", context)).rejects.toThrow(
      "holds data/train.parquet. This version reads .json and .jsonl files: convert it",
    );
  });

  test("Alpaca, which the Hub has as Parquet: which file to download and how to give it", async () => {
    const remedy =
      /reads \.json and \.jsonl files: download https:\S+\/alpaca_data\.json and give it with --dataset alpaca_data\.json$/;
    await expect(datasetFiles("alpaca", context)).rejects.toThrow(/not in the Hugging Face cache/);
    await expect(datasetFiles("alpaca", context)).rejects.toThrow(remedy);
    const snapshot = cacheRepo("datasets--tatsu-lab--alpaca", { "data/train.parquet": "" });
    await expect(datasetFiles("alpaca", context)).rejects.toThrow(/holds data\/train\.parquet/);
    for (const name of ["alpaca", "tatsu-lab/alpaca"])
      await expect(datasetFiles(name, context)).rejects.toThrow(remedy);
    const json = join(snapshot, "alpaca_data.json");
    writeFileSync(json, "[]");
    expect(await datasetFiles("alpaca", context)).toMatchObject({ path: json, label: "alpaca" });
  });
});
