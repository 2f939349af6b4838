// A whole run small enough for a test: a tiny model with a tokenizer, and six rows.

import { afterAll } from "bun:test";
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Device } from "../../src/native/index.ts";
import type { RunRequest } from "../../src/train/index.ts";
import { llamaTokenizerJson } from "../data/tiny-tokenizer.ts";
import { folder } from "../golden/support.ts";
import { scratchFolder } from "../scratch.ts";

/** Makes the run's files in a folder of its own, with the cache of tokenized data; removed after the file's tests. */
export function makeTinyRun() {
  const root = scratchFolder();
  const cacheHome = process.env.XDG_CACHE_HOME;
  process.env.XDG_CACHE_HOME = join(root, "cache");
  afterAll(() => {
    if (cacheHome === undefined) delete process.env.XDG_CACHE_HOME;
    else process.env.XDG_CACHE_HOME = cacheHome;
  });
  const model = mkdtempSync(join(root, "model-"));
  const source = join(folder, "models", "tiny-mha-f32");
  for (const name of readdirSync(source)) copyFileSync(join(source, name), join(model, name));
  writeFileSync(join(model, "tokenizer.json"), JSON.stringify(llamaTokenizerJson()));

  /** A data set of these rows. */
  const dataOf = (name: string, rows: readonly object[]) => {
    const path = join(root, `${name}.json`);
    writeFileSync(path, JSON.stringify(rows));
    return [{ name: path, files: [path], weight: 1 }];
  };
  const rows = Array.from({ length: 6 }, (_, i) => ({ prompt: `hello ${i}`, completion: " world" }));
  const datasets = dataOf("rows", rows);
  const template = join(root, "dated.jinja");
  writeFileSync(
    template,
    "{{ strftime_now('%d %b') }} {{ messages[0]['content'] }}{{ messages[1]['content'] }}",
  );
  const request = (output: string, changes: Partial<RunRequest> = {}): RunRequest => ({
    model: { dir: model, name: "tiny" },
    datasets,
    encoding: { template, maxLength: 64 },
    tune: "lora",
    dtype: "f32",
    recompute: "none",
    lora: { r: 2, alpha: 2, dropout: 0, targetModules: ["q_proj"], useRslora: false },
    trainer: { maxSteps: 2, batchSize: 2, saveSteps: 1 },
    output: join(root, output),
    ...changes,
  });
  /** What a run wrote down of itself. */
  const recorded = (output: string) =>
    JSON.parse(readFileSync(join(root, output, "config.json"), "utf8")) as {
      "template-date": string;
      dataset_fingerprint: { sha256: string };
    };
  return { root, rows, datasets, dataOf, request, recorded };
}

export const openDevice = () => Device.open({ threads: 1 });
