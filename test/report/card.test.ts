import { afterAll, expect, test } from "bun:test";
import { appendFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parse } from "yaml";
import { type CardFacts, cardOfRepository, modelCard } from "../../src/report/card.ts";
import { readRun } from "../../src/report/run.ts";
import { makeRun } from "./support.ts";

const root = mkdtempSync(join(tmpdir(), "neftune-card-"));
afterAll(() => rmSync(root, { recursive: true }));

function cardOf(alpha: number, changes: Partial<CardFacts> = {}, name = "run") {
  makeRun(join(root, name), { steps: 20, alpha });
  const facts = {
    ...{ base: "meta-llama/Llama-2-7b-hf", license: "llama2", isAdapter: true, version: "0.1.0" },
    datasets: ["tatsu-lab/alpaca", "data/mine.jsonl", "alpaca"],
  };
  const text = modelCard(readRun(join(root, name)), { ...facts, ...changes });
  const [, head] = /^---\n([\s\S]*?)\n---\n/.exec(text)!;
  return { text, head: parse(head!) };
}

function cardOfRun(path: string): string {
  const facts = { base: null, license: null, datasets: [], isAdapter: true, version: "0.1.0" };
  return modelCard(readRun(path), facts);
}

test("the head is YAML with what the Hub reads; files are no data sets of the Hub", () => {
  expect(cardOf(5).head).toEqual({
    ...{ base_model: "meta-llama/Llama-2-7b-hf", library_name: "peft", pipeline_tag: "text-generation" },
    ...{ license: "llama2", datasets: ["tatsu-lab/alpaca"], tags: ["neftune", "lora", "text-generation"] },
  });
});

test("a full model from a folder, without noise", () => {
  const { head, text } = cardOf(0, { base: "./my-llama", license: null, datasets: [], isAdapter: false });
  expect(head).toEqual({
    library_name: "transformers",
    pipeline_tag: "text-generation",
    tags: ["text-generation"],
  });
  expect(text).not.toContain("PeftModel");
  expect(text).toContain("neftune generate --model run ");
  expect(text).toContain("neftune export --model run --output run.gguf");
  for (const kind of ["AutoModelForCausalLM", "AutoTokenizer"])
    expect(text).toContain(`${kind}.from_pretrained("run")`);
});

test("losses, options that were chosen, and how to use it", () => {
  const { text } = cardOf(5);
  expect(text).toMatch(/\| evaluation loss \| \d\.\d{4} \|/);
  expect(text).toMatch(/\| best evaluation loss \| 1\.1608 \|/);
  const [, low, high] = /interval over samples \| (\d\.\d{4}) to (\d\.\d{4}) \|/.exec(text)!;
  expect(Number(high)).toBeGreaterThan(Number(low));
  expect(text).toContain("| alpha | 5 |");
  expect(text).not.toContain("| learning-rate |");
  expect(text).toContain('PeftModel.from_pretrained(base, "run")');
});

test("a revision of the base is not part of its name", () => {
  const { head, text } = cardOf(5, { base: "org/base@v1.2", datasets: ["org/data@main", "org/data"] });
  expect(head).toMatchObject({ base_model: "org/base", datasets: ["org/data"] });
  for (const kind of ["AutoModelForCausalLM", "AutoTokenizer"])
    expect(text).toContain(`${kind}.from_pretrained("org/base", revision="v1.2")`);
  expect(text).toContain("neftune generate --model org/base@v1.2 --adapter run");
});

test("on the Hub, the lines of use name the repository; all else stays, whoever wrote it", () => {
  const adapter = cardOf(5, { base: "run" }).text;
  const pushed = cardOfRepository(adapter, "me/first", "main");
  // --adapter takes a folder.
  const download = "hf download me/first --local-dir run";
  for (const lines of [
    'model = PeftModel.from_pretrained(base, "me/first")',
    'base = AutoModelForCausalLM.from_pretrained("run")',
    `${download}\nneftune generate --model run --adapter run --prompt "…"`,
    `${download}\nneftune export --model run --adapter run --output run.gguf`,
  ])
    expect(pushed).toContain(`\n${lines}\n`);
  const others = (text: string) => text.replace(/## How to use it[\s\S]*## Options/, "");
  expect(others(pushed)).toBe(others(adapter));
  expect(cardOfRepository(pushed, "you/second", "main")).toBe(pushed);

  const full = cardOfRepository(
    cardOf(0, { base: "./mine", isAdapter: false }, "my run").text,
    "me/first",
    "main",
  );
  expect(full.match(/from_pretrained\("me\/first"\)/g)).toHaveLength(2);
  expect(full).toContain("neftune generate --model me/first --prompt");
  expect(full).toContain("neftune export --model me/first --output 'my run.gguf'");

  for (const own of ["# Mine\n\nUse --adapter run or run.\n", "no title: --adapter run \n", ""])
    expect(cardOfRepository(own, "me/first", "main")).toBe(own);
});

test("on another branch than main, the lines of use name it", () => {
  const card = (isAdapter: boolean) => cardOfRepository(cardOf(0, { isAdapter }).text, "me/first", "v1.2");
  expect(card(true)).toContain('PeftModel.from_pretrained(base, "me/first", revision="v1.2")');
  expect(card(true)).toContain("\nhf download me/first --revision v1.2 --local-dir run\nneftune generate ");
  expect(card(false)).toContain('AutoTokenizer.from_pretrained("me/first", revision="v1.2")');
  expect(card(false)).toContain("neftune generate --model me/first@v1.2 --prompt");
});

test.each(["./models@home", "models@home"])("a folder's name may have an @: %s", (base) => {
  const { text } = cardOf(5, { base });
  expect(text).toContain(`AutoTokenizer.from_pretrained("${base}")`);
});

test("commands and code quote names", () => {
  const { text } = cardOf(5, { base: "./it's mine" }, 'a "first"');
  expect(text).toContain('PeftModel.from_pretrained(base, "a \\"first\\"")');
  const asked = String.raw`--model './it'\''s mine' --adapter 'a "first"'`;
  expect(text).toContain(`neftune generate ${asked} --prompt`);
  expect(text).toContain(`neftune export ${asked} --output 'a "first".gguf'`);
});

test("the loss is that of the best model, where it is the result", () => {
  const path = join(root, "best");
  makeRun(path, { steps: 20, alpha: 5, options: { "load-best-model-at-end": true } });
  // The lowest loss is that before the first step (--eval-on-start), which is no model of the run.
  appendFileSync(join(path, "metrics.jsonl"), '{"step":0,"eval_loss":0.5}\n{"step":20,"eval_loss":9}\n');
  const text = cardOfRun(path);
  expect(text).toMatch(/\| evaluation loss, after step 18, whose model this is \| 1\.\d+ \|/);
  expect(text).not.toContain("interval");
});

test.each([true, false])(
  "the loss is the last one where that is the result: best model asked for, %p",
  (isAsked) => {
    const path = join(root, `last-${isAsked}`);
    makeRun(path, { steps: 20, alpha: 5, options: { "load-best-model-at-end": isAsked } });
    // Asked for, the best one is the last.
    if (!isAsked) appendFileSync(join(path, "metrics.jsonl"), '{"step":20,"eval_loss":9}\n');
    const text = cardOfRun(path);
    expect(text).toContain(`| evaluation loss | ${isAsked ? "1.1608" : "9.0000"} |`);
    expect(text).not.toContain("whose model this is");
  },
);
