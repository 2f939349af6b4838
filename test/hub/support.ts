// A fake Hub with a small model on it, and an empty cache to download it into.

import { lstatSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type DownloadReporter,
  type HubOptions,
  obtainModel,
  type Patience,
} from "../../src/formats/hub/index.ts";
import { type FakeFile, FakeHub, lfsFile, noise, smallFile } from "./fake-hub.ts";

export const COMMIT = "0123456789abcdef0123456789abcdef01234567";
export const ID = "org/model";
export const FOLDER = "models--org--model";
export const TOKEN = "hf_secret";

/** Of a model in two shards; beside what a run needs, what it does not. */
export const modelFiles: readonly FakeFile[] = [
  smallFile("config.json", '{"model_type": "llama"}'),
  smallFile("generation_config.json", "{}"),
  smallFile("tokenizer_config.json", '{"bos_token": "<s>"}'),
  lfsFile("tokenizer.json", noise(50_000, 1)),
  smallFile(
    "model.safetensors.index.json",
    JSON.stringify({
      weight_map: { a: "model-00001-of-00002.safetensors", b: "model-00002-of-00002.safetensors" },
    }),
  ),
  lfsFile("model-00001-of-00002.safetensors", noise(700_000, 2)),
  lfsFile("model-00002-of-00002.safetensors", noise(300_000, 3)),
  lfsFile("pytorch_model-00001-of-00001.bin", noise(1000, 4)),
  lfsFile("original/consolidated.00.pth", noise(1000, 5)),
  smallFile("README.md", "# A model"),
];

export const SHARD = modelFiles[5]!;
export const needed = modelFiles.slice(0, 7).map(({ name }) => name);

export const impatient: Patience = {
  ...{ attempts: 3, firstDelay: 5, longestDelay: 2000, silence: 300 },
  ...{ window: 1500, slowest: 1000, answer: 2000 },
};

export interface Place {
  hub: FakeHub;
  cache: string;
  env: Record<string, string>;
  notes: string[];
  options: HubOptions;
  /** Downloads the model. */
  model(): Promise<string>;
  close(): void;
}

export async function makePlace(
  files: readonly FakeFile[] = modelFiles,
  more: { gatedFor?: string; kind?: "dataset" } = {},
): Promise<Place> {
  const root = mkdtempSync(join(tmpdir(), "neftune-hub-"));
  const cache = join(root, "cache");
  const hub = await new FakeHub().open();
  hub.add({ kind: "model", id: ID, commit: COMMIT, files, ...more });
  const env: Record<string, string> = { HOME: root, HF_HUB_CACHE: cache, HF_ENDPOINT: hub.endpoint };
  const notes: string[] = [];
  const reporter: DownloadReporter = {
    onStart: () => {},
    onProgress: () => {},
    onDone: () => {},
    note: (text) => notes.push(text),
  };
  const options = { env, signal: new AbortController().signal, reporter, patience: impatient };
  return {
    hub,
    cache,
    env,
    notes,
    options,
    model: () => obtainModel(ID, "weights", options),
    close() {
      hub.close();
      rmSync(root, { recursive: true, force: true });
    },
  };
}

/** Every path below a folder, with what it is: a link's target, or the bytes of a file. */
export function tree(folder: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const name of readdirSync(folder, { recursive: true, encoding: "utf8" }).sort()) {
    const path = join(folder, name);
    const entry = lstatSync(path);
    if (entry.isSymbolicLink()) found.set(name, `-> ${readlinkSync(path)}`);
    else if (entry.isFile()) found.set(name, readFileSync(path).toString("base64"));
  }
  return found;
}

/** The message of what a promise is rejected with. */
export async function rejection(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error("expected a rejection");
}
