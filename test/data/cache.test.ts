// Tokens in the cache's file: read from there where they are many, and never believed once the file is damaged.

import { describe, expect, test } from "bun:test";
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { CacheWriter, readCache } from "../../src/data/cache.ts";
import { Dataset } from "../../src/data/dataset.ts";
import { splitHoldout } from "../../src/data/holdout.ts";
import { type LoadOptions, loadDataset } from "../../src/data/load-dataset.ts";
import type { Sample } from "../../src/data/sample.ts";
import { contentHashOf, sizesOf } from "../../src/data/samples.ts";
import { TokenBlockBuilder, type TokenStore } from "../../src/data/token-store.ts";
import { fingerprintDataset } from "../../src/train/index.ts";
import { folderOf, llamaFolder } from "./tiny-tokenizer.ts";

const tokenizerDir = llamaFolder();
const text = Array.from({ length: 3000 }, (_, i) => `{"text":"the cat ${i}"}`).join("\n");
const options = (): LoadOptions & { path: string; cacheDir: string } => {
  const folder = folderOf({ "x.jsonl": text });
  return { path: join(folder, "x.jsonl"), cacheDir: folder, tokenizerDir, maxLength: 64 };
};
const samplesOf = (from: { length: number; get(i: number): Sample }) =>
  Array.from({ length: from.length }, (_, i) => from.get(i));
const tokensFile = (dir: string) => join(dir, "tokens", readdirSync(join(dir, "tokens"))[0]!);

const sample = (i: number): Sample => ({
  ids: Int32Array.from({ length: 1 + (i % 7) }, (_, k) => i + k),
  labels: Int32Array.from({ length: 1 + (i % 7) }, (_, k) => (k % 2 === 0 ? -100 : i + k)),
  truncated: i % 3 === 0,
});
const blockOf = (first: number, count: number) => {
  const builder = new TokenBlockBuilder();
  for (let i = first; i < first + count; i++) builder.add(sample(i));
  return builder.finish();
};
const record = {
  skipped: 2,
  problems: [":1: row 1: wrong"],
  notes: {
    remarks: { "empty-answer": { rows: 2, first: ":3: row 3" } },
    unused: ["id"],
    templates: ["alpaca"],
  },
};
const rowsOf = (store: TokenStore) => Array.from({ length: store.length }, (_, row) => store.sample(row));

describe("the file", () => {
  test("gives what was written, held in memory or left in the file; an unfinished one is none", () => {
    const dir = folderOf({});
    const writer = new CacheWriter(dir, "print");
    for (const block of [blockOf(0, 3), blockOf(3, 1), blockOf(4, 1000)]) writer.append(block);
    expect(readCache(dir, "print")).toBeNull();
    const content = writer.commit(record);
    const expected = Array.from({ length: 1004 }, (_, i) => sample(i));
    for (const inMemory of [1 << 30, 0]) {
      const { stores, ...rest } = readCache(dir, "print", inMemory)!;
      expect(rest).toEqual({ ...record, content: content! });
      expect(stores.flatMap(rowsOf)).toEqual(expected);
    }
    expect(rowsOf(writer.store())).toEqual(expected);
    expect(contentHashOf({ length: 1004, get: sample })).toBe(content!);
    expect(readCache(dir, "other")).toBeNull();
  });

  test("what is left before the end leaves nothing behind", () => {
    const dir = folderOf({});
    const left = new CacheWriter(dir, "left");
    left.append(blockOf(0, 3));
    left.close();
    expect(readdirSync(join(dir, "tokens"))).toEqual([]);
  });

  test("every byte is checked, and every length", () => {
    const dir = folderOf({});
    const writer = new CacheWriter(dir, "print");
    writer.append(blockOf(0, 20));
    writer.commit(record);
    writer.close();
    const path = tokensFile(dir);
    const whole = readFileSync(path);
    for (const inMemory of [1 << 30, 0]) {
      expect(readCache(dir, "print", inMemory)).not.toBeNull();
      for (let at = 0; at < whole.length; at++) {
        const bytes = Buffer.from(whole);
        bytes[at]! ^= 1 << (at % 8);
        writeFileSync(path, bytes);
        expect(readCache(dir, "print", inMemory)).toBeNull();
        if (at % 16 !== 0) continue;
        writeFileSync(path, whole.subarray(0, at));
        expect(readCache(dir, "print", inMemory)).toBeNull();
      }
      writeFileSync(path, Buffer.concat([whole, Buffer.from([0])]));
      expect(readCache(dir, "print", inMemory)).toBeNull();
      writeFileSync(path, whole);
    }
  });
});

