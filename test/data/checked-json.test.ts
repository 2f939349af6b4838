// Rows that JSON.parse takes and training must not: half a surrogate pair, and a key that an object has twice.

import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { loadDataset } from "../../src/data/load-dataset.ts";
import { halfSurrogate, jsonProblem } from "../../src/data/source/checked-json.ts";
import { openSource, rowsOf } from "../../src/data/source.ts";
import { folderOf, llamaFolder } from "./tiny-tokenizer.ts";

const problemOf = (text: string) => jsonProblem(JSON.parse(text), text);
/** What is wrong with each row of a file, null where nothing is; `:line: row n` before it. */
async function problems(name: string, text: string): Promise<(string | null)[]> {
  const path = join(folderOf({ [name]: text }), name);
  const found: (string | null)[] = [];
  for await (const { row, problem, where } of rowsOf(openSource(path))) {
    if (problem !== null) expect(row).toBeUndefined();
    found.push(problem === null ? null : `${where.slice(path.length)}: ${problem}`);
  }
  return found;
}

describe("half a surrogate pair", () => {
  const cases: [text: string, half: string | null, at: number][] = [
    [String.raw`{"text":"\ud83d"}`, String.raw`\ud83d`, 9],
    [String.raw`{"text":"\uDE00"}`, String.raw`\ude00`, 9],
    [String.raw`{"text":"\ude00\ud83d"}`, String.raw`\ude00`, 9],
    [String.raw`{"text":"\ud83d\ude00\ud83d"}`, String.raw`\ud83d`, 21],
    [String.raw`{"text":"\ud83d\ud83d\ude00"}`, String.raw`\ud83d`, 9],
    [String.raw`{"text":"\ud83d \ude00"}`, String.raw`\ud83d`, 9],
    [String.raw`{"text":"\ud83d\n\ude00"}`, String.raw`\ud83d`, 9],
    [String.raw`{"a":"b","\udfff":1}`, String.raw`\udfff`, 10],
    [String.raw`{"messages":[{"role":"user","content":["x","\uD800"]}]}`, String.raw`\ud800`, 44],
    [String.raw`"\ud83d"`, String.raw`\ud83d`, 1],
    [String.raw`{"text":"\ud83d\ude00 \uD83D\uDE00 \u2019"}`, null, 0],
    [String.raw`{"text":"\\ud83d \\\\ud83d"}`, null, 0],
    [String.raw`{"text":"\ud7ff\ue000"}`, null, 0],
    ['{"text":"😀 é"}', null, 0],
  ];
  for (const [text, half, at] of cases) {
    test(text, () => {
      const expected = {
        at,
        reason: `a string has half of a surrogate pair (${half}), which is no character`,
      };
      expect(problemOf(text)).toEqual(half === null ? null : expected);
      expect(halfSurrogate(JSON.parse(text))).toBe(half);
    });
  }

  test("a row with one is a bad row of its line, in every form of JSON", async () => {
    const bad = String.raw`{"text":"\ud83d"}`;
    const reason = "a string has half of a surrogate pair (\\ud83d), which is no character";
    const good = '{"text":"a"}';
    expect(await problems("x.jsonl", `${good}\n\n${bad}\n${good}`)).toEqual([
      null,
      `:3: row 2: ${reason} (column 10)`,
      null,
    ]);
    expect(await problems("x.json", `[${good},\n${bad},\n${good},${bad}]`)).toEqual([
      null,
      `:2: row 2: ${reason}`,
      null,
      `:3: row 4: ${reason}`,
    ]);
    expect(await problems("x.json", `{"data":[${good},\n${bad},${good},\n${bad}], "v": 1}`)).toEqual([
      null,
      `:2: row 2: ${reason}`,
      null,
      `:3: row 4: ${reason}`,
    ]);
  });

  test("it stops a load, also of rows in memory, or is skipped and counted", async () => {
    const tokenizerDir = llamaFolder();
    const rows = [{ text: "the" }, { text: "the \ud83d" }, { text: "cat" }];
    const load = { rows, tokenizerDir, maxLength: 8 };
    await expect(loadDataset(load)).rejects.toThrow(/rows: row 2: a string has half of a surrogate pair/);
    const { length, stats } = await loadDataset({ ...load, skipBadRows: true });
    expect([length, stats.skipped]).toEqual([2, 1]);
  });
});

describe("a key that an object has twice", () => {
  const cases: [text: string, key: string | null, at: number][] = [
    ['{"a":1,"a":2}', "a", 7],
    ['{"a":1,"b":{"c":1,"d":2,"c":3}}', "c", 24],
    ['[{"role":"user","content":"a","content":"b"}]', "content", 30],
    [String.raw`{"a":1,"\u0061":2}`, "a", 7],
    ['{"":1,"":2}', "", 6],
    ['{"__proto__":1,"__proto__":2}', "__proto__", 15],
    ['{"1":1,"1":2}', "1", 7],
    ['{"a":1,"b":{"a":2},"c":[{"a":3},{"a":4}]}', null, 0],
    ['{"a":"x: y","b":"\\"c\\": ","d\\":":"\\\\"}', null, 0],
    ['{"__proto__":1,"constructor":2,"toString":3}', null, 0],
    ["[]", null, 0],
    ["{}", null, 0],
    [" 5 ", null, 0],
  ];
  for (const [text, key, at] of cases) {
    test(text, () => {
      const expected = { at, reason: `an object has the key ${JSON.stringify(key)} twice` };
      expect(problemOf(text)).toEqual(key === null ? null : expected);
    });
  }

  test("a row with one is a bad row; an array of rows that is there twice is no file", async () => {
    const bad = '{"text":"a","text":"b"}';
    expect(await problems("x.jsonl", `{"text":"a"}\n${bad}`)).toEqual([
      null,
      ':2: row 2: an object has the key "text" twice (column 13)',
    ]);
    expect(await problems("x.json", `{"data":[{"text":"a"},\n${bad}]}`)).toEqual([
      null,
      ':2: row 2: an object has the key "text" twice',
    ]);
    await expect(problems("x.json", '{"data":[{"text":"a"}],\n"data":[{"text":"b"}]}')).rejects.toThrow(
      /x\.json:2: is not valid JSON: an object has the key "data" twice/,
    );
  });

  test("nesting of any depth is checked, without recursion", () => {
    const depth = 200_000;
    const deep = `${'{"a":['.repeat(depth)}"\\ud83d"${"]}".repeat(depth)}`;
    expect(problemOf(deep)?.reason).toContain("half of a surrogate pair");
    const twice = `${'{"a":['.repeat(depth)}{"b":1,"b":2}${"]}".repeat(depth)}`;
    expect(problemOf(twice)?.reason).toContain('the key "b" twice');
  });
});
