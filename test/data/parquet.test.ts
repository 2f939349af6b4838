// Parquet files made by pyarrow (test/golden/parquet/make.py), whole and damaged.

import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parquetMetadata } from "hyparquet";
import { type ParquetLimits, parquetBlocks } from "../../src/data/source/parquet-thread.ts";
import { readThrift } from "../../src/data/source/thrift.ts";
import { openSource, rowsOf } from "../../src/data/source.ts";
import type { NeftuneError } from "../../src/errors.ts";
import { folderOf, randomIntegers } from "./tiny-tokenizer.ts";

const FOLDER = join(import.meta.dir, "../golden/parquet");
const golden = JSON.parse(readFileSync(join(FOLDER, "rows.json"), "utf8")) as Record<
  string,
  Record<string, unknown>[]
>;
const files = readdirSync(FOLDER).filter((name) => name.endsWith(".parquet"));

async function read(path: string, columns: string[] = []): Promise<unknown[]> {
  const rows: unknown[] = [];
  for await (const { row, problem, where } of rowsOf(openSource(path, { columns }))) {
    expect(problem).toBeNull();
    expect(where).toBe(`${path}: row ${rows.length + 1}`);
    rows.push(row);
  }
  return rows;
}

/** The columns of which a row is made; the files have more. */
function useful(rows: Record<string, unknown>[]): unknown[] {
  return rows.map((row) => {
    const { id: _id, meta: _meta, score: _score, ...rest } = row;
    return rest;
  });
}

test("every codec, page version and nesting gives pyarrow's rows", async () => {
  expect(files.length).toBe(11);
  for (const name of files) {
    if (name === "bytes.parquet") continue;
    const expected = golden[name.replace(/[-.].*/, "")]!;
    expect({ name, rows: await read(join(FOLDER, name)) }).toEqual({ name, rows: useful(expected) });
  }
});

test("columns that --columns names are read too; where none is known, all are", async () => {
  const path = join(FOLDER, "messages.parquet");
  const rows = (await read(path, ["meta"])) as Record<string, unknown>[];
  expect(rows.map(({ meta }) => meta)).toEqual(golden.messages!.map(({ meta }) => meta));
  expect(rows[0]).not.toHaveProperty("id");
});

test("a string that is not UTF-8 is refused, not mended", async () => {
  await expect(read(join(FOLDER, "bytes.parquet"))).rejects.toThrow(
    /bytes\.parquet is damaged.*row group 1 of 1.*utf-8/,
  );
});

test("a file cut short anywhere is refused", async () => {
  const whole = readFileSync(join(FOLDER, "messages.parquet"));
  for (const length of [4, 8, 11, 12, 100, whole.length - 100, whole.length - 4, whole.length - 1]) {
    const path = join(folderOf({ "cut.parquet": "" }), "cut.parquet");
    await Bun.write(path, whole.subarray(0, length));
    await expect(read(path)).rejects.toThrow(/cut\.parquet is no whole Parquet file: .*cut short/);
  }
});

test("a byte that makes a run of levels 384 million long: ended by time or memory, and said", async () => {
  const bytes = readFileSync(join(FOLDER, "tokens.parquet"));
  bytes[234] = 0x84;
  const path = join(folderOf({ "run.parquet": "" }), "run.parquet");
  await Bun.write(path, bytes);
  const blocks = (limits: ParquetLimits) =>
    Array.fromAsync(parquetBlocks(path, ["input_ids", "labels"], limits));
  await expect(blocks({ seconds: 1, bytes: 2 ** 40 })).rejects.toThrow(/is damaged, or .*took more than 1 s/);
  await expect(blocks({ seconds: 60, bytes: 2 ** 28 })).rejects.toThrow(/took more than 0\.3 GiB of memory/);
}, 30_000);

