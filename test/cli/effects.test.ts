// Options without effect: flags are refused, values of a config file noted.

import { expect, test } from "bun:test";
import { expectEffects } from "../../src/cli/arguments/effects.ts";
import { parseArguments, resolveValues } from "../../src/cli/arguments/options.ts";
import { withLayers } from "../../src/cli/arguments/precedence.ts";
import { trainOptions } from "../../src/cli/arguments/train-options.ts";
import { UsageError } from "../../src/errors.ts";

/** The notes on flags, and on a config file's values. */
function notesOn(flags: string, file: Readonly<Record<string, unknown>> = {}): string[] {
  const { given } = parseArguments(flags.split(" ").filter(Boolean), trainOptions);
  const config = new Map(Object.entries(file).map(([name, value]) => [name, { value, origin: "run.toml" }]));
  const origins = new Map<string, "flag" | "config file">();
  for (const name of config.keys()) origins.set(name, "config file");
  for (const name of given.keys()) origins.set(name, "flag");
  const { values, sources } = withLayers(resolveValues(trainOptions, given, config), origins);
  const notes: string[] = [];
  expectEffects(trainOptions, values, { given: origins, note: (text) => notes.push(text) }, sources);
  return notes;
}

test.each([
  ["--save-dtype f32", "--save-dtype has no effect with --tune lora", "set --tune full"],
  ["--tune full --lora-r 8", "--lora-r has no effect with --tune full", "set --tune lora"],
  ["--tune full --lora-rank 16", "--lora-r has no effect with --tune full", "leave --lora-r out"],
  ["--tune full --lora-alpha 8", "--lora-alpha has no effect with --tune full", "set --tune lora"],
  ["--tune full --lora-dropout 0", "--lora-dropout has no effect with --tune full", "set --tune lora"],
  ["--tune full --target-modules all", "--target-modules has no effect", "set --tune lora"],
  ["--tune full --use-rslora off", "--use-rslora has no effect", "set --tune lora"],
  ["--recipe neftune --lora-r 8", "--lora-r has no effect with --tune full (recipe neftune)", "--tune lora"],
  ["--shard optimizer", "--shard has no effect with --tune lora", "leave --shard out, or set --tune full"],
  ["--quantized-cache c", "--quantized-cache has no effect with --quantization none", "--quantization nf4"],
  ["--double-quantization off", "--double-quantization has no effect with --quantization none", "nf4"],
  ["--neft-scale-learning-rate 0.1", "has no effect with --neft-scale fixed", "set --neft-scale learned"],
  [
    "--min-lr-ratio 0.1",
    "no effect with --lr-scheduler-type cosine",
    "set --lr-scheduler-type cosine_with_min_lr",
  ],
  [
    "--lr-scheduler-type constant --warmup-steps 9",
    "--warmup-steps has no effect with",
    "constant_with_warmup",
  ],
  [
    "--lr-scheduler-type constant --warmup-ratio 0.1",
    "--warmup-ratio has no effect with",
    "constant_with_warmup",
  ],
  ["--sample-steps 5", "--sample-steps has no effect without --sample-prompts", "or give --sample-prompts"],
])("%s is refused, naming both", (flags, problem, remedy) => {
  expect(() => notesOn(flags)).toThrow(UsageError);
  expect(() => notesOn(flags)).toThrow(problem);
  expect(() => notesOn(flags)).toThrow(remedy);
});

test.each([
  "",
  "--lora-r 8 --lora-dropout 0.1 --use-rslora",
  "--tune full --save-dtype f32",
  "--quantization nf4 --double-quantization off --quantized-cache c",
  "--recipe qlora --lora-r 8",
  "--recipe neftune --tune lora --lora-r 8",
  "--neft-scale learned --neft-scale-learning-rate 0.1",
  "--lr-scheduler-type warmup_stable_decay --min-lr-ratio 0.1 --warmup-steps 5",
  "--lr-scheduler-type constant --warmup-ratio 0 --min-lr-ratio 0",
  "--lr-scheduler-type constant_with_warmup --warmup-ratio 0.1",
  "--lr-scheduler-type constant",
  "--sample-prompts p.json --sample-steps 5",
])("%p is taken", (flags) => expect(notesOn(flags)).toEqual([]));

test("a config file's value that asks for nothing gets no note", () => {
  expect(notesOn("", { "lr-scheduler-type": "constant", "warmup-steps": 0, "min-lr-ratio": 0 })).toEqual([]);
  expect(notesOn("", { "lr-scheduler-type": "constant", "warmup-ratio": 0.1, "sample-steps": 9 })).toEqual([
    "warmup-ratio in the config file has no effect with --lr-scheduler-type constant (config file)",
    "sample-steps in the config file has no effect without --sample-prompts",
  ]);
});

test("a config file gets a note, where its value is not the default", () => {
  expect(notesOn("--tune full", { "lora-r": 8, "lora-alpha": 16, "target-modules": ["q_proj"] })).toEqual([
    "lora-r in the config file has no effect with --tune full",
    "target-modules in the config file has no effect with --tune full",
  ]);
  expect(notesOn("", { tune: "full", "lora-r": 8, "use-rslora": false })).toEqual([
    "lora-r in the config file has no effect with --tune full (config file)",
  ]);
});
