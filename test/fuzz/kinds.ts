// Which files are damaged, how, and which commands then read them.

import { mutateBytes } from "./mutate-bytes.ts";
import { gzip, type Mutation, mutatePacked, mutateParquet, mutateSafetensors, zstd } from "./mutate-files.ts";
import { mutateJson, mutateJsonLines } from "./mutate-json.ts";
import { mutateText, type Syntax } from "./mutate-text.ts";
import type { Random } from "./random.ts";
import { hubCommit, hubModel, parquetFiles, runOptions, tuningOf } from "./seeds.ts";

export interface Kind {
  name: string;
  /** Those of the seeds' files that are damaged, one a case; `*` stands for any name. */
  files: readonly string[];
  mutate: Mutation;
  /** Commands that read `file`. */
  commands(file: string): readonly (readonly string[])[];
  /** The file may ask for a great deal of work, which then takes its time, memory and disk. */
  asksForWork?: true;
  /** Options of which one is added now and then. */
  variants?: readonly (readonly string[])[];
}

type TextMutation = (text: string, random: Random) => string;

const asText =
  (mutate: TextMutation): Mutation =>
  (bytes, random) =>
    Buffer.from(mutate(Buffer.from(bytes).toString("utf8"), random));

const json = asText(mutateJson);
const jsonLines = asText(mutateJsonLines);
const syntax = (name: Syntax) => asText((text, random) => mutateText(text, random, name));

const folderOf = (file: string) => file.split("/")[0]!;
const device = ["--device", "cpu", "--threads", "1"];
const output = ["--output", "out"];
const oneStep = ["--max-steps", "1", "--batch-size", "2"];
/** A small rank, where neither an adapter brings its own nor all weights are trained. */
const rank = (options: readonly string[]) =>
  options.includes("--adapter") || options.includes("full") ? [] : ["--lora-r", "2"];

const train = (model: string, data: string, ...more: string[]) => [
  ...["train", "--model", model, "--dataset", data, ...oneStep, ...rank(more), ...output, ...more, ...device],
];
const evaluate = (model: string, data: string, ...more: string[]) => [
  ...["eval", "--model", model, "--dataset", data, ...more, ...device],
];
const generate = (model: string, ...more: string[]) => [
  ...["generate", "--model", model, "--max-new-tokens", "2", ...more, ...device],
];
const preview = (model: string, data: string, ...more: string[]) => [
  ...["preview", "--model", model, "--dataset", data, "--limit", "0", ...more, ...device],
];

/** Every command that reads a model. */
const modelCommands = (file: string) => {
  const model = folderOf(file);
  const ofPlainWeights = [
    train(model, "alpaca.json", "--tune", "full", "--dtype", "f32"),
    ["quantize", "--model", model, ...output, ...device],
  ];
  return [
    preview(model, "chat.jsonl"),
    train(model, "alpaca.json"),
    train(model, "alpaca.json", "--quantization", "nf4"),
    evaluate(model, "alpaca.json", "--json", "--per-sample"),
    generate(model, "--prompt", "hello world"),
    ["merge", "--model", model, "--adapter", "run", ...output, ...device],
    ["inspect", model, ...device],
    ...(model === "nf4" ? [] : ofPlainWeights),
  ];
};

const tokenizerCommands = (file: string) => {
  const model = folderOf(file);
  return [
    preview(model, "alpaca.json"),
    preview(model, "chat.jsonl", "--json"),
    train(model, "prompts.jsonl"),
    generate(model, "--prompt", "hello world"),
    generate(model, "--dataset", "chat.jsonl", "--output", "out.json"),
    ["init", "--shape", "shape.json", "--tokenizer", model, ...output, ...device],
  ];
};

const adapterCommands = (file: string) => [
  ["merge", "--model", "model", "--adapter", folderOf(file), ...output, ...device],
  ["inspect", folderOf(file), ...device],
  evaluate("model", "alpaca.json", "--adapter", folderOf(file)),
  generate("model", "--adapter", folderOf(file), "--prompt", "hello"),
  train("model", "alpaca.json", "--adapter", folderOf(file)),
];

const dataCommands = (file: string) => [
  preview("model", file),
  preview("byte-model", file, "--json"),
  train("model", file),
  train("byte-model", file, "--eval-split", "0.5"),
  evaluate("model", file, "--json", "--per-sample"),
  generate("model", "--dataset", file, "--output", "out.json"),
];

const dataVariants = [
  ["--skip-bad-rows"],
  ["--prompt-template", "alpaca"],
  ["--prompt-template", "chat"],
  ["--prompt-template", "vicuna"],
  ["--prompt-template", "llama2"],
  ["--max-length", "8"],
  ["--parse-special"],
  ["--samples", "2"],
  ["--columns", "text=output"],
];

const resumeCommands = (file: string) => {
  const run = folderOf(file);
  return [
    ["train", ...runOptions, ...(run === "full" ? tuningOf.full : tuningOf.run), "--resume", "--output", run],
  ];
};

const data = { commands: dataCommands, variants: dataVariants };
const checkpoint = "checkpoints/step-00000001";

