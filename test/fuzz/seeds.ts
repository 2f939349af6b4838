// The files that are damaged: a model and what training makes of it, data in every format, settings. All small.

import { copyFileSync, cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { byteTokenizerJson, HEADER_TEMPLATE, llamaTokenizerJson } from "../data/tiny-tokenizer.ts";
import { gzip, zstd } from "./mutate-files.ts";

const PARQUET = join(import.meta.dir, "..", "golden", "parquet");
/** But for those that are refused as they are. */
export const parquetFiles = readdirSync(PARQUET).filter(
  (name) => name.endsWith(".parquet") && !["bytes.parquet", "empty.parquet"].includes(name),
);

/** Where the cache keeps org/name, which is what the presets name. */
export const hubModel = ".cache/huggingface/hub/models--org--name";
export const hubCommit = "0123456789abcdef0123456789abcdef01234567";

/** What makes the rest of the seeds; throws where a command fails. */
export type Must = (...args: string[]) => Promise<void>;

const common = ["--device", "cpu", "--threads", "1"];

const shape = {
  ...{ model_type: "llama", architectures: ["LlamaForCausalLM"], hidden_act: "silu", torch_dtype: "float32" },
  ...{
    hidden_size: 16,
    intermediate_size: 24,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    num_key_value_heads: 1,
  },
  ...{
    max_position_embeddings: 512,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    tie_word_embeddings: false,
    vocab_size: 512,
  },
};

const alpaca = [
  { instruction: "Name the cat", input: "hello world", output: "the cat sat on the mat" },
  { instruction: "Say hello", input: "", output: "hello" },
  {
    instruction: "And then",
    input: "one two",
    output: "three four",
    history: [["hello", "world"]],
  },
];

const conversation = [
  { role: "system", content: "Be short." },
  { role: "user", content: "hello" },
  { role: "assistant", content: "the cat" },
  { role: "user", content: "and then" },
  { role: "assistant", content: "the mat" },
];

const call = { id: "1", type: "function", function: { name: "add", arguments: { a: 1 } } };
const tools = [{ type: "function", function: { name: "add", description: "adds", parameters: {} } }];

const lines = (rows: readonly object[]) => rows.map((row) => `${JSON.stringify(row)}\n`).join("");

const chat = lines([
  { messages: conversation },
  { messages: conversation.slice(1, 3) },
  { messages: conversation.slice(1) },
]);

/** Rows with the fields that change what a row means. */
const rich = lines([
  {
    system: "Be kind.",
    tools,
    messages: [
      { role: "user", content: [{ type: "text", text: "one" }] },
      { role: "assistant", content: "the cat", weight: 0 },
      { role: "user", content: "two" },
      { role: "assistant", content: "", tool_calls: [call] },
      { role: "tool", content: "3", tool_call_id: "1" },
      { role: "assistant", content: "the mat", reasoning_content: "three four", weight: 1 },
    ],
  },
  { prompt: conversation.slice(1, 2), completion: conversation.slice(2, 3) },
  { instruction: "And then", output: "three", system: "Be short", history: [["hello", "world"]] },
  { input_ids: [1, 5, 6, 7, 2], labels: [-100, -100, 6, 7, 2], attention_mask: [0, 1, 1, 1, 1] },
  { input_ids: [1, 5, 6], completion_mask: [0, 1, 1] },
]);

/** A template that writes all of them. */
const RICH_TEMPLATE =
  "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{% if m.reasoning_content %}{{ m.reasoning_content }}/{% endif %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}({{ c.function.arguments | tojson }}){% endfor %}{{ eos_token }}{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}{% if add_generation_prompt %}<assistant>{% endif %}";

const texts: Readonly<Record<string, string>> = {
  "alpaca.json": JSON.stringify(alpaca),
  "nested.json": JSON.stringify({ version: 1, data: alpaca }),
  "chat.jsonl": chat,
  "rich.jsonl": rich,
  "rich.jinja": RICH_TEMPLATE,
  "prompts.jsonl": lines([
    { prompt: "hello ", completion: "world", id: 1 },
    { text: "the cat sat on the mat" },
    { input_ids: [1, 5, 6, 7, 2], labels: [-100, -100, 6, 7, 2], attention_mask: [1, 1, 1, 1, 1] },
    { input_ids: [1, 5, 6], completion_mask: [0, 1, 1] },
    { instruction: "Say", output: "hello" },
  ]),
  "sharegpt.json": JSON.stringify([
    {
      system: "Be kind",
      conversations: [
        { from: "human", value: "hello" },
        { from: "gpt", value: "world" },
      ],
    },
    {
      conversations: [
        { from: "system", value: "x" },
        { from: "user", value: "one" },
        { from: "assistant", value: "two" },
      ],
    },
  ]),
  "table.csv": 'instruction,input,output\nSay hello,,hello\n"Name, the cat","a ""b""\nc",the cat\n',
  "table.tsv": "prompt\tcompletion\nhello\tworld\none\ttwo\n",
  "outputs.json": JSON.stringify(
    alpaca.map(({ instruction, output }) => ({ instruction, output, generator: "x", reference: "the cat" })),
  ),
  "template.jinja": HEADER_TEMPLATE,
  "run.toml":
    'model = "model"\ndataset = ["alpaca.json"]\nmax-steps = 1\nlearning-rate = 1e-3\nlora-r = 2\npacking = false\noutput = "out"\n',
  "run.yaml":
    "model: model\ndataset:\n  - alpaca.json\nmax-steps: 1\nlearning-rate: 1e-3\ntarget-modules: q_proj,v_proj\noutput: out\n",
  "run.json": JSON.stringify({
    model: "model",
    dataset: ["alpaca.json"],
    "max-steps": 1,
    alpha: 5,
    packing: "off",
    output: "out",
  }),
  "model.toml": `kind = "model"\nname = "mine"\nhub = "org/name"\nprompt_template = "chat"\n\n[architecture]\n${Object.entries(
    shape,
  )
    .filter(([, value]) => typeof value === "number")
    .map(([key, value]) => `${key} = ${value}\n`)
    .join("")}`,
  "data.toml":
    'kind = "dataset"\nname = "mine"\nhub = "org/name"\nfiles = ["data/train-*.parquet"]\nalpha = 10\n',
  "shape.json": JSON.stringify(shape),
};

const tokenizerConfig = {
  ...{
    bos_token: "<s>",
    eos_token: { content: "</s>" },
    unk_token: "<unk>",
    add_bos_token: true,
    add_eos_token: false,
  },
  chat_template:
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
};

export function writeTokenizers(dir: string): void {
  const json = (folder: string, name: string, content: object) => {
    mkdirSync(join(dir, folder), { recursive: true });
    writeFileSync(join(dir, folder, name), JSON.stringify(content));
  };
  json("tokenizer", "tokenizer.json", llamaTokenizerJson());
  json("tokenizer", "tokenizer_config.json", tokenizerConfig);
  json("tokenizer", "special_tokens_map.json", { bos_token: "<s>", eos_token: "</s>" });
  json("tokenizer", "generation_config.json", { bos_token_id: 1, eos_token_id: [2], max_length: 64 });
  json("byte-tokenizer", "tokenizer.json", byteTokenizerJson());
  json("byte-tokenizer", "tokenizer_config.json", {
    bos_token: "<|begin_of_text|>",
    eos_token: "<|end_of_text|>",
    chat_template: HEADER_TEMPLATE,
  });
}

/** A checkpoint of one file as two shards with an index: the format's own bytes, put together here. */
function writeSharded(from: string, to: string): void {
  mkdirSync(to);
  for (const name of readdirSync(from))
    if (name.endsWith(".json")) copyFileSync(join(from, name), join(to, name));
  const whole = readFileSync(join(from, "model.safetensors"));
  const length = Number(whole.readBigUInt64LE(0));
  const header = JSON.parse(whole.toString("utf8", 8, 8 + length)) as Record<
    string,
    { data_offsets: [number, number] }
  >;
  const names = Object.keys(header).filter((name) => name !== "__metadata__");
  const weightMap: Record<string, string> = {};
  for (const [i, part] of [names.slice(0, names.length / 2), names.slice(names.length / 2)].entries()) {
    const file = `model-0000${i + 1}-of-00002.safetensors`;
    const pieces: Uint8Array[] = [];
    const entries: Record<string, object> = {};
    let at = 0;
    for (const name of part) {
      const [begin, end] = header[name]!.data_offsets;
      pieces.push(whole.subarray(8 + length + begin, 8 + length + end));
      entries[name] = { ...header[name], data_offsets: [at, at + end - begin] };
      at += end - begin;
      weightMap[name] = file;
    }
    const text = Buffer.from(JSON.stringify(entries));
    const size = Buffer.alloc(8);
    size.writeBigUInt64LE(BigInt(text.length));
    writeFileSync(join(to, file), Buffer.concat([size, text, ...pieces]));
  }
  const index = { metadata: { total_size: whole.length - 8 - length }, weight_map: weightMap };
  writeFileSync(join(to, "model.safetensors.index.json"), JSON.stringify(index));
}

/** Options of the runs in `run` and `full`, which others resume. */
export const runOptions = [
  ...["--model", "model", "--dataset", "alpaca.json", "--dtype", "f32", "--batch-size", "2"],
  ...["--max-steps", "2", "--save-steps", "1", ...common],
];

/** What those runs train. */
export const tuningOf = { run: ["--lora-r", "2"], full: ["--tune", "full"] };

/** Makes all seeds in the folder `dir`, which is where `must` runs commands. */
export async function makeSeeds(dir: string, must: Must): Promise<void> {
  for (const [name, text] of Object.entries(texts)) writeFileSync(join(dir, name), text);
  writeFileSync(join(dir, "chat.jsonl.gz"), gzip.pack(Buffer.from(chat)));
  writeFileSync(join(dir, "alpaca.json.zst"), zstd.pack(Buffer.from(texts["alpaca.json"]!)));
  writeFileSync(join(dir, "table.csv.gz"), gzip.pack(Buffer.from(texts["table.csv"]!)));
  for (const name of parquetFiles) copyFileSync(join(PARQUET, name), join(dir, name));
  writeTokenizers(dir);
  const f32 = ["--dtype", "f32", ...common];
  await must("init", "--shape", "shape.json", "--tokenizer", "tokenizer", "--output", "model", ...f32);
  await must(
    "init",
    "--shape",
    "shape.json",
    "--tokenizer",
    "byte-tokenizer",
    "--output",
    "byte-model",
    ...f32,
  );
  writeSharded(join(dir, "model"), join(dir, "sharded"));
  await must("quantize", "--model", "model", "--output", "nf4", ...common);
  await must("train", ...runOptions, ...tuningOf.run, "--output", "run");
  await must("train", ...runOptions, ...tuningOf.full, "--output", "full");
  for (const run of ["run", "full"]) {
    // As one that was killed in its last step.
    rmSync(join(dir, run, "checkpoints", "step-00000002"), { recursive: true });
    const holder = { pid: 2 ** 30, host: hostname(), start: "1" };
    writeFileSync(join(dir, run, ".neftune.lock"), `${JSON.stringify(holder)}\n`);
  }
  for (const repo of [hubModel, hubModel.replace("models--", "datasets--")]) {
    mkdirSync(join(dir, repo, "refs"), { recursive: true });
    writeFileSync(join(dir, repo, "refs", "main"), hubCommit);
  }
  cpSync(join(dir, "model"), join(dir, hubModel, "snapshots", hubCommit), { recursive: true });
  const hubData = join(dir, hubModel.replace("models--", "datasets--"), "snapshots", hubCommit, "data");
  mkdirSync(hubData, { recursive: true });
  copyFileSync(join(PARQUET, "alpaca-zstd.parquet"), join(hubData, "train-0.parquet"));
}
