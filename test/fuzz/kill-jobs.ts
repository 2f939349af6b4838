// Commands to kill while they work, and what they work on.

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { makeDemoData } from "../../src/cli/demo/data.ts";
import { FakeHub, lfsFile, smallFile } from "../hub/fake-hub.ts";
import { hubCommit, writeTokenizers } from "./seeds.ts";

export interface KillJob {
  name: string;
  args: readonly string[];
  /** The folder that the command makes, where it refuses to make it again. */
  output?: string;
  /** Files of the seeds that it reads. */
  reads: readonly string[];
  env?: Readonly<Record<string, string>>;
}

const device = ["--device", "cpu", "--threads", "1"];
const output = "out";
const train = (...more: string[]) => [
  ...["train", "--model", "model", "--dataset", "rows.jsonl", "--batch-size", "2", "--save-total-limit", "2"],
  ...[...more, "--resume", "--output", output, ...device],
];
const trains = { reads: ["model", "rows.jsonl"] };
const makes = { output, reads: ["big", "big.json", "adapter"] };

/** The last one downloads from `hub`. */
export const killJobs = (hub: FakeHub): readonly KillJob[] => [
  { name: "train", args: train("--samples", "64", "--max-steps", "24", "--save-steps", "2"), ...trains },
  {
    name: "train in full",
    args: train("--samples", "64", "--max-steps", "12", "--save-steps", "1", "--tune", "full"),
    ...trains,
  },
  { name: "tokenize", args: train("--max-steps", "1"), ...trains },
  { name: "quantize", args: ["quantize", "--model", "big", "--output", output, ...device], ...makes },
  {
    name: "merge",
    args: ["merge", "--model", "big", "--adapter", "adapter", "--output", output, ...device],
    ...makes,
  },
  { name: "init", args: ["init", "--shape", "big.json", "--output", output, ...device], ...makes },
  {
    name: "download",
    args: ["eval", "--model", "org/name", "--dataset", "few.jsonl", "--json", ...device],
    reads: ["few.jsonl"],
    env: { HF_ENDPOINT: hub.endpoint, HF_HUB_OFFLINE: "0" },
  },
];

const shape = {
  ...{ model_type: "llama", hidden_size: 64, intermediate_size: 96, num_hidden_layers: 2, vocab_size: 512 },
  ...{ num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: 512, rms_norm_eps: 1e-5 },
  ...{ tie_word_embeddings: false },
};
/** Large enough that much of the time goes into computing and writing weights. */
const bigShape = { ...shape, hidden_size: 512, intermediate_size: 1024, num_hidden_layers: 8 };
/** So many that they are tokenized in threads. */
const ROWS = 24_000;
const BYTES_PER_SECOND = 20_000_000;

/** Makes what the jobs read in the folder `dir`, which is where `must` runs commands. */
export async function makeKillSeeds(dir: string, must: (...args: string[]) => Promise<void>): Promise<void> {
  const demo = makeDemoData(1).train;
  const rows = Array.from({ length: ROWS }, (_, i) => {
    const { instruction, input, output: answer } = demo[i % demo.length]!;
    return `${JSON.stringify({ instruction: `${i} ${instruction}`, input, output: answer })}\n`;
  });
  writeFileSync(join(dir, "rows.jsonl"), rows.join(""));
  writeFileSync(join(dir, "few.jsonl"), rows.slice(0, 2).join(""));
  writeFileSync(join(dir, "shape.json"), JSON.stringify(shape));
  writeFileSync(join(dir, "big.json"), JSON.stringify(bigShape));
  writeTokenizers(dir);
  const from = ["--tokenizer", "tokenizer", ...device];
  await must("init", "--shape", "shape.json", "--output", "model", ...from);
  await must("init", "--shape", "big.json", "--output", "big", ...from);
  const oneStep = ["--dataset", "few.jsonl", "--max-steps", "1"];
  await must("train", "--model", "big", ...oneStep, "--output", "adapter", ...device);
}

/** A Hub that has the model in `dir` as org/name, and sends it slowly enough to be killed in the middle. */
export async function openHub(dir: string): Promise<FakeHub> {
  const hub = await new FakeHub().open();
  const files = readdirSync(dir).map((name) => {
    const bytes = readFileSync(join(dir, name));
    return name.endsWith(".safetensors") ? lfsFile(name, bytes) : smallFile(name, bytes.toString());
  });
  hub.add({ kind: "model", id: "org/name", commit: hubCommit, files });
  hub.fault = ({ host }) => (host === "storage" ? { bytesPerSecond: BYTES_PER_SECOND } : undefined);
  return hub;
}
