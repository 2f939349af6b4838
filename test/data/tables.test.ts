// CSV and TSV, and text files packed with gzip or zstd.

import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { constants, createZstdCompress, gzipSync, zstdCompressSync } from "node:zlib";
import { openSource, rowsOf } from "../../src/data/source.ts";
import { FormatError } from "../../src/errors.ts";
import { folderOf, randomIntegers } from "./tiny-tokenizer.ts";

interface Read {
  rows: unknown[];
  /** Problems of rows, by `:line: row n`. */
  problems: string[];
  places: string[];
}

async function read(name: string, content: string | Uint8Array): Promise<Read> {
  const path = join(folderOf({}), name);
  await Bun.write(path, content);
  const result: Read = { rows: [], problems: [], places: [] };
  for await (const { row, problem, where } of rowsOf(openSource(path))) {
    result.rows.push(row);
    result.places.push(where.slice(path.length));
    if (problem !== null) result.problems.push(`${where.slice(path.length)}: ${problem}`);
  }
  return result;
}

describe("CSV", () => {
  test("quotes, commas, line feeds and blank lines, with either line end and a byte order mark", async () => {
    const text = '\ufeffinstruction,input, output\nq1,,a1\n\n"q\n2","x, ""y""",世界\r\nq3,b,c';
    const { rows, places } = await read("x.csv", text);
    expect(rows).toEqual([
      { instruction: "q1", input: "", output: "a1" },
      { instruction: "q\n2", input: 'x, "y"', output: "世界" },
      { instruction: "q3", input: "b", output: "c" },
    ]);
    expect(places).toEqual([":2: row 1", ":4: row 2", ":6: row 3"]);
  });

  test("tabs in .tsv, where quotes inside a field are text", async () => {
    const { rows } = await read("x.tsv", 'prompt\tcompletion\na, b\tsays "c"\n"d\te"\tf\n');
    expect(rows).toEqual([
      { prompt: "a, b", completion: 'says "c"' },
      { prompt: "d\te", completion: "f" },
    ]);
  });

  test("a row with other fields than the header is that row's problem", async () => {
    const { rows, problems } = await read("x.csv", "a,b\n1,2,3\n4\n5,6\n");
    expect(rows[2]).toEqual({ a: "5", b: "6" });
    expect(problems).toEqual([
      ":2: row 1: expected 2 fields as in the header, got 3",
      ":3: row 2: expected 2 fields as in the header, got 1",
    ]);
  });

  const refused: [string, string | Uint8Array, RegExp][] = [
    ["nothing", "", /x\.csv is empty/],
    ["a quote that never ends", 'a,b\n1,"2\n3,4\n', /is not valid CSV: a field that begins with " has no/],
    ["text behind a quote", 'a,b\n1,2\n1,"2"x\n', /x\.csv:3 is not valid CSV: a " ends a field, and more/],
    ["a quote amid a field", 'a,b\n1,2 "x"\n', /x\.csv:2 is not valid CSV: a " stands inside a field/],
    ["semicolons", "a;b\n1;2\n", /expected columns separated by commas.* got one named "a;b"/],
    ["a name twice", "a,b,a\n1,2,3\n", /x\.csv:1: two columns have the name "a"/],
    ["Latin-1", Buffer.from("a,b\n1,caf\xe9\n", "latin1"), /is not valid UTF-8.*save it as UTF-8/],
    ["UTF-16", Buffer.from("\ufeffa,b\n", "utf16le"), /is UTF-16/],
  ];
  for (const [name, content, message] of refused) {
    test(`${name}: refused`, async () => {
      await expect(read("x.csv", content)).rejects.toThrow(message);
    });
  }

  test("1,000 mutated files are read or refused with a message", async () => {
    const pick = randomIntegers(9);
    const original = Buffer.from('text,n\n"a, ""b""",1\r\n\nc,"2\n3"\n世界,4\n');
    let [rows, refused] = [0, 0];
    for (let round = 0; round < 1000; round++) {
      const bytes = Buffer.from(original);
      for (let edits = 1 + pick(4); edits > 0; edits--) {
        bytes[pick(bytes.length)] = pick(3) === 0 ? pick(256) : '",\r\n\t '.charCodeAt(pick(6));
      }
      try {
        const result = await read(pick(4) === 0 ? "x.tsv" : "x.csv", bytes);
        rows += result.rows.length;
        for (const problem of result.problems) expect(problem).toMatch(/^:\d+: row \d+: expected \d+ field/);
      } catch (error) {
        expect(error).toBeInstanceOf(FormatError);
        refused++;
      }
    }
    expect(rows).toBeGreaterThan(500);
    expect(refused).toBeGreaterThan(200);
  }, 30_000);

  test("a header alone has no rows; thousands of rows come in order over many blocks", async () => {
    expect((await read("x.csv", "text\n")).rows).toEqual([]);
    const lines = Array.from({ length: 5000 }, (_, i) => `"row\n${i}",${i}`);
    const { rows, places } = await read("x.csv", `text,n\n${lines.join("\n")}\n`);
    expect(rows).toEqual(lines.map((_, i) => ({ text: `row\n${i}`, n: String(i) })));
    expect(places.at(-1)).toBe(":10000: row 5000");
  });
});

describe("gzip and zstd", () => {
  const rows = Array.from({ length: 3000 }, (_, i) => ({ text: `row ${Math.sin(i)}` }));
  const lines = rows.map((row) => `${JSON.stringify(row)}\n`).join("");
  const pack = {
    gz: (text: string) => gzipSync(text),
    // with a checksum, as the zstd program writes it
    zst: (text: string) =>
      zstdCompressSync(Buffer.from(text), { params: { [constants.ZSTD_c_checksumFlag]: 1 } }),
  };

  for (const kind of ["gz", "zst"] as const) {
    test(`${kind}: JSON Lines, a JSON array and CSV, in one piece or several`, async () => {
      expect((await read(`x.jsonl.${kind}`, pack[kind](lines))).rows).toEqual(rows);
      expect((await read(`x.json.${kind}`, pack[kind](JSON.stringify(rows)))).rows).toEqual(rows);
      expect((await read(`x.csv.${kind}`, pack[kind]("text\na\n"))).rows).toEqual([{ text: "a" }]);
      const pieces = Buffer.concat([pack[kind](lines), pack[kind](lines)]);
      expect((await read(`x.jsonl.${kind}`, pieces)).rows).toEqual([...rows, ...rows]);
      await expect(read(`x.jsonl.${kind}`, pack[kind](""))).rejects.toThrow(/is empty/);
    });

    test(`${kind}: cut short anywhere, it is refused: no row is lost unheard`, async () => {
      const whole = Buffer.from(pack[kind](lines));
      const lengths = [
        4,
        5,
        6,
        7,
        9,
        12,
        20,
        whole.length >> 1,
        ...[...Array(12).keys()].map((n) => whole.length - 1 - n),
      ];
      for (const length of lengths) {
        await expect(read(`x.jsonl.${kind}`, whole.subarray(0, length))).rejects.toThrow(/cut short/);
      }
      const behind = Buffer.concat([whole, Buffer.from("more")]);
      await expect(read(`x.jsonl.${kind}`, behind)).rejects.toThrow(/damaged|cut short/);
    });

    test(`${kind}: 300 damaged files are refused, or are what they were`, async () => {
      const pick = randomIntegers(3);
      const whole = Buffer.from(pack[kind](lines));
      let refused = 0;
      for (let round = 0; round < 300; round++) {
        const bytes = Buffer.from(whole);
        bytes[4 + pick(bytes.length - 4)]! ^= 1 << pick(8);
        try {
          const result = await read(`x.jsonl.${kind}`, bytes);
          // such as a gzip header's time
          expect(result.rows).toEqual(rows);
        } catch (error) {
          expect(error).toBeInstanceOf(FormatError);
          refused++;
        }
      }
      expect(refused).toBeGreaterThan(100);
    }, 30_000);
  }

  test("zstd with the long windows of zstd --long", async () => {
    const params = { [constants.ZSTD_c_windowLog]: 28, [constants.ZSTD_c_contentSizeFlag]: 0 };
    const packer = createZstdCompress({ params });
    const packed = buffer(packer);
    packer.write(lines.slice(0, 1000));
    packer.end(lines.slice(1000));
    const bytes = await packed;
    // the exponent of the frame's window, RFC 8878 section 3.1.1.1.2
    expect(10 + (bytes[5]! >> 3)).toBe(28);
    expect((await read("x.jsonl.zst", bytes)).rows).toEqual(rows);
  });

  test("a name that promises packing and plain bytes: the bytes count", async () => {
    expect((await read("x.jsonl.gz", lines)).rows).toEqual(rows);
    expect((await read("x.jsonl", pack.gz(lines))).rows).toEqual(rows);
  });
});