describe("a data set that is larger than memory may be", () => {
  test("has the same samples, sizes and hashes", async () => {
    const load = options();
    const held = await loadDataset({ ...load, cacheDir: null });
    const written = await loadDataset({ ...load, mostMemory: 1000 });
    const read = await loadDataset({ ...load, mostMemory: 1000 });
    for (const filed of [written, read]) {
      expect(samplesOf(filed)).toEqual(samplesOf(held));
      expect(filed.stats).toEqual(held.stats);
      expect(filed.sizes()).toEqual(sizesOf({ length: held.length, get: (i) => held.get(i) }));
      expect(filed.contentHash()).toBe(held.contentHash());
      expect(fingerprintDataset(filed)).toEqual(fingerprintDataset(samplesOf(held)));
      const parts = [splitHoldout(filed, 0.1, 1), splitHoldout(held, 0.1, 1)];
      for (const side of ["train", "held"] as const) {
        const [a, b] = parts.map((part) => fingerprintDataset(part[side]));
        expect(a!).toEqual(fingerprintDataset(samplesOf(parts[1]![side])));
        expect(b!).toEqual(a!);
      }
      const joined = Dataset.concat([filed, held]);
      expect(joined.contentHash()).toBe(fingerprintDataset(samplesOf(joined)).sha256);
    }
  });

  test("does not need the data file, nor the names of its cache", async () => {
    const load = options();
    const held = samplesOf(await loadDataset({ ...load, cacheDir: null }));
    for (const _ of ["written", "read"]) {
      const filed = await loadDataset({ ...load, mostMemory: 1000 });
      const path = tokensFile(load.cacheDir);
      const whole = readFileSync(path);
      const bytes = readFileSync(load.path);
      rmSync(load.path);
      rmSync(path);
      writeFileSync(path, "another file");
      expect(samplesOf(filed)).toEqual(held);
      writeFileSync(load.path, bytes);
      rmSync(path);
      writeFileSync(path, whole);
    }
  });

  test("says so where its cache is cut or changed in place", async () => {
    const load = options();
    const told = /\.bin: this cache of tokens was changed while it was in use; start again/;
    const cut = await loadDataset({ ...load, mostMemory: 1000 });
    truncateSync(tokensFile(load.cacheDir), 5000);
    expect(cut.get(0).ids[0]).toBe(1);
    expect(() => cut.get(2999)).toThrow(told);
    expect(() => splitHoldout(cut, 0.5, 1).train.contentHash()).toThrow(told);
    const changed = await loadDataset({ ...load, mostMemory: 1000 });
    const fd = openSync(tokensFile(load.cacheDir), "r+");
    writeSync(fd, Buffer.from([0x7f]), 0, 1, 8 + 4 + 2);
    closeSync(fd);
    expect(() => changed.get(0)).toThrow(told);
    expect(changed.get(1).ids[0]).toBe(1);
    const again = await loadDataset({ ...load, mostMemory: 1000 });
    expect(samplesOf(again)).toEqual(samplesOf(await loadDataset({ ...load, cacheDir: null })));
  });

  test("stays in memory where the cache cannot be made", async () => {
    const load = options();
    const blocked = await loadDataset({ ...load, cacheDir: load.path, mostMemory: 1000 });
    expect(samplesOf(blocked)).toEqual(samplesOf(await loadDataset({ ...load, cacheDir: null })));
  });

  test("keeps what was written where the disk is full, and leaves no file", () => {
    const dir = folderOf({});
    const writer = new CacheWriter(dir, "print");
    writer.append(blockOf(0, 5));
    writer.append(blockOf(5, 5));
    writer.failure = new Error("full");
    writer.append(blockOf(10, 5));
    expect(writer.commit(record)).toBeNull();
    expect(rowsOf(writer.store(1))).toEqual([0, 1, 2, 3, 4].map(sample));
    expect(existsSync(join(dir, "tokens", "print.bin"))).toBe(false);
    expect(readdirSync(join(dir, "tokens"))).toEqual([]);
  });
});
