import { expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { analyze } from "../../src/cli/analyze.ts";
import { parseArguments, resolveValues } from "../../src/cli/arguments/options.ts";
import { commonOptions } from "../../src/cli/command.ts";
import { alpacaPrompt } from "../../src/data/alpaca.ts";
import { folderOf } from "../data/tiny-tokenizer.ts";
import { quietContext } from "./quiet-context.ts";

const folder = folderOf({});
function file(name: string, content: unknown): string {
  const path = join(folder, name);
  writeFileSync(path, typeof content === "string" ? content : JSON.stringify(content));
  return path;
}

/** What the command prints for these arguments. */
async function run(...args: string[]): Promise<string> {
  const table = { ...analyze.options, ...commonOptions };
  const { given, positionals } = parseArguments(args, table);
  const printed: string[] = [];
  const context = quietContext({
    positionals,
    given: new Map([...given.keys()].map((name) => [name, "flag"])),
    print: (text) => printed.push(text),
  });
  await analyze.run(resolveValues(table, given), context);
  return printed.join("\n");
}

interface Result {
  files: { file: string; generator: string | null; outputs: number; compared: number; rouge_l: number }[];
}
const json = async (...args: string[]) => JSON.parse(await run(...args, "--json")) as Result;

const train = file("train.json", [
  { instruction: "Name a color.", input: "", output: "Blue is a color." },
  { instruction: "Name a color.", input: "", output: "Red." },
  { instruction: "Add", input: "1 and 2", output: "3" },
  {
    messages: [
      { role: "user", content: "Say hello." },
      { role: "assistant", content: "Hello there!" },
    ],
  },
  { prompt: "Once upon", completion: " a time" },
  { text: "no question" },
]);

test("AlpacaEval's outputs and generate's rows, side by side", async () => {
  const outputs = [
    { instruction: "x", output: "a b a b a", generator: "plain" },
    { instruction: "y", output: "one two", generator: "plain" },
  ];
  const eval1 = file("plain.json", outputs);
  const rows = file("noisy.jsonl", '{"prompt":"p","output":"a b c d e f","output_ids":[1]}\n');
  const lines = (await run(eval1, rows)).split("\n").map((line) => line.trim().split(/ {2,}/));
  expect(lines).toEqual([
    ["plain.json", "noisy.jsonl"],
    ["generator", "plain", "-"],
    ["outputs", "2", "1"],
    ["words, mean", "3.5", "6.0"],
    ["characters, mean", "8.0", "11.0"],
    ["long enough to measure", "1", "1"],
    ["2-gram repetition", "25.00 %", "0.00 %"],
    ["log-diversity", "0.405", "20.000"],
  ]);
  expect(await run(eval1, "--words", "4")).toMatch(/2-gram repetition, first 4 words +33.33 %/);
});

test("references of the training data: by instruction, and inside Alpaca's, a chat's or any prompt", async () => {
  const outputs = file("answers.json", [
    { instruction: "Name  a color.", output: "red" },
    { instruction: "Add\n\n1 and 2", output: "3" },
    { prompt: alpacaPrompt("Add", "1 and 2"), output: "3" },
    { prompt: "<s>[INST] Say hello. [/INST]", output: "Hello there" },
    { prompt: "Once upon", output: " a time" },
    { instruction: "Once upon a midnight", output: "a time" },
    { prompt: "not asked", output: "a time" },
  ]);
  const [result] = (await json(outputs, "--train", train)).files;
  expect(result).toMatchObject({ outputs: 7, compared: 5, rouge_l: 1 });
});

test("references in the rows themselves, one or several", async () => {
  const outputs = file(
    "own.jsonl",
    '{"output":"a b","reference":"a c"}\n{"output":"a","references":["b","a"]}\n{"output":"a"}\n',
  );
  const [result] = (await json(outputs)).files;
  expect(result).toMatchObject({ compared: 2, rouge_l: 0.75 });
});

test("--columns renames the training data's", async () => {
  const data = file("qa.csv", "question,answer\nName a color.,Red\n");
  const outputs = file("one.json", [{ instruction: "Name a color.", output: "Red" }]);
  const result = await json(outputs, "--train", data, "--columns", "instruction=question,output=answer");
  expect(result.files[0]).toMatchObject({ compared: 1, rouge_l: 1 });
});

test("options about the training data are refused without it", async () => {
  const outputs = file("plain.json", [{ instruction: "Name a color.", output: "Red" }]);
  await expect(run(outputs, "--samples", "1")).rejects.toThrow(/--samples .* --train/);
  expect((await json(outputs, "--samples", "1", "--train", train)).files[0]).toMatchObject({ compared: 1 });
});

test("what cannot be measured is refused by file and row", async () => {
  await expect(run(join(folder, "none.json"))).rejects.toThrow(/none\.json: no such file/);
  await expect(run(file("bad.jsonl", '{"output":"a"}\n{"output":5}\n'))).rejects.toThrow(
    /bad\.jsonl:2: row 2: field "output": expected a string/,
  );
  await expect(run(file("list.json", "[[1]]"))).rejects.toThrow(/row 1: expected an object/);
  await expect(run(file("refs.json", '[{"output":"a","references":[1]}]'))).rejects.toThrow(/"references"/);
  await expect(run(file("none.json", "[]"))).rejects.toThrow(/has no rows/);
  const other = file("other.json", [{ instruction: "not asked", output: "a" }]);
  await expect(run(other, "--train", train)).rejects.toThrow(/none of its 1 output answers an instruction/);
  await expect(run(other, "--train", file("t.json", '[{"text":"a"}]'))).rejects.toThrow(
    /no row has a question/,
  );
});