test("page headers that cannot be meant are refused at once, not by the clock", async () => {
  const name = "alpaca-zstd.parquet";
  const whole = readFileSync(join(FOLDER, name));
  const metadata = parquetMetadata(new Uint8Array(whole).buffer);
  const begins = metadata.row_groups[0]!.columns.map(({ meta_data: column }) =>
    Number(column!.dictionary_page_offset || column!.data_page_offset),
  );
  const damage = async (change: (bytes: Buffer) => void): Promise<string> => {
    const bytes = Buffer.from(whole);
    change(bytes);
    const path = join(folderOf({ "page.parquet": "" }), "page.parquet");
    await Bun.write(path, bytes);
    const began = performance.now();
    const message = await read(path).then(
      () => "read",
      (error: NeftuneError) => error.message,
    );
    expect(performance.now() - began).toBeLessThan(5000);
    return message;
  };
  for (const begin of begins.slice(1, 4)) {
    expect(await damage((bytes) => bytes.fill(0, begin, begin + 40))).toMatch(
      /row group 1 of 1: column \w+: the page at byte \d+ is of no known type/,
    );
    // varints that never end, and a size before the first byte
    expect(await damage((bytes) => bytes.fill(0xff, begin, begin + 40))).toMatch(/has no whole header/);
    expect(await damage((bytes) => bytes.fill(1, begin + 5, begin + 6))).toMatch(/is damaged/);
  }
  // levels of a billion bytes in a header of version 2
  expect(await damage((bytes) => bytes.fill(0xff, 757, 761))).toMatch(/is damaged/);
  const footer = whole.length - 8 - whole.readUInt32LE(whole.length - 8);
  expect(await damage((bytes) => bytes.fill(0x86, footer, footer + 200))).toMatch(/its footer: /);
}, 60_000);

test("Thrift: integers, what is passed over, and what a few bytes claim", () => {
  const fields = (...bytes: number[]) => Object.fromEntries(readThrift(Uint8Array.from(bytes)).fields);
  // 1: i32 -3; 3: true; 4: binary of 2; 5: list of 2 i32; 6: {1: i64 300}; 7: double
  const all = [
    0x15,
    5,
    0x21,
    0x18,
    2,
    9,
    9,
    0x19,
    0x25,
    2,
    4,
    0x1c,
    0x16,
    0xd8,
    0x04,
    0,
    0x17,
    ...Array(8).fill(1),
    0,
  ];
  expect(fields(...all)).toEqual({
    1: -3,
    3: 1,
    4: null,
    5: null,
    6: { fields: new Map([[1, 300]]) },
    7: null,
  });
  expect(fields(0x05, 0x14, 0x02, 0)).toEqual({ 10: 1 });
  for (let length = 0; length < all.length; length++) {
    expect(() => fields(...all.slice(0, length))).toThrow();
  }
  expect(() => fields(0x19, 0xf5, 0xff, 0xff, 0xff, 0x7f, 0)).toThrow(/a list of \d+ ends past/);
  expect(() => fields(0x16, ...Array(12).fill(0x80))).toThrow(/longer than 10 bytes/);
  expect(() => fields(...Array(100).fill(0x1c))).toThrow(/too deep/);
  expect(() => fields(0x1d, 0)).toThrow(/type 13/);
});

test("a footer without its schema is refused without the library's own words", async () => {
  const bytes = readFileSync(join(FOLDER, "tokens.parquet"));
  const footer = bytes.length - 8 - bytes.readUInt32LE(bytes.length - 8);
  bytes[footer] = 0; // the end of the footer's fields
  const path = join(folderOf({ "schema.parquet": "" }), "schema.parquet");
  await Bun.write(path, bytes);
  await expect(read(path)).rejects.toThrow(
    /schema\.parquet is damaged.* its footer: a value is missing or not of the type expected there$/,
  );
});

test("150 damaged files are read or refused, and never crash or hang", async () => {
  const pick = randomIntegers(11);
  const originals = files.map((name) => readFileSync(join(FOLDER, name)));
  const path = join(folderOf({ "x.parquet": "" }), "x.parquet");
  let refused = 0;
  for (let round = 0; round < 150; round++) {
    const bytes = Buffer.from(originals[round % originals.length]!);
    for (let edits = 1 + pick(4); edits > 0; edits--) bytes[4 + pick(bytes.length - 8)] = pick(256);
    await Bun.write(path, bytes);
    try {
      const blocks = parquetBlocks(path, ["text", "messages", "input_ids"], { seconds: 1, bytes: 2 ** 29 });
      for await (const { rows } of blocks) JSON.stringify(rows);
    } catch (error) {
      expect((error as NeftuneError).code).toBe("format");
      expect((error as Error).message).toMatch(/x\.parquet is (damaged|no whole)/);
      expect((error as Error).message).not.toMatch(/(undefined|null) is not|evaluating|is not a function/);
      refused++;
    }
  }
  expect(refused).toBeGreaterThan(40);
}, 120_000);
