// The names that other trainers have for our options.

import { describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readConfigFile } from "../../src/cli/arguments/config-file.ts";
import { parseArguments } from "../../src/cli/arguments/options.ts";
import { trainOptions } from "../../src/cli/arguments/train-options.ts";
import { commonOptions } from "../../src/cli/command.ts";
import { evalCommand } from "../../src/cli/eval.ts";
import { generateCommand } from "../../src/cli/generate.ts";
import type { OptionTable } from "../../src/options/spec.ts";
import { optionEntries } from "../../src/options/table.ts";

const table: OptionTable = { ...trainOptions, ...commonOptions };
const given = (...args: string[]) =>
  Object.fromEntries([...parseArguments(args, table).given].map(([name, { value }]) => [name, value]));
const fromFile = async (name: string, text: string) => {
  const folder = mkdtempSync(join(tmpdir(), "neftune-aliases-"));
  try {
    const path = join(folder, name);
    writeFileSync(path, text);
    const read = await readConfigFile(path, table);
    return Object.fromEntries([...read].map(([key, { value }]) => [key, value]));
  } finally {
    rmSync(folder, { recursive: true });
  }
};

const same: [string, string, string, unknown][] = [
  ["--lr", "1e-4", "learning-rate", 1e-4],
  ["--num-train-epochs", "2", "epochs", 2],
  ["--num_epochs", "2", "epochs", 2],
  ["--per_device_train_batch_size", "4", "batch-size", 4],
  ["--micro_batch_size", "4", "batch-size", 4],
  ["--gradient_accumulation_steps", "4", "gradient-accumulation-steps", 4],
  ["--output_dir", "out", "output", "out"],
  ["--neftune-noise-alpha", "10", "alpha", 10],
  ["--noisy_embedding_alpha", "10", "alpha", 10],
  ["--max-seq-length", "1024", "max-length", 1024],
  ["--cutoff-len", "1024", "max-length", 1024],
  ["--sequence_len", "1024", "max-length", 1024],
  ["--lora-rank", "8", "lora-r", 8],
  ["--r", "8", "lora-r", 8],
  ["--lora_target", "q_proj,v_proj", "target-modules", ["q_proj", "v_proj"]],
  ["--val-set-size", "0.05", "eval-split", 0.05],
  ["--val_size", "0.05", "eval-split", 0.05],
  ["--train-file", "a.json", "dataset", ["a.json"]],
  ["--model-name-or-path", "m", "model", "m"],
  ["--base_model", "m", "model", "m"],
  ["--lr_scheduler", "linear", "lr-scheduler-type", "linear"],
  ["--random_state", "3407", "seed", 3407],
  ["--torch_dtype", "bfloat16", "dtype", "bf16"],
  ["--dtype", "float32", "dtype", "f32"],
  ["--optim", "adamw_torch", "optim", "adamw"],
  ["--optim", "paged_adamw_32bit", "optim", "adamw"],
  ["--optim", "adamw_bnb_8bit", "optim", "adamw8bit"],
  ["--optim", "paged_adamw_8bit", "optim", "adamw8bit"],
  ["--optimizer", "adamw_8bit", "optim", "adamw8bit"],
  ["--adapter_name_or_path", "a", "adapter", "a"],
  ["--finetuning_type", "full", "tune", "full"],
  ["--sample_packing", "False", "packing", false],
];