export const kinds: readonly Kind[] = [
  { name: "config", files: ["model/config.json", "nf4/config.json"], mutate: json, commands: modelCommands },
  {
    name: "shape",
    asksForWork: true,
    files: ["shape.json"],
    mutate: json,
    commands: (file) => [["init", "--shape", file, "--tokenizer", "tokenizer", ...output, ...device]],
  },
  {
    name: "generation_config",
    files: ["model/generation_config.json"],
    mutate: json,
    commands: (file) => [generate(folderOf(file), "--prompt", "hello"), ...modelCommands(file)],
  },
  {
    name: "safetensors",
    files: ["model/model.safetensors", "nf4/model.safetensors", "sharded/model-00001-of-00002.safetensors"],
    mutate: mutateSafetensors,
    commands: modelCommands,
  },
  { name: "index", files: ["sharded/model.safetensors.index.json"], mutate: json, commands: modelCommands },
  {
    name: "tokenizer",
    files: ["model/tokenizer.json", "byte-model/tokenizer.json"],
    mutate: json,
    commands: tokenizerCommands,
  },
  {
    name: "tokenizer_config",
    files: [
      "model/tokenizer_config.json",
      "byte-model/tokenizer_config.json",
      "model/special_tokens_map.json",
    ],
    mutate: json,
    commands: tokenizerCommands,
  },
  {
    name: "template",
    files: ["template.jinja"],
    mutate: syntax("jinja"),
    commands: (file) => {
      const template = ["--prompt-template", file];
      return [
        preview("byte-model", "chat.jsonl", ...template),
        preview("model", "alpaca.json", ...template),
        train("byte-model", "chat.jsonl", ...template),
        generate("byte-model", "--dataset", "chat.jsonl", "--output", "out.json", ...template),
        generate("byte-model", "--prompt", "hello", ...template),
      ];
    },
  },
  { name: "adapter_config", files: ["run/adapter_config.json"], mutate: json, commands: adapterCommands },
  {
    name: "adapter",
    files: ["run/adapter_model.safetensors"],
    mutate: mutateSafetensors,
    commands: adapterCommands,
  },
  { name: "json", files: ["alpaca.json", "nested.json", "sharegpt.json"], mutate: json, ...data },
  { name: "jsonl", files: ["chat.jsonl", "prompts.jsonl"], mutate: jsonLines, ...data },
  {
    name: "rich jsonl",
    files: ["rich.jsonl"],
    mutate: jsonLines,
    commands: (file) => dataCommands(file).map((args) => [...args, "--prompt-template", "rich.jinja"]),
    variants: [["--skip-bad-rows"], ["--max-length", "8"]],
  },
  { name: "csv", files: ["table.csv", "table.tsv"], mutate: syntax("csv"), ...data },
  { name: "parquet", files: parquetFiles, mutate: mutateParquet, ...data },
  { name: "gzip", files: ["chat.jsonl.gz"], mutate: mutatePacked(gzip, jsonLines), ...data },
  { name: "gzip csv", files: ["table.csv.gz"], mutate: mutatePacked(gzip, syntax("csv")), ...data },
  { name: "zstd", files: ["alpaca.json.zst"], mutate: mutatePacked(zstd, json), ...data },
  {
    name: "outputs",
    files: ["outputs.json"],
    mutate: json,
    commands: (file) => [
      ["analyze", file, ...device],
      ["analyze", file, "alpaca.json", "--json", ...device],
    ],
  },
  {
    name: "toml",
    asksForWork: true,
    files: ["run.toml"],
    mutate: syntax("toml"),
    commands: (file) => [["train", "--config", file, ...device]],
  },
  {
    name: "yaml",
    asksForWork: true,
    files: ["run.yaml"],
    mutate: syntax("yaml"),
    commands: (file) => [["train", "--config", file, ...device]],
  },
  {
    name: "json config",
    asksForWork: true,
    files: ["run.json"],
    mutate: json,
    commands: (file) => [["train", "--config", file, ...device]],
  },
  {
    name: "model preset",
    asksForWork: true,
    files: ["model.toml"],
    mutate: syntax("toml"),
    commands: (file) => [["init", "--shape", file, ...output, ...device], preview(file, "alpaca.json")],
  },
  {
    name: "data preset",
    files: ["data.toml"],
    mutate: syntax("toml"),
    commands: (file) => [preview("model", file), train("model", file)],
  },
  {
    name: "run record",
    asksForWork: true,
    files: ["run/config.json", "full/run.json", "full/config.json"],
    mutate: json,
    commands: (file) => [
      ...resumeCommands(file),
      ...(file === "run/config.json"
        ? [
            ["train", "--config", file, ...output, ...device],
            generate("model", "--adapter", "run", "--prompt", "hello"),
          ]
        : []),
    ],
  },
  {
    name: "hub cache",
    files: [`${hubModel}/refs/main`, `${hubModel}/snapshots/${hubCommit}/config.json`],
    mutate: asText((text, random) => mutateText(text, random, "toml")),
    commands: () => [preview("org/name", "alpaca.json"), preview("model.toml", "alpaca.json")],
  },
  {
    name: "token cache",
    files: [".cache/neftune/tokens/*.bin"],
    mutate: mutateBytes,
    commands: () => [resumeCommands("run")[0]!, train("model", "alpaca.json")],
  },
  { name: "metrics", files: ["run/metrics.jsonl"], mutate: jsonLines, commands: resumeCommands },
  { name: "lock", files: ["run/.neftune.lock"], mutate: json, commands: resumeCommands },
  {
    name: "checkpoint",
    files: ["adapter_config.json", "progress.json"].map((name) => `run/${checkpoint}/${name}`),
    mutate: json,
    commands: resumeCommands,
  },
  {
    name: "checkpoint state",
    files: ["adapter_model.safetensors", "optimizer.safetensors"].map((name) => `run/${checkpoint}/${name}`),
    mutate: mutateSafetensors,
    commands: resumeCommands,
  },
];
