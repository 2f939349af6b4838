import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { renamed } from "../../src/data/columns.ts";
import { parseRow } from "../../src/data/formats.ts";
import { scanJson } from "../../src/data/json-scan.ts";
import { jsonBlocks } from "../../src/data/source/json.ts";
import { openSource, placeOf } from "../../src/data/source.ts";
import { InterruptedError, NeftuneError } from "../../src/errors.ts";
import { folderOf, randomIntegers } from "./tiny-tokenizer.ts";

const rules = { vocabSize: 100 };

interface Parsed {
  rows: unknown[];
  broken: Map<number, string>;
  /** `path:line: row n` of each row. */
  where: string[];
}

/** The rows of a file that comes in chunks of so many bytes. */
async function parse(path: string, content: string | Uint8Array, chunk = 1 << 20): Promise<Parsed> {
  const bytes = Buffer.from(content as string);
  async function* chunks() {
    for (let at = 0; at < bytes.length; at += chunk) yield bytes.subarray(at, at + chunk);
  }
  const parsed: Parsed = { rows: [], broken: new Map(), where: [] };
  for await (const block of jsonBlocks(path, chunks(), /\.(jsonl|ndjson)$/.test(path))) {
    expect(block.first).toBe(parsed.rows.length);
    for (const [i, row] of block.rows.entries()) {
      const problem = block.broken.get(i);
      if (problem !== undefined) parsed.broken.set(parsed.rows.length, problem);
      parsed.rows.push(row);
      parsed.where.push(`${path}${placeOf(block, i)}`);
    }
  }
  return parsed;
}