describe("mean the same on the command line and in a file", () => {
  test.each(same)("%s %s", async (flag, text, name, value) => {
    expect(given(flag, text)).toEqual({ [name]: value });
    expect(given(`${flag}=${text}`)).toEqual({ [name]: value });
    const key = flag.slice(2);
    const written =
      typeof value === "string" || Array.isArray(value) ? JSON.stringify(text) : text.toLowerCase();
    expect(await fromFile("run.yaml", `${key}: ${written}\n`)).toEqual({ [name]: value });
    expect(await fromFile("run.json", `{"${key}": ${written}}`)).toEqual({ [name]: value });
    expect(await fromFile("run.toml", `${key} = ${written}\n`)).toEqual({ [name]: value });
  });

  test("all linear layers by PEFT's and LLaMA-Factory's words", () => {
    for (const word of ["all-linear", "all"]) {
      expect(given("--target-modules", word)["target-modules"]).toEqual(
        trainOptions["target-modules"].values as unknown as string[],
      );
    }
  });

  test("in every command that has the option", () => {
    const of = (options: OptionTable, ...args: string[]) => [...parseArguments(args, options).given.keys()];
    expect(of(evalCommand.options, "--max_seq_length", "5", "--model_name_or_path", "m")).toEqual([
      ...["max-length", "model"],
    ]);
    expect(of(generateCommand.options, "--max_new_tokens", "5", "--top_p", "0.5")).toEqual([
      ...["max-new-tokens", "top-p"],
    ]);
  });

  test("what follows -- or is a value stays as it is", () => {
    const { given, positionals } = parseArguments(["--output=--lr", "--", "--lr"], table);
    expect(given.get("output")?.value).toBe("--lr");
    expect(positionals).toEqual(["--lr"]);
  });
});

test("every alias is of one option, and none is an option itself", () => {
  const all = optionEntries.flatMap(([, { aliases = [] }]) => aliases);
  expect(new Set(all).size).toBe(all.length);
  for (const alias of all) {
    expect(Object.hasOwn(table, alias)).toBe(false);
    expect(alias).toMatch(/^[a-z0-9-]+$/);
  }
});

const refusal = (...args: string[]) => {
  try {
    parseArguments(args, table);
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error(`${args.join(" ")} was accepted`);
};

test.each([
  [["--lr", "x"], "--lr expects a number of at least 0, got x"],
  [["--cutoff_len"], "--cutoff_len needs a value"],
  [["--optim", "adafactor"], '--optim expects one of adamw, adamw8bit; got "adafactor"'],
  [["--lr", "1", "--learning_rate", "2"], "--lr and --learning_rate are the same option; give one of them"],
  [["--lr", "1", "--lr", "2"], "--lr was given twice; give it once"],
  [["--alpha=1", "--neftune_noise_alpha=2"], "--alpha and --neftune_noise_alpha are the same option"],
])("a message names what was written: %p", (args, message) => {
  expect(refusal(...args)).toContain(message);
});

describe("what means something else says what to write", () => {
  test.each([
    ["--gradient-checkpointing", "unknown option --gradient-checkpointing; write --recompute"],
    ["--bf16", "unknown option --bf16; write --dtype bf16"],
    ["--fp16", "write --dtype bf16"],
    ["--load_in_4bit", "unknown option --load_in_4bit; write --quantization nf4"],
    ["--load-in-8bit", "write --quantization nf4"],
    ["--optim_args=x", "unknown option --optim_args; write --adam-beta1, --adam-beta2 or --adam-epsilon"],
    ["--deepspeed=ds.json", "leave it out: --device says where a run goes"],
    ["--fsdp=full_shard", "leave it out: --device says where a run goes"],
    ["--flash-attn=fa2", "leave it out: attention"],
    ["--per_device_eval_batch_size=4", "write --batch-size"],
    ["--resume_from_checkpoint=x", "write --resume"],
    ["--fp16=false", "unknown option --fp16; leave it out"],
  ])("%s", (arg, message) => expect(refusal(arg)).toContain(message));

  test("in a file, without dashes", async () => {
    await expect(fromFile("run.yaml", "load_in_4bit: true\n")).rejects.toThrow(
      'run.yaml: unknown key "load_in_4bit"; write quantization nf4',
    );
    await expect(fromFile("run.yaml", "load_in_8bit: false\n")).rejects.toThrow("; leave it out");
    await expect(fromFile("run.toml", "lr = 1e-4\nlearning_rate = 2e-4\n")).rejects.toThrow(
      "run.toml: lr and learning_rate are the same option; give one of them",
    );
  });

  test("a command does not name an option that it lacks", () => {
    expect(() => parseArguments(["--gradient_checkpointing"], evalCommand.options)).toThrow("--help lists");
  });
});
