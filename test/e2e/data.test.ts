// Data as users have it: tables, packed files, folders with splits, mixtures; and what becomes of the outputs.

import { afterAll, beforeAll, expect, test } from "bun:test";
import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { lastingMetrics, makeModel, Place } from "./support.ts";

const PARQUET = join(import.meta.dir, "../golden/parquet");
const place = new Place();
const model = ["--model", "model", "--threads", "1"];
const settings = [...model, "--dtype", "f32", "--batch-size", "8", "--max-length", "128", "--quiet"];

interface Row {
  instruction: string;
  input: string;
  output: string;
}

beforeAll(async () => {
  await makeModel(place);
  const rows = JSON.parse(place.read("train.json")) as Row[];
  const lines = rows.map((row) => JSON.stringify(row)).join("\n");
  const quoted = (text: string) => `"${text.replaceAll('"', '""')}"`;
  writeFileSync(place.path("train.jsonl.gz"), gzipSync(lines));
  writeFileSync(place.path("train.jsonl.zst"), zstdCompressSync(Buffer.from(lines)));
  place.write(
    "qa.csv",
    `question,context,answer\r\n${rows.map((row) => [row.instruction, row.input, row.output].map(quoted).join(",")).join("\r\n")}`,
  );
  mkdirSync(place.path("hub", "data"), { recursive: true });
  copyFileSync(join(PARQUET, "alpaca-snappy.parquet"), place.path("hub/data/train-00000-of-00002.parquet"));
  copyFileSync(join(PARQUET, "alpaca-zstd.parquet"), place.path("hub/data/train-00001-of-00002.parquet"));
  copyFileSync(join(PARQUET, "messages.parquet"), place.path("hub/data/test-00000-of-00001.parquet"));
}, 60_000);
afterAll(() => place.close());

test("the same rows train to the same numbers from JSON, CSV with other names, gzip and zstd", async () => {
  const train = async (output: string, ...data: string[]) => {
    await place.must(...settings, "--max-steps", "3", "--output", output, "--dataset", ...data);
    return lastingMetrics(place, output);
  };
  const expected = await train("runs/json", "train.json");
  expect(expected.length).toBe(3);
  const columns = ["--columns", "instruction=question,input=context,output=answer"];
  expect(await train("runs/csv", "qa.csv", ...columns)).toEqual(expected);
  expect(await train("runs/gzip", "train.jsonl.gz")).toEqual(expected);
  expect(await train("runs/zstd", "train.jsonl.zst")).toEqual(expected);
}, 60_000);

test("a mixture of a folder's split and a file, each with its weight, is recorded and resumes", async () => {
  const args = [
    ...settings.filter((arg) => arg !== "--quiet"),
    ...["--dataset", "hub:0.5", "--dataset", "train.json:2", "--samples", "40"],
    ...["--eval-dataset", "hub", "--output", "runs/mix", "--save-steps", "1"],
  ];
  const { stderr } = await place.must(...args, "--max-steps", "2");
  // 25 rows in each of two shards, 40 of them read, half drawn; 40 rows twice
  expect(stderr).toMatch(/data: 100 samples, .*duplicates?/);
  expect(stderr).toMatch(/evaluation: 7 samples/);
  const config = JSON.parse(place.read("runs/mix/config.json")) as {
    dataset: string[];
    data: { sets: { files: string[]; weight: number; rows: number }[]; samples: number; duplicates: number };
    eval_data: { sets: { files: string[] }[] };
  };
  expect(config.dataset).toEqual(["hub:0.5", "train.json:2"]);
  expect(config.data).toMatchObject({
    samples: 100,
    sets: [
      {
        files: ["hub/data/train-00000-of-00002.parquet", "hub/data/train-00001-of-00002.parquet"],
        weight: 0.5,
        rows: 40,
      },
      { files: ["train.json"], weight: 2, rows: 40 },
    ],
  });
  expect(config.eval_data.sets[0]!.files).toEqual(["hub/data/test-00000-of-00001.parquet"]);
  await place.must(...args, "--max-steps", "3", "--lr-scheduler-type", "cosine", "--resume").then(
    () => expect.unreachable("another number of steps is another cosine"),
    (error: Error) => expect(error.message).toContain("steps in all"),
  );
  const other = args.map((arg) => (arg === "hub:0.5" ? "hub:0.6" : arg));
  const refused = await place.run(...other, "--max-steps", "2", "--resume");
  expect(refused.status).toBe(2);
  expect(refused.stderr).toContain("the data set's samples was 100, is now 104");
}, 60_000);

test("generate and preview read them too, and analyze compares the outputs with the training data", async () => {
  const hub = ["--dataset", "hub", "--split", "test"];
  const preview = await place.must("preview", "--model", "model", ...hub, "--json", "--limit", "2");
  expect(JSON.parse(preview.stdout)).toHaveLength(2);
  const asked = ["--max-new-tokens", "4", "--samples", "5", "--quiet", "--dataset", "train.jsonl.zst"];
  await place.must("generate", ...model, ...asked, "--output", "rows.jsonl");
  await place.must("generate", ...model, ...asked, "--output", "eval.json", "--format", "alpaca-eval");
  const { stdout } = await place.must(
    "analyze",
    "rows.jsonl",
    "eval.json",
    "--train",
    "qa.csv",
    "--json",
    "--columns",
    "instruction=question,input=context,output=answer",
  );
  const { files } = JSON.parse(stdout) as { files: { outputs: number; compared: number; rouge_l: number }[] };
  expect(files.map(({ outputs, compared }) => [outputs, compared])).toEqual([
    [5, 5],
    [5, 5],
  ]);
  expect(files[0]!.rouge_l).toBe(files[1]!.rouge_l);
}, 60_000);

test("wrong names, splits and columns are told before anything is made", async () => {
  const cases: [string[], number, RegExp][] = [
    [["--dataset", "hub", "--split", "dev"], 2, /has no split dev; --split test, --split train are there/],
    [["--dataset", "train.json", "--split", "test"], 2, /train\.json is one file; --split chooses/],
    [["--dataset", "train.json:0"], 2, /expected a weight above 0/],
    [["--dataset", "train.json:0.001"], 1, /a weight of 0\.001 leaves none of 48 samples/],
    [["--dataset", "qa.csv", "--columns", "instruction"], 2, /expected FIELD=COLUMN/],
    [
      ["--dataset", "qa.csv", "--columns", "instructon=question"],
      2,
      /no format has a field instructon.*instruction/,
    ],
    [["--dataset", "qa.csv"], 1, /qa\.csv:2: row 1 has no known format; .*got question, context, answer/],
    [
      ["--dataset", "qa.csv", "--columns", "instruction=title"],
      1,
      /row 1: --columns instruction=title: the row has no title/,
    ],
  ];
  for (const [args, status, message] of cases) {
    const { status: got, stderr } = await place.run(...settings, ...args, "--output", "runs/none");
    expect({ args, got, stderr }).toEqual({
      args,
      got: status,
      stderr: expect.stringMatching(message) as string,
    });
  }
  expect((await place.run("inspect", "runs/none")).status).toBe(1);
}, 60_000);