describe("rows of a file", () => {
  const rows = [{ text: "a" }, { text: "b\n" }];
  const cases: [string, string, string | Uint8Array, unknown[]][] = [
    ["an array", "x.json", JSON.stringify(rows), rows],
    ["an array in a file named JSON Lines", "x.jsonl", JSON.stringify(rows, null, 1), rows],
    ["an object holding one array", "x.json", JSON.stringify({ version: 1, data: rows }), rows],
    ["an object that is a row itself", "x.json", '{\n"messages": [] }', [{ messages: [] }]],
    ["JSON Lines", "x.jsonl", '{"text":"a"}\n{"text":"b\\n"}\n', rows],
    ["JSON Lines named .json, without a last line feed", "x.json", '{"text":"a"}\n{"text":"b\\n"}', rows],
    ["a byte order mark", "x.jsonl", '\ufeff{"text":"a"}\n{"text":"b\\n"}', rows],
    ["a byte order mark before an array", "x.json", `\ufeff ${JSON.stringify(rows)}`, rows],
    ["CRLF and blank lines", "x.jsonl", '\r\n{"text":"a"}\r\n  \r\n\r\n{"text":"b\\n"}\r\n\r\n', rows],
  ];
  for (const [name, path, text, expected] of cases) {
    test(name, async () => {
      for (const chunk of [1 << 20, 1, 2, 5]) {
        const source = await parse(path, text, chunk);
        expect(source.rows).toEqual(expected);
        expect(source.broken.size).toBe(0);
      }
    });
  }

  test("a row is named by file and line", async () => {
    const places = async (path: string, text: string) => {
      const { where } = await parse(path, text, 3);
      expect((await parse(path, text)).where).toEqual(where);
      return where;
    };
    expect((await places("a/x.json", '[\n {"text": 1},\n\n {"text":\n 2}\n]'))[1]).toBe("a/x.json:4: row 2");
    expect((await places("x.jsonl", '{"text":1}\n\n{"text":2}'))[1]).toBe("x.jsonl:3: row 2");
    expect((await places("x.json", '{"n": 1,\n"rows": [1,\n[2, 3],\n{"a": [4]}]}'))[2]).toBe(
      "x.json:4: row 3",
    );
    expect(await places("x.json", '[1\n,"a\\"]"\n,\n\n[{}]\n]')).toEqual([
      "x.json:1: row 1",
      "x.json:2: row 2",
      "x.json:5: row 3",
    ]);
  });

  test("a broken line does not take the others with it", async () => {
    const source = await parse("x.jsonl", '{"text":"a"}\n{"text":\n{"text":"b"}');
    expect(source.rows.length).toBe(3);
    expect(source.broken.get(1)).toMatch(/not valid JSON: the text ends.*column 9/);
    const bytes = Buffer.from([...Buffer.from('{"text":"a"}\n'), 0xff, 0xfe, 0x0a]);
    expect((await parse("x.jsonl", bytes)).broken.get(1)).toMatch(/not valid UTF-8/);
  });

  const refused: [string, string, string | Uint8Array, RegExp][] = [
    ["nothing", "x.json", "", /x\.json is empty/],
    ["white space", "x.json", "\ufeff \n\t", /is empty/],
    ["a number", "x.json", "\n\n12", /x\.json:3: expected a JSON array/],
    ["an array cut short", "x.json", '[\n{"text": "a"},\n', /x\.json:3 is not valid JSON: the text ends/],
    ["a comma too many", "x.json", '[{"a": 1,}]', /x\.json:1 is .*expected a key/],
    ["two arrays", "x.json", '{"a": [], "b": []}', /an object with 2 arrays \(keys: a, b\)/],
    ["no array", "x.json", "{}", /an object with 0 arrays/],
    ["UTF-16", "x.json", Buffer.from("\ufeff[]", "utf16le"), /is UTF-16; expected UTF-8/],
    [
      "broken UTF-8",
      "x.json",
      Buffer.from([0x5b, 0x0a, 0x22, 0xc3, 0x22, 0x5d]),
      /x\.json:2 is not valid UTF-8/,
    ],
  ];
  for (const [name, path, text, message] of refused) {
    test(`${name}: refused`, async () => {
      await expect(parse(path, text)).rejects.toThrow(message);
      await expect(parse(path, text, 1)).rejects.toThrow(message);
    });
  }

  test("files that are not read: missing, a folder, of other kinds", () => {
    const dir = folderOf({ "x.parquet": "", "x.json": "PK\x03\x04...", "y.jsonl": "BZh91AY" });
    expect(() => openSource(`${dir}/none.json`)).toThrow(/none\.json: no such file/);
    expect(() => openSource(dir)).toThrow(/is a folder/);
    expect(() => openSource("/dev/null")).toThrow(/is not a regular file/);
    expect(() => openSource(`${dir}/x.parquet`)).toThrow(/is no Parquet file: .* got an empty file/);
    expect(() => openSource(`${dir}/x.json`)).toThrow(/is a ZIP archive; unpack it/);
    expect(() => openSource(`${dir}/y.jsonl`)).toThrow(/is bzip2; unpack it/);
  });

  test("a Git LFS pointer in place of a file is called that, whatever the name", () => {
    const pointer = `version https://git-lfs.github.com/spec/v1\noid sha256:${"0".repeat(64)}\nsize 5\n`;
    const names = ["x.json", "x.jsonl", "x.csv", "x.tsv", "x.parquet", "x.jsonl.gz", "x.json.zst", "x"];
    const dir = folderOf({
      ...Object.fromEntries(names.map((name) => [name, pointer])),
      "v.csv": "version x\n1\n",
    });
    for (const name of names) {
      expect(() => openSource(`${dir}/${name}`)).toThrow(`${dir}/${name} is a Git LFS pointer`);
    }
    expect(openSource(`${dir}/v.csv`).format).toBe("csv");
  });
});

