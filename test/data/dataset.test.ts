import { expect, test } from "bun:test";
import { readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CacheWriter, defaultCacheDir } from "../../src/data/cache.ts";
import { Dataset } from "../../src/data/dataset.ts";
import { noNotes } from "../../src/data/encoding-notes.ts";
import { type LoadOptions, loadDataset } from "../../src/data/load-dataset.ts";
import { TokenBlockBuilder } from "../../src/data/token-store.ts";
import { workersFor } from "../../src/data/tokenize-rows.ts";
import { Tokenizer } from "../../src/data/tokenizer.ts";
import { folderOf, llamaFolder } from "./tiny-tokenizer.ts";

const tokenizerDir = llamaFolder();
const rows = Array.from({ length: 40 }, (_, i) => ({
  prompt: `the cat ${i}`,
  completion: " sat on the mat".repeat(1 + (i % 3)),
}));
const lines = rows.map((row) => JSON.stringify(row)).join("\n");

function contents(dataset: Dataset): { ids: number[]; labels: number[]; truncated: boolean }[] {
  return Array.from({ length: dataset.length }, (_, i) => {
    const { ids, labels, truncated } = dataset.get(i);
    return { ids: Array.from(ids), labels: Array.from(labels), truncated };
  });
}
function options(file: string, content: unknown, more: Partial<LoadOptions> = {}): LoadOptions {
  return {
    path: join(folderOf({ [file]: content }), file),
    tokenizerDir,
    maxLength: 64,
    cacheDir: null,
    ...more,
  };
}

test("rows, an array and JSON Lines give the same samples, in order, with counts", async () => {
  const inMemory = await loadDataset({ rows, tokenizerDir, maxLength: 64 });
  const array = await loadDataset(options("x.json", rows));
  const jsonLines = await loadDataset(options("x.jsonl", lines));
  expect(contents(array)).toEqual(contents(inMemory));
  expect(contents(jsonLines)).toEqual(contents(inMemory));
  const tokenizer = Tokenizer.load(tokenizerDir);
  expect(array.get(0).ids).toEqual(Int32Array.of(1, ...tokenizer.encode("the cat 0 sat on the mat"), 2));
  expect(array.stats).toMatchObject({ rows: 40, truncated: 0, noTarget: 0, skipped: 0 });
  expect(array.stats.tokens).toBe(contents(array).reduce((sum, { ids }) => sum + ids.length, 0));
  expect(() => array.get(40)).toThrow(/sample 40: the data set has 40/);
});

test("what is cut, and what has no target left, is counted", async () => {
  const { stats } = await loadDataset(options("x.jsonl", lines, { maxLength: 5 }));
  expect(stats).toMatchObject({ rows: 40, truncated: 40, tokens: 200 });
  const [one] = await Promise.all([
    loadDataset({ rows: [{ input_ids: [4, 5], labels: [4, -100] }], tokenizerDir, maxLength: 8 }),
  ]);
  expect(one.stats).toMatchObject({ noTarget: 1, targetTokens: 0 });
});

test("worker threads give the same samples in the same order", async () => {
  const here = await loadDataset(options("x.json", rows, { workers: 0 }));
  const threads = await loadDataset(options("x.json", rows, { workers: 2 }));
  expect(contents(threads)).toEqual(contents(here));
  expect(workersFor(1000)).toBe(0);
  await expect(
    loadDataset(options("x.json", rows, { workers: 2, tokenizerDir: folderOf({}) })),
  ).rejects.toThrow(/no tokenizer\.json/);
});

test("the first bad row stops the load, named by file and line, or is skipped and counted", async () => {
  const text = '{"text":"the"}\n\n{"text":5}\n{"text":\n{"text":"cat"}\n{}';
  for (const workers of [0, 2]) {
    const load = options("bad.jsonl", text, { workers });
    await expect(loadDataset(load)).rejects.toThrow(
      /bad\.jsonl:3: row 2: field "text": expected a string, got the number 5/,
    );
    const { stats, problems, length } = await loadDataset({ ...load, skipBadRows: true });
    expect([length, stats.rows, stats.skipped]).toEqual([2, 5, 3]);
    expect(problems.length).toBe(3);
    expect(problems[1]).toMatch(/bad\.jsonl:4: row 3 is not valid JSON/);
    expect(problems[2]).toMatch(/bad\.jsonl:6: row 5 has no known format/);
  }
  const array = options("bad.json", '[{"text":"a"},\n{"text":"b"},\n{"text":null}]');
  await expect(loadDataset(array)).rejects.toThrow(/bad\.json:3: row 3 has no known format/);
  const all = options("bad.json", "[1, 2]", { skipBadRows: true });
  await expect(loadDataset(all)).rejects.toThrow(/none of its rows can be used; .*row 1: expected an object/);
  await expect(loadDataset(options("x.json", "[]"))).rejects.toThrow(/has no rows/);
});

