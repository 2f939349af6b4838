import { describe, expect, test } from "bun:test";
import { makeDemoData } from "../../src/cli/demo/data.ts";
import { bosId, eosId, trainTokenizer, writeTokenizer } from "../../src/cli/demo/tokenizer.ts";
import { Tokenizer } from "../../src/data/tokenizer.ts";
import { scratchFolder } from "../scratch.ts";

const folder = scratchFolder();

describe("data", () => {
  const data = makeDemoData(42);
  const key = (row: { instruction: string; input: string }) => `${row.instruction}|${row.input}`;

  test("held-out rows are no training rows, and no question has two answers", () => {
    const train = new Set(data.train.map(key));
    expect(data.heldOut.filter((row) => train.has(key(row)))).toEqual([]);
    const all = [...data.train, ...data.heldOut];
    expect(new Set(all.map(key)).size).toBe(all.length);
  });

  test("every family is on both sides, and there are enough rows", () => {
    const families = new Set(data.train.map((row) => row.family));
    expect(families.size).toBeGreaterThanOrEqual(12);
    expect(new Set(data.heldOut.map((row) => row.family))).toEqual(families);
    expect(data.train.length).toBeGreaterThan(500);
    expect(data.heldOut.length).toBeGreaterThan(150);
    expect(data.base.length).toBeGreaterThan(300);
  });

  test("the same for a seed, another for another", () => {
    expect(makeDemoData(42)).toEqual(data);
    expect(makeDemoData(43).train).not.toEqual(data.train);
  });

  test("no hole in a template", () => {
    const text = JSON.stringify(data);
    expect(text).not.toMatch(/undefined|null|NaN/);
  });
});

describe("tokenizer", () => {
  const texts = ["low lower lowest, low 12!", "new newer newest\n\nlow"];
  const trained = trainTokenizer(texts, 300);
  writeTokenizer(folder, trained);
  const tokenizer = Tokenizer.load(folder);

  test("reads back what it writes, unknown letters through bytes", () => {
    for (const text of [...texts, "lowest new 2", "naïve 日本 ▁ x"]) {
      expect(tokenizer.decode(tokenizer.encode(text))).toBe(text.replaceAll("▁", " "));
    }
    expect(tokenizer.bosId).toBe(bosId);
    expect(tokenizer.eosId).toBe(eosId);
  });

  test("frequent words are one token, digits stand alone", () => {
    expect(tokenizer.encode("low").length).toBe(1);
    expect(tokenizer.encode("low low").length).toBe(2);
    expect(tokenizer.encode("12").length).toBe(3);
  });

  test("the order of texts does not matter", () => {
    expect(trainTokenizer(texts.toReversed(), 300)).toEqual(trained);
  });
});