describe("formats", () => {
  test("each is recognized and checked", () => {
    const nothingAround = { system: null, tools: null };
    expect(parseRow({ instruction: "i", input: null, output: "o", text: "whole" }, rules)).toEqual({
      format: "alpaca",
      instruction: "i",
      input: "",
      output: "o",
      history: [],
      ...nothingAround,
    });
    expect(parseRow({ prompt: "p", completion: "c" }, rules)).toEqual({
      format: "prompt-completion",
      prompt: "p",
      completion: "c",
      ...nothingAround,
    });
    const messages = [
      { role: "system", content: "s" },
      { role: "user", content: "u" },
      { role: "assistant", content: "a" },
    ];
    const conversation = { format: "messages", messages: messages as never, asking: 2, tools: null } as const;
    expect(parseRow({ prompt: "also", messages }, rules)).toEqual(conversation);
    const conversations = [
      { from: "system", value: "s" },
      { from: "human", value: "u" },
      { from: "gpt", value: "a" },
    ];
    expect(parseRow({ conversations }, rules)).toEqual(conversation);
    expect(parseRow({ text: "t" }, rules)).toEqual({ format: "text", text: "t" });
    expect(parseRow({ input_ids: [0, 99], labels: [-100, 5] }, rules)).toEqual({
      format: "tokens",
      inputIds: Int32Array.of(0, 99),
      labels: Int32Array.of(-100, 5),
    });
  });

  test("rows for generation may leave their target out", () => {
    const forGeneration = { vocabSize: 100, forGeneration: true };
    expect(parseRow({ instruction: "i" }, forGeneration)).toMatchObject({ output: null });
    expect(parseRow({ prompt: "p" }, forGeneration)).toMatchObject({ completion: null });
    expect(() => parseRow({ instruction: "i" }, rules)).toThrow(/field "output" is missing/);
  });

  const bad: [unknown, RegExp][] = [
    [null, /expected an object, got null/],
    [[1], /expected an object, got a list/],
    ["row", /expected an object, got the string "row"/],
    [{}, /no known format.*got no fields/],
    [{ question: 1, answer: 2 }, /no known format.*got question, answer/],
    [{ instruction: "i", output: 5 }, /field "output": expected a string, got the number 5/],
    [{ instruction: ["i"], output: "o" }, /field "instruction": expected a string, got a list/],
    [{ instruction: "i", input: {}, output: "o" }, /field "input": expected a string, got an object/],
    [{ prompt: "p" }, /field "completion" is missing/],
    [{ text: true }, /field "text": expected a string, got the boolean true/],
    [{ messages: "hello" }, /field "messages": expected a list of messages/],
    [{ messages: [] }, /the conversation is empty/],
    [{ conversations: [] }, /the conversation is empty/],
    [{ messages: [7] }, /messages\[0\]: expected an object/],
    [
      { messages: [{ role: "toString", content: "" }] },
      /messages\[0\]\.role: expected system, user, assistant, tool, got "toString"/,
    ],
    [{ messages: [{ content: "" }] }, /role: .* got nothing/],
    [{ messages: [{ role: "user", content: null }] }, /messages\[0\]\.content: expected a string, got null/],
    [{ conversations: [{ from: "bot", value: "x" }] }, /conversations\[0\]\.from: .*got "bot"/],
    [{ input_ids: [] }, /the list is empty/],
    [{ input_ids: "1" }, /expected a list of integers/],
    [{ input_ids: [1, 100] }, /input_ids\[1\]: expected an integer from 0 to 99, got 100/],
    [{ input_ids: [-1] }, /input_ids\[0\]/],
    [{ input_ids: [1.5] }, /got 1\.5/],
    [{ input_ids: [1, 2], labels: [1] }, /expected as many as input_ids, 2, got 1/],
    [{ input_ids: [1], labels: [-1] }, /labels\[0\]: expected an integer from 0 to 99 or -100, got -1/],
    [{ input_ids: [1], labels: [100] }, /labels\[0\]/],
  ];
  test.each(bad)("%j is refused", (row, message) => {
    expect(() => parseRow(row, rules)).toThrow(message);
  });
});

test("the JSON scan agrees with JSON.parse on 5,000 mutated texts", () => {
  const pick = randomIntegers(11);
  const original = JSON.stringify(
    { data: [{ text: 'a "b" \\ \n é', n: [-1.5e-3, 0, true, false, null, {}] }, [], "x\u0001"], k: "👋" },
    null,
    1,
  );
  const alphabet = '{}[]",:\\0123eE+-.tfnu \n\tx';
  let invalid = 0;
  for (let round = 0; round < 5000; round++) {
    let text = original;
    for (let edits = 1 + pick(2); edits > 0; edits--) {
      const at = pick(text.length);
      const insert = pick(3) === 0 ? "" : alphabet[pick(alphabet.length)]!;
      text = text.slice(0, at) + insert + text.slice(at + pick(3));
    }
    let parses = true;
    try {
      JSON.parse(text);
    } catch {
      parses = false;
      invalid++;
    }
    expect({ text, parses: scanJson(text).error === null }).toEqual({ text, parses });
  }
  expect(invalid).toBeGreaterThan(1000);
});

