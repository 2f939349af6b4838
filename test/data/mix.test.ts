// Weights, counts and names: which rows of which files become samples.

import { describe, expect, test } from "bun:test";
import { appendFileSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { Dataset } from "../../src/data/dataset.ts";
import { splitHoldout } from "../../src/data/holdout.ts";
import { type LoadOptions, loadDataset } from "../../src/data/load-dataset.ts";
import { parseWeighted, weightedIndices } from "../../src/data/mix.ts";
import { chooseDataFiles, splitOf } from "../../src/data/splits.ts";
import { InterruptedError } from "../../src/errors.ts";
import { folderOf, llamaFolder } from "./tiny-tokenizer.ts";

const tokenizerDir = llamaFolder();
const rowsOf = (name: string, count: number) =>
  Array.from({ length: count }, (_, i) => ({ input_ids: [name.charCodeAt(0), 3 + i] }));
const load = (rows: unknown[], more: Partial<LoadOptions> = {}) =>
  loadDataset({ rows, tokenizerDir, maxLength: 8, vocabSize: 1000, ...more });
/** Samples by their two ids. */
const names = (dataset: Dataset) =>
  Array.from({ length: dataset.length }, (_, i) => {
    const [file, row] = dataset.get(i).ids;
    return `${String.fromCharCode(file!)}${row! - 3}`;
  });

describe("weights", () => {
  test("name:weight; a file that is called so wins", () => {
    const parse = (text: string) => parseWeighted(text, (path) => path === "x:2");
    expect(parse("a.json")).toEqual({ name: "a.json", weight: 1 });
    expect(parse("a.json:0.3")).toEqual({ name: "a.json", weight: 0.3 });
    expect(parse("org/name@v1:2")).toEqual({ name: "org/name@v1", weight: 2 });
    expect(parse("x:2")).toEqual({ name: "x:2", weight: 1 });
    expect(parse("C:file")).toEqual({ name: "C:file", weight: 1 });
    for (const wrong of ["a.json:0", "a.json:-1", "a.json:1e9", "a:1.2.3"]) {
      expect(() => parse(wrong)).toThrow(/--dataset a.*: expected a weight above 0/);
    }
  });

  test("a share is drawn by the seed and keeps the order; whole parts repeat", () => {
    const share = Array.from(weightedIndices(100, 0.3, 42, 0));
    expect(share.length).toBe(30);
    expect(share).toEqual([...new Set(share)].sort((a, b) => a - b));
    expect(Array.from(weightedIndices(100, 0.3, 42, 0))).toEqual(share);
    expect(Array.from(weightedIndices(100, 0.3, 43, 0))).not.toEqual(share);
    expect(Array.from(weightedIndices(100, 0.3, 42, 1))).not.toEqual(share);
    expect(Array.from(weightedIndices(3, 2, 1, 0))).toEqual([0, 1, 2, 0, 1, 2]);
    const twoAndAHalf = Array.from(weightedIndices(4, 2.5, 1, 0));
    expect(twoAndAHalf.slice(0, 8)).toEqual([0, 1, 2, 3, 0, 1, 2, 3]);
    expect(twoAndAHalf.length).toBe(10);
    expect(() => weightedIndices(10, 0.01, 1, 0)).toThrow(/a weight of 0.01 leaves none of 10 samples/);
  });

  test("a mixture: each data set so many times, one behind the other, named by weights and seed", async () => {
    const [a, b] = [await load(rowsOf("a", 10)), await load(rowsOf("b", 4))];
    const mixed = Dataset.mix([a, b], [0.5, 2], 7);
    expect(names(mixed).slice(5)).toEqual(["b0", "b1", "b2", "b3", "b0", "b1", "b2", "b3"]);
    expect(new Set(names(mixed).slice(0, 5)).size).toBe(5);
    expect(names(Dataset.mix([a, b], [0.5, 2], 7))).toEqual(names(mixed));
    expect(mixed.stats.tokens).toBe(26);
    const prints = [
      mixed,
      Dataset.mix([a, b], [0.5, 2], 8),
      Dataset.mix([a, b], [0.5, 1], 7),
      Dataset.mix([a, b], [1, 1], 7),
    ].map(({ fingerprint }) => fingerprint);
    expect(new Set(prints).size).toBe(4);
    expect(Dataset.mix([a, b], [1, 1], 7).fingerprint).toBe(Dataset.concat([a, b]).fingerprint);
  });

  test("a row that is held out is trained on in none of its repetitions, and evaluated once", async () => {
    const mixed = Dataset.mix([await load(rowsOf("a", 10)), await load(rowsOf("b", 10))], [3, 0.5], 1);
    expect(mixed.length).toBe(35);
    const { train, held } = splitHoldout(mixed, 5, 42);
    expect(held.length).toBe(5);
    expect(new Set(names(held)).size).toBe(5);
    expect(names(train).filter((name) => names(held).includes(name))).toEqual([]);
    const repeated = names(held).filter((name) => name.startsWith("a")).length;
    expect(train.length).toBe(35 - 3 * repeated - (5 - repeated));
  });
});

test("duplicates are rows with the same tokens and labels; what a weight repeats is none", async () => {
  const rows = [...rowsOf("a", 5), ...rowsOf("a", 3), { input_ids: [97, 3], labels: [-100, 3] }];
  const one = await load(rows);
  expect(one.countDuplicates()).toBe(3);
  expect(Dataset.mix([one, await load(rowsOf("a", 2))], [1, 1], 1).countDuplicates()).toBe(5);
  expect(Dataset.mix([await load(rowsOf("a", 5))], [3], 1).countDuplicates()).toBe(0);
});

test("--samples takes the first rows, --columns other names; both are part of the fingerprint", async () => {
  const text = Array.from({ length: 3000 }, (_, i) => `{"q":"the cat ${i}","a":"sat","prompt":"no"}`);
  const path = join(folderOf({ "x.jsonl": `${text.join("\n")}\nbroken` }), "x.jsonl");
  const options: LoadOptions = { path, tokenizerDir, maxLength: 64, cacheDir: null };
  const columns = { prompt: "q", completion: "a" };
  const some = await loadDataset({ ...options, columns, samples: 1500 });
  expect([some.length, some.stats.rows]).toEqual([1500, 1500]);
  const rows = text.slice(0, 1500).map((line) => {
    const { q, a } = JSON.parse(line) as { q: string; a: string };
    return { prompt: q, completion: a };
  });
  const direct = await load(rows, { maxLength: 64, vocabSize: undefined });
  expect(some.get(1499)).toEqual(direct.get(1499));
  const threaded = await loadDataset({ ...options, columns, samples: 1500, workers: 2 });
  expect(threaded.get(1499)).toEqual(some.get(1499));
  const fewer = await loadDataset({ ...options, columns, samples: 1499 });
  const other = await loadDataset({ ...options, columns: { prompt: "a", completion: "q" }, samples: 1500 });
  expect(new Set([some, fewer, other].map(({ fingerprint }) => fingerprint)).size).toBe(3);
  await expect(loadDataset({ ...options, columns })).rejects.toThrow(
    /x\.jsonl:3001: row 3001 is not valid JSON/,
  );
  await expect(loadDataset({ ...options, columns: { prompt: "question" } })).rejects.toThrow(
    /x\.jsonl:1: row 1: --columns prompt=question: the row has no question; it has q, a, prompt/,
  );
});

test("a signal ends the loading, and nothing is left of it", async () => {
  const text = Array.from({ length: 20_000 }, (_, i) => `{"text":"the cat ${i}"}`).join("\n");
  const folder = folderOf({ "x.jsonl": text });
  const controller = new AbortController();
  const counts: number[] = [];
  const options: LoadOptions = {
    path: join(folder, "x.jsonl"),
    tokenizerDir,
    maxLength: 64,
    cacheDir: folder,
    signal: controller.signal,
    onProgress: (rows) => {
      counts.push(rows);
      if (rows > 3000) controller.abort();
    },
  };
  for (const workers of [0, 2]) {
    await expect(loadDataset({ ...options, workers })).rejects.toThrow(InterruptedError);
    expect(readdirSync(join(folder, "tokens"))).toEqual([]);
  }
  expect(counts.at(-1)).toBeLessThan(10_000);
});

test("a file that is written to while it is read is no data set", async () => {
  const text = Array.from({ length: 5000 }, (_, i) => `{"text":"the cat ${i}"}`).join("\n");
  const folder = folderOf({ "x.jsonl": text });
  const path = join(folder, "x.jsonl");
  const onProgress = (rows: number) => {
    if (rows < 3000) appendFileSync(path, '\n{"text":"more"}');
  };
  const load = loadDataset({ path, tokenizerDir, maxLength: 64, cacheDir: folder, workers: 0, onProgress });
  await expect(load).rejects.toThrow(/x\.jsonl was changed while it was read/);
  expect(readdirSync(join(folder, "tokens"))).toEqual([]);
});

test("a file that is removed while it is read is named", async () => {
  const folder = folderOf({ "x.jsonl": '{"text":"the cat"}\n' });
  const path = join(folder, "x.jsonl");
  const onProgress = () => rmSync(path, { force: true });
  const load = loadDataset({ path, tokenizerDir, maxLength: 64, cacheDir: folder, workers: 0, onProgress });
  await expect(load).rejects.toThrow(`dataset ${path}: no such file`);
});

describe("--split", () => {
  test("a file's split is in its name or a folder's", () => {
    const cases: [string, string | null][] = [
      ["data/train-00000-of-00002-abc123.parquet", "train"],
      ["data/train_sft-00000-of-00001.parquet", "train_sft"],
      ["data/test_sft-00000-of-00001.parquet", "test_sft"],
      ["default/validation/0000.parquet", "validation"],
      ["my-dev-set.csv", "validation"],
      ["eval.jsonl.gz", "test"],
      ["training.json", "train"],
      ["constraints.json", null],
      ["alpaca_data_cleaned.json", null],
      ["latest.json", null],
    ];
    for (const [name, split] of cases) expect({ name, split: splitOf(name) }).toEqual({ name, split });
  });

  const folder = ["README.md", ".gitattributes", "dataset_infos.json", "test.csv", "train.csv"];
  test("train is the default; a split is taken by name, or the first there is of several", () => {
    expect(chooseDataFiles(folder, null, "x")).toEqual(["train.csv"]);
    expect(chooseDataFiles(folder, ["test"], "x")).toEqual(["test.csv"]);
    expect(chooseDataFiles(folder, ["validation", "test"], "x")).toEqual(["test.csv"]);
    expect(chooseDataFiles(["a/b.json", "README.md"], null, "x")).toEqual(["a/b.json"]);
    expect(chooseDataFiles(["test.json"], null, "x")).toEqual(["test.json"]);
    const shards = [
      "d/train-00001-of-00002.parquet",
      "d/train-00000-of-00002.parquet",
      "d/test-00000-of-00001.parquet",
    ];
    expect(chooseDataFiles(shards, null, "x")).toEqual([shards[1]!, shards[0]!]);
  });

  test("what is not there, or not one data set, is refused with what there is", () => {
    expect(() => chooseDataFiles(folder, ["dev"], "x")).toThrow(
      /x has no split dev; --split test, --split train are/,
    );
    expect(() => chooseDataFiles(["a.json", "b.json"], null, "x")).toThrow(
      /holds several: a\.json, b\.json; give one/,
    );
    expect(() => chooseDataFiles(["a.txt"], null, "x")).toThrow(/expected a \.json.* file, found a\.txt/);
    expect(() => chooseDataFiles(["a.json"], ["test"], "x")).toThrow(/no file's name says its split/);
  });
});
