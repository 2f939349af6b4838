// Rows that JSON.parse takes and training must not: half a surrogate pair, a key that an object has twice, and
// nesting without measure.

import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { listField, parsedText } from "../../src/data/fields.ts";
import { loadDataset } from "../../src/data/load-dataset.ts";
import { halfSurrogate, jsonProblem, MOST_LEVELS } from "../../src/data/source/checked-json.ts";
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
      /x\.json:2 is not valid JSON: an object has the key "data" twice/,
    );
  });

  test("is found at every depth that a row may have", () => {
    const depth = MOST_LEVELS / 2 - 1;
    const deep = `${'{"a":['.repeat(depth)}"\\ud83d"${"]}".repeat(depth)}`;
    expect(problemOf(deep)?.reason).toContain("half of a surrogate pair");
    const twice = `${'{"a":['.repeat(depth)}{"b":1,"b":2}${"]}".repeat(depth)}`;
    expect(problemOf(twice)?.reason).toContain('the key "b" twice');
  });
});

describe("nesting", () => {
  const reason = `is nested deeper than ${MOST_LEVELS} levels`;
  /** A row of so many levels. */
  const lists = (levels: number) =>
    `{"text":"a [","extra":${"[".repeat(levels - 1)}${"]".repeat(levels - 1)}}`;
  const objects = (levels: number) => `${'{"a":'.repeat(levels)}1${"}".repeat(levels)}`;

  test("past the limit is a problem of the row, where it opens one too many", () => {
    for (const of of [lists, objects]) {
      expect(problemOf(of(MOST_LEVELS))).toBeNull();
      expect(problemOf(of(MOST_LEVELS + 1))?.reason).toBe(reason);
      expect(problemOf(of(100_000))?.reason).toBe(reason);
    }
    expect(problemOf(objects(MOST_LEVELS + 1))?.at).toBe('{"a":'.length * MOST_LEVELS);
    expect(problemOf(`{"text":"${"[{".repeat(1000)}","b":[${"[],".repeat(1000)}{}]}`)).toBeNull();
  });

  test("makes bad rows with their lines, in every form of JSON", async () => {
    const [good, most, bad] = ['{"text":"a"}', lists(MOST_LEVELS), lists(MOST_LEVELS + 1)];
    const column = '{"text":"a [","extra":'.length + MOST_LEVELS;
    expect(await problems("x.jsonl", `${most}\n${bad}\n${good}`)).toEqual([
      null,
      `:2: row 2: ${reason} (column ${column})`,
      null,
    ]);
    expect(await problems("x.json", `[${most},\n${bad},${good}]`)).toEqual([
      null,
      `:2: row 2: ${reason}`,
      null,
    ]);
    expect(await problems("x.json", `{"data":[${most},\n${bad},${good}]}`)).toEqual([
      null,
      `:2: row 2: ${reason}`,
      null,
    ]);
  });

  test("in a column that holds JSON text is the row's problem too", () => {
    const deep = `${"[".repeat(100_000)}${"]".repeat(100_000)}`;
    expect(() => listField({ tools: deep }, "tools", "functions")).toThrow(reason);
    expect(() => parsedText(deep)).toThrow(reason);
    expect(parsedText("[".repeat(100_000))).toBe("[".repeat(100_000));
  });
});