test("rows nested a million deep, names of the prototype, and long rows", async () => {
  const deep = "[".repeat(1_000_000);
  await expect(parse("x.json", `[${deep}`)).rejects.toThrow(/x\.json:1 is not valid JSON/);
  expect((await parse("x.jsonl", `{"text":"a"}\n{"text":${deep}}`)).broken.get(1)).toMatch(/not valid JSON/);
  // Of a long line the levels are counted before it is parsed, as each would take memory.
  const deeper = "[".repeat(2_000_000);
  expect((await parse("x.jsonl", `{"text":"a"}\n${deeper}`)).broken.get(1)).toMatch(
    /nested deeper than 256 levels/,
  );
  const { rows } = await parse("x.json", '[{"__proto__":{"text":"a"},"constructor":1}]');
  expect(() => parseRow(rows[0], rules)).toThrow(/has no known format/);
  expect(() => parseRow(renamed(rows[0], { text: "constructor" }), rules)).toThrow(
    /expected a string, got the number/,
  );
  const long = JSON.stringify([{ text: "x".repeat(3_000_000) }, { text: "y" }]);
  expect((await parse("x.json", long, 10_000)).rows).toEqual(JSON.parse(long) as unknown[]);
  const oneLine = `{"data":${long}}`;
  expect((await parse("x.json", oneLine, 10_000)).rows).toEqual(JSON.parse(long) as unknown[]);
});

test("--columns: a conversation with roles under ShareGPT's name is messages", () => {
  const turns = [
    { role: "user", content: "q" },
    { role: "assistant", content: "a" },
  ];
  const row = renamed({ conversations: turns, id: 1 }, { messages: "conversations" });
  expect(parseRow(row, rules)).toMatchObject({ format: "messages", messages: turns } as never);
});

test("4,000 mutated files load or are refused with a message, the same in chunks of any size", async () => {
  const pick = randomIntegers(5);
  const originals = [
    '[\n{"instruction":"i","input":"","output":"o"},\n{"text":"é"},{"input_ids":[1,2],"labels":[-100,2]}]',
    '{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}\r\n{"prompt":"p","completion":"c"}\n',
    '{"data":[{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}]}',
  ].map((text) => Buffer.from(text));
  let rows = 0;
  let refusals = 0;
  for (let round = 0; round < 4000; round++) {
    const bytes = Buffer.from(originals[round % 3]!);
    for (let edits = 1 + pick(6); edits > 0; edits--) bytes[pick(bytes.length)] = pick(256);
    const cut = pick(4) === 0 ? bytes.subarray(0, pick(bytes.length)) : bytes;
    const path = round % 2 === 0 ? "x.json" : "x.jsonl";
    const outcome = (chunk: number) =>
      parse(path, cut, chunk).then(
        (source) => source,
        (error: unknown) => {
          expect(error).toBeInstanceOf(NeftuneError);
          return (error as Error).message;
        },
      );
    const source = await outcome(1 << 20);
    expect(await outcome(1 + pick(9))).toEqual(source);
    if (typeof source === "string") {
      expect(source.length).toBeGreaterThan(10);
      refusals++;
      continue;
    }
    for (const [i, row] of source.rows.entries()) {
      expect(source.where[i]).toMatch(/^x\.jsonl?:\d+: row \d+$/);
      if (source.broken.has(i)) continue;
      rows++;
      try {
        parseRow(row, rules);
      } catch (error) {
        expect(error).toBeInstanceOf(NeftuneError);
        refusals++;
      }
    }
  }
  expect(rows).toBeGreaterThan(100);
  expect(refusals).toBeGreaterThan(1000);
});

test("a signal ends the reading where no row ever comes", async () => {
  const path = join(folderOf({ "x.jsonl.gz": "" }), "x.jsonl.gz");
  await Bun.write(path, Bun.gzipSync(Buffer.alloc(1 << 26, "\n")));
  const controller = new AbortController();
  const first = openSource(path, { signal: controller.signal }).blocks().next();
  setTimeout(() => controller.abort(), 1);
  await expect(first).rejects.toThrow(InterruptedError);
});

test("a zstd file of a million empty blocks is checked at once", async () => {
  const path = join(folderOf({ "x.jsonl.zst": "" }), "x.jsonl.zst");
  // magic, a window of 1 KiB, raw blocks of no bytes, the last one cut off
  const head = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0, 0]);
  await Bun.write(path, Buffer.concat([head, Buffer.alloc(3_000_000), Buffer.from([1, 0])]));
  const began = performance.now();
  await expect(openSource(path).blocks().next()).rejects.toThrow(/zstd data is cut short/);
  expect(performance.now() - began).toBeLessThan(2000);
});
