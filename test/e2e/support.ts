// Runs the built executable from an empty folder, with a home and caches of its own.

import { afterAll, beforeAll, expect } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { makeDemoData } from "../../src/cli/demo/data.ts";
import { trainTokenizer, writeTokenizer } from "../../src/cli/demo/tokenizer.ts";
import type { Backend } from "../backends.ts";
import { type Finished, spawned } from "../spawned.ts";

export const executable = join(import.meta.dir, "..", "..", "dist", "neftune");
if (!existsSync(executable)) throw new Error(`${executable} is missing: npm run build`);

/** Where a machine with a GPU keeps the driver's libraries and NVIDIA's, and which GPU is meant. */
const gpuVariables = [
  ...["NEFTUNE_CUDA_HOME", "CUDA_HOME", "CUDA_PATH", "VIRTUAL_ENV", "CONDA_PREFIX"],
  ...["LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"],
];

/** A folder to run in, gone after close(). */
export class Place {
  readonly root = mkdtempSync(join(tmpdir(), "neftune-e2e-"));
  readonly cwd = join(this.root, "work");
  readonly env: Record<string, string> = {
    PATH: "/usr/bin:/bin",
    HOME: join(this.root, "home"),
    XDG_CACHE_HOME: join(this.root, "cache"),
    // No test asks the real Hub.
    HF_HUB_OFFLINE: "1",
  };

  /** `backend`: what `--device cuda` means in it; without one there is no GPU but the machine's own. */
  constructor(backend?: Backend) {
    mkdirSync(this.cwd);
    const names = ["NEFTUNE_CUDA_LIBRARY", ...(backend?.kind === "cuda" ? gpuVariables : [])];
    for (const name of names) {
      const value = backend?.env[name];
      if (value !== undefined) this.env[name] = value;
    }
  }

  close(): void {
    rmSync(this.root, { recursive: true, force: true });
  }

  path(...parts: string[]): string {
    return join(this.cwd, ...parts);
  }

  write(name: string, text: string): void {
    writeFileSync(this.path(name), text);
  }

  read(...parts: string[]): string {
    return readFileSync(this.path(...parts), "utf8");
  }

  start(args: readonly string[]) {
    return Bun.spawn([executable, ...args], {
      cwd: this.cwd,
      env: this.env,
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    });
  }

  run(...args: string[]): Promise<Finished> {
    return spawned([executable, ...args], { cwd: this.cwd, env: this.env });
  }

  /** Runs what has to end with an error that holds `message`, and to print no result. */
  async mustFail(args: readonly string[], message: string, status = 1): Promise<void> {
    const finished = await this.run(...args);
    expect(finished.stderr).toContain(message);
    expect(finished.stderr).toMatch(/error: .*\n$/);
    expect(finished).toMatchObject({ status, stdout: "" });
  }

  /** Runs what has to succeed; throws with standard error otherwise. */
  async must(...args: string[]): Promise<Finished> {
    const finished = await this.run(...args);
    if (finished.status !== 0)
      throw new Error(`neftune ${args.join(" ")}: status ${finished.status}: ${finished.stderr}`);
    return finished;
  }
}

/** Rows of train.json and of held-out.json: several batches, the last of held-out.json's smaller than the others. */
const ROWS = { train: 48, heldOut: 20 };

const shape = {
  model_type: "llama",
  hidden_size: 32,
  intermediate_size: 72,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 256,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: true,
};

/** Makes model (random weights, a tokenizer of 512 tokens), train.json and held-out.json in a place. */
export async function makeModel(place: Place): Promise<void> {
  const data = makeDemoData(1);
  const rows = (all: typeof data.train, count: number) =>
    JSON.stringify(
      all.slice(0, count).map(({ instruction, input, output }) => ({ instruction, input, output })),
    );
  place.write("train.json", rows(data.train, ROWS.train));
  place.write("held-out.json", rows(data.heldOut, ROWS.heldOut));
  mkdirSync(place.path("tokenizer"));
  const tokenizer = trainTokenizer(
    data.train.flatMap((row) => [row.instruction, row.input, row.output]),
    512,
  );
  writeTokenizer(place.path("tokenizer"), tokenizer);
  place.write("shape.json", JSON.stringify({ ...shape, vocab_size: Object.keys(tokenizer.vocab).length }));
  await place.must(
    ...["init", "--shape", "shape.json", "--output", "model", "--tokenizer", "tokenizer", "--dtype", "f32"],
  );
}

/** A place that has what makeModel makes, gone after the file's last test. */
export function modelPlace(backend?: Backend): Place {
  const place = new Place(backend);
  beforeAll(() => makeModel(place), 60_000);
  afterAll(() => place.close());
  return place;
}

/** Trains lora, in a modelPlace: an adapter of a few steps, with the alpaca template. */
export async function trainTiny(place: Place): Promise<void> {
  await place.must(
    ...["train", "--model", "model", "--dataset", "train.json", "--dtype", "f32", "--batch-size", "4"],
    ...["--max-steps", "2", "--output", "lora", "--prompt-template", "alpaca"],
  );
}

export interface TrainLine {
  step: number;
  epoch: number;
  loss: number;
  grad_norm: number;
  learning_rate: number;
  samples: number;
  tokens: number;
  target_tokens: number;
  seconds: number;
  tokens_per_second: number;
  peak_memory_bytes: number;
  eval_loss?: number;
}

export function metricsOf(place: Place, run: string): TrainLine[] {
  const lines = place.read(run, "metrics.jsonl").trimEnd().split("\n");
  return lines.map((line) => JSON.parse(line) as TrainLine);
}

/** The lines without what differs from run to run. */
export function lastingMetrics(place: Place, run: string): object[] {
  return metricsOf(place, run).map(
    ({ seconds, tokens_per_second, peak_memory_bytes, ...lasting }) => lasting,
  );
}