test("the cache gives the same data; a damaged file is made again; a folder that cannot be written is no error", async () => {
  const cacheDir = join(folderOf({}), "made", "on demand");
  const load = options("x.jsonl", `${lines}\nbroken`, { cacheDir, skipBadRows: true });
  const first = await loadDataset(load);
  const [name] = readdirSync(join(cacheDir, "tokens"));
  expect(name).toBe(`${first.fingerprint}.bin`);
  const path = join(cacheDir, "tokens", name!);
  const whole = readFileSync(path);

  const check = async (): Promise<void> => {
    const again = await loadDataset(load);
    expect(contents(again)).toEqual(contents(first));
    expect([again.fingerprint, again.stats, again.problems]).toEqual([
      first.fingerprint,
      first.stats,
      first.problems,
    ]);
  };
  await check();
  for (const damage of [0, 5, 10, 100, whole.length - 20, whole.length - 1]) {
    const bytes = Buffer.from(whole);
    bytes[damage]! ^= 0x40;
    writeFileSync(path, bytes);
    await check();
    expect(readFileSync(path)).toEqual(whole);
    truncateSync(path, damage);
    await check();
    expect(readFileSync(path)).toEqual(whole);
  }
  const blocked = join(folderOf({ file: "" }), "file");
  expect(contents(await loadDataset({ ...load, cacheDir: blocked }))).toEqual(contents(first));
});

test("the cache is read: samples come from its file, not from the tokenizer", async () => {
  const cacheDir = folderOf({});
  const load = options("x.jsonl", lines, { cacheDir });
  const first = await loadDataset(load);
  const builder = new TokenBlockBuilder();
  for (let i = 0; i < first.length; i++) builder.add({ ...first.get(i), truncated: i === 39 });
  const writer = new CacheWriter(cacheDir, first.fingerprint);
  writer.append(builder.finish());
  writer.commit({ skipped: 0, problems: [], notes: noNotes() });
  const again = await loadDataset(load);
  expect([first.get(39).truncated, again.get(39).truncated]).toEqual([false, true]);
});

test("the fingerprint follows file, tokenizer, template, length and options, not the file's name", async () => {
  const base = options("x.json", rows);
  const print = async (more: Partial<LoadOptions>): Promise<string> =>
    (await loadDataset({ ...base, ...more })).fingerprint;
  const prints = [
    await print({}),
    await print({ maxLength: 63 }),
    await print({ template: "vicuna" }),
    await print({ parseSpecial: true }),
    await print({ skipBadRows: true }),
    await print({ tokenizerDir: llamaFolder({ add_bos_token: false }) }),
    await print({ path: options("x.json", rows.slice(1)).path! }),
  ];
  expect(new Set(prints).size).toBe(prints.length);
  expect(await print({ path: options("other.json", rows).path!, workers: 2 })).toBe(prints[0]!);
});

test("problems from the cache name the file that was asked for, not the one that filled it", async () => {
  const cacheDir = folderOf({});
  const load = (file: string) =>
    loadDataset(options(file, `${lines}\n{"text":5}`, { cacheDir, skipBadRows: true }));
  const first = await load("first.jsonl");
  const second = await load("second.jsonl");
  expect(readdirSync(join(cacheDir, "tokens")).length).toBe(1);
  expect(first.problems[0]).toMatch(/^\/.*\/first\.jsonl:41: row 41: field "text"/);
  expect(second.problems[0]).toMatch(/^\/.*\/second\.jsonl:41: row 41: field "text"/);
  const inMemory = await loadDataset({
    rows: ["no row", ...rows],
    tokenizerDir,
    maxLength: 64,
    skipBadRows: true,
  });
  expect(inMemory.problems[0]).toStartWith("rows: row 1: expected an object");
});

test("the default cache folder follows XDG", () => {
  expect(defaultCacheDir({ XDG_CACHE_HOME: "/x" })).toBe("/x/neftune");
  expect(defaultCacheDir({ XDG_CACHE_HOME: "relative" })).toEndWith("/.cache/neftune");
  expect(defaultCacheDir({})).toEndWith("/.cache/neftune");
});

test("data sets join end to end", async () => {
  const one = await loadDataset({ rows: rows.slice(0, 15), tokenizerDir, maxLength: 64 });
  const two = await loadDataset({
    rows: [...rows.slice(15), {}],
    tokenizerDir,
    maxLength: 64,
    skipBadRows: true,
  });
  const all = Dataset.concat([one, two]);
  expect(contents(all)).toEqual(contents(await loadDataset({ rows, tokenizerDir, maxLength: 64 })));
  expect(all.stats.skipped).toBe(1);
  expect(Dataset.concat([two, one]).fingerprint).not.toBe(all.fingerprint);
});
