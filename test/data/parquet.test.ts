// Parquet files made by pyarrow (test/golden/parquet/make.py), whole and damaged.

import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type ParquetLimits, parquetBlocks } from "../../src/data/source/parquet-thread.ts";
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
    /bytes\.parquet: is damaged.*row group 1 of 1.*utf-8/,
  );
});

test("a file cut short anywhere is refused", async () => {
  const whole = readFileSync(join(FOLDER, "messages.parquet"));
  for (const length of [4, 8, 11, 12, 100, whole.length - 100, whole.length - 4, whole.length - 1]) {
    const path = join(folderOf({ "cut.parquet": "" }), "cut.parquet");
    await Bun.write(path, whole.subarray(0, length));
    await expect(read(path)).rejects.toThrow(/cut\.parquet: is no whole Parquet file: .*cut short/);
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

test("a footer without its schema is refused without the library's own words", async () => {
  const bytes = readFileSync(join(FOLDER, "tokens.parquet"));
  const footer = bytes.length - 8 - bytes.readUInt32LE(bytes.length - 8);
  bytes[footer] = 0; // the end of the footer's fields
  const path = join(folderOf({ "schema.parquet": "" }), "schema.parquet");
  await Bun.write(path, bytes);
  await expect(read(path)).rejects.toThrow(
    /schema\.parquet: is damaged.* its footer: a value is missing or not of the type expected there$/,
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
      expect((error as Error).message).toMatch(/x\.parquet: is (damaged|no whole)/);
      expect((error as Error).message).not.toMatch(/(undefined|null) is not|evaluating|is not a function/);
      refused++;
    }
  }
  expect(refused).toBeGreaterThan(40);
}, 120_000);
