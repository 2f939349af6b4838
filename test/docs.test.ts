// The docs' examples do what they say: every block of commands in README.md and docs/, and the README's program. They
// run in a folder that has the files they name, made of a small model and few rows, and with a Hugging Face cache that
// holds small stand-ins for what they take from the Hub.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { commands } from "../src/cli/commands.ts";
import { datasetPresets, modelPreset, modelPresets } from "../src/presets/presets.ts";
import { executable, makeModel, Place } from "./e2e/support.ts";
import { spawned } from "./spawned.ts";

const root = join(import.meta.dir, "..");
// Inside the package, so that it can import "neftune" by name.
const program = join(root, "dist", "readme-example.ts");
afterAll(() => rmSync(program, { force: true }));

interface Block {
  page: string;
  line: number;
  text: string;
}

/** Indented and sh blocks, whose lines a reader types. */
function commandBlocks(page: string): Block[] {
  const lines = readFileSync(join(root, page), "utf8").split("\n");
  const blocks: Block[] = [];
  let fence: string | null = null;
  let open: { line: number; texts: string[] } | null = null;
  const close = () => {
    if (open !== null) blocks.push({ page, line: open.line, text: open.texts.join("\n").trimEnd() });
    open = null;
  };
  for (const [i, line] of lines.entries()) {
    if (line.startsWith("```")) {
      close();
      fence = fence === null ? line.slice(3) : null;
      continue;
    }
    const isCode =
      fence === null ? line.startsWith("    ") || (open !== null && line === "") : fence === "sh";
    if (!isCode) close();
    else if (open === null) open = { line: i + 1, texts: [line] };
    else open.texts.push(line);
  }
  close();
  return blocks.map((block) => ({ ...block, text: block.text.replace(/^ {4}/gm, "") }));
}

const pages = [
  "README.md",
  ...readdirSync(join(root, "docs"))
    .sort()
    .map((name) => `docs/${name}`),
];
const blocks = pages.filter((page) => page.endsWith(".md")).flatMap(commandBlocks);

/** A block is run if it calls neftune. What is not run stands below, so that nothing is left out unseen. */
const isRun = ({ text }: Block) =>
  /^(?:\w+=\S+ |echo .* \| )*(?:\.\/)?neftune /m.test(text) &&
  ![isServer, isUpload, needsGpus].some((holds) => holds(text));
/** Ends only when it is told to. */
const isServer = (text: string) => text.startsWith("neftune serve ");
/** Needs an account. */
const isUpload = (text: string) => text.startsWith("neftune push ");
const needsGpus = (text: string) => text.includes("--device cuda");

test("blocks that are not run need a release, this checkout, an account, GPUs or a launcher, serve without end, or are no commands", () => {
  expect(
    blocks.filter((block) => !isRun(block)).map(({ page, text }) => [page, text.split("\n")[0]]),
  ).toEqual([
    ["README.md", "npx neftune --version"],
    ["README.md", "npm ci && npm run demo"],
    ["README.md", "npm ci && npm test"],
    ["README.md", "runs/first/"],
    ["docs/distributed.md", "./neftune --model llama2-7b --alpha 5 --device cuda:all"],
    ["docs/distributed.md", "torchrun --nproc-per-node 8 --no-python ./neftune --model llama2-7b --alpha 5"],
    ["docs/distributed.md", "#!/bin/bash"],
    ["docs/distributed.md", "mpirun -n 4 ./neftune --model llama2-7b --device cpu"],
    [
      "docs/distributed.md",
      "2·P  +  (4 + 4 + s)·P / N  +  4·(one layer + one vocabulary matrix)  +  activations",
    ],
    ["docs/distributed.md", "t(B) = (g − 1)/g · B/450 GB/s  +  (m − 1)/m · B/(g · 50 GB/s)"],
    [
      "docs/distributed.md",
      "LoRA  2·t(160 MB)        full  max(0, t(4·P) − 496 ms)  +  t(0.5 GB)  +  t(2·P)",
    ],
    ["docs/noise.md", "e'[t, j] = e[t, j] + scale · n[t, j]        scale = alpha / sqrt(L · d)"],
    ["docs/noise.md", "e'[t, j] = e[t, j] + (scale · s[j]) · n[t, j]"],
    ["docs/results.md", "neftune push runs/first my-account/first --private"],
    ["docs/serving.md", "neftune serve --model runs/first"],
  ]);
});

const place = new Place();
afterAll(() => place.close());
const hub = place.path("hub");

function write(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
}

/** What a shell prints for commands that have to succeed. */
async function shell(cwd: string, text: string): Promise<string> {
  const env = { ...place.env, PATH: `${dirname(executable)}:/usr/bin:/bin`, HF_HUB_CACHE: hub };
  const { status, stdout, stderr } = await spawned(["sh", "-e", "-c", text], { cwd, env });
  expect(status, `${text}\n${stderr}`).toBe(0);
  return stdout;
}

/** A repository as the Hugging Face cache lays it out. */
function snapshotOf(kind: "models" | "datasets", id: string): string {
  const repository = join(hub, `${kind}--${id.replace("/", "--")}`);
  write(join(repository, "refs", "main"), "abc");
  const snapshot = join(repository, "snapshots", "abc");
  mkdirSync(dirname(snapshot), { recursive: true });
  return snapshot;
}

const model = place.path("model");
let rows: unknown[] = [];

beforeAll(async () => {
  await makeModel(place);
  rows = (JSON.parse(place.read("train.json")) as unknown[]).slice(0, 8);
  for (const { hub: id } of modelPresets) symlinkSync(model, snapshotOf("models", id));
  for (const { hub: id, files = [] } of datasetPresets) {
    const [name = ""] = files;
    const path = join(snapshotOf("datasets", id), name.replace("*", "00000-of-00001"));
    mkdirSync(dirname(path), { recursive: true });
    if (name.endsWith(".parquet")) cpSync(join(root, "test/golden/parquet/alpaca-snappy.parquet"), path);
    else writeFileSync(path, JSON.stringify(rows));
  }
});

/** A folder with the files that the docs name. */
function folderFor(page: string): string {
  const cwd = place.path(page.replaceAll(/\W/g, "-"));
  const json = JSON.stringify(rows);
  const lines = rows.map((row) => JSON.stringify(row)).join("\n");
  for (const name of ["alpaca.json", "held-out.json"]) write(join(cwd, name), json);
  for (const name of [
    "mine.jsonl",
    "folder/train_sft-00000-of-00001.jsonl",
    "folder/test_sft-00000-of-00001.jsonl",
  ])
    write(join(cwd, name), lines);
  write(join(cwd, "qa.csv"), "question,answer\nWhat is red?,A color.\nWhat is two?,A number.\n");
  const turns = (content: string) => [
    { role: "user", content },
    { role: "assistant", content },
  ];
  write(join(cwd, "chat.jsonl"), JSON.stringify({ conversations: turns("Name a color.") }));
  for (const name of ["SmolLM2-135M", "path/to/llama", "my-llama"]) {
    mkdirSync(dirname(join(cwd, name)), { recursive: true });
    symlinkSync(model, join(cwd, name));
  }
  symlinkSync(executable, join(cwd, "neftune"));
  return cwd;
}

describe.each(pages.filter((page) => blocks.some((block) => block.page === page && isRun(block))))(
  "%s",
  (page) => {
    let cwd = "";
    beforeAll(async () => {
      cwd = folderFor(page);
      if (["docs/results.md", "docs/serving.md"].includes(page))
        await shell(cwd, "neftune --model llama2-7b --dataset alpaca.json --max-steps 1 --output runs/first");
      if (page === "docs/results.md")
        cpSync(join(cwd, "runs/first"), join(cwd, "runs/plain"), { recursive: true });
      if (page !== "docs/analyze.md") return;
      await shell(cwd, "neftune --model llama2-7b --dataset alpaca.json --max-steps 1 --output runs/plain");
      cpSync(join(cwd, "runs/plain"), join(cwd, "runs/noisy"), { recursive: true });
    });

    // One after the other: a block goes on with what those above it made.
    for (const block of blocks.filter((block) => block.page === page && isRun(block))) {
      test(`line ${block.line}: ${block.text.split("\n")[0]}`, async () => {
        // No token looks like the one that stands for the reader's own.
        await shell(cwd, block.text.replaceAll("hf_…", "hf_x"));
      });
    }
  },
);

test("the README's table has every command, and no other", () => {
  const readme = readFileSync(join(root, "README.md"), "utf8");
  const listed = [...readme.matchAll(/^\| `neftune \[?(\w+)\]?`/gm)].map(([, name]) => name);
  expect(listed.sort()).toEqual(commands.map(({ name }) => name).sort());
});

test("the preset file of docs/models.md is one", () => {
  const preset = /```toml\n([\s\S]*?)```/.exec(readFileSync(join(root, "docs/models.md"), "utf8"))?.[1];
  const path = place.path("my.toml");
  writeFileSync(path, preset ?? "");
  expect(modelPreset(path)).toMatchObject({ name: "mine", hub: "org/name", prompt_template: "chat" });
});

test("the example of the README trains an adapter", async () => {
  const example = /```ts\n([\s\S]*?)```/.exec(readFileSync(join(root, "README.md"), "utf8"))?.[1];
  if (example === undefined) throw new Error("README.md has no TypeScript example");
  writeFileSync(program, example);
  const cwd = place.path("program");
  mkdirSync(cwd);
  writeFileSync(join(cwd, "data.json"), JSON.stringify(rows));
  const printed = await shell(cwd, `'${process.execPath}' '${program}' '${model}' data.json run`);
  expect(printed).toMatch(/^loss \d+\.\d+ after 1 steps: /);
  expect(existsSync(join(cwd, "run", "adapter_model.safetensors"))).toBe(true);
});
