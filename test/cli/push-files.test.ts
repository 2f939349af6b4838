// Which folders push takes, and what it says of the others.

import { beforeEach, expect, test } from "bun:test";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pushableFiles } from "../../src/cli/outputs/push-files.ts";
import { RunLock } from "../../src/train/run-lock.ts";
import { rejection } from "../hub/support.ts";
import { scratchFolders } from "../scratch.ts";

const newFolder = scratchFolders();
let folder: string;

function write(name: string, text: string): void {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, name), text);
}

beforeEach(() => {
  folder = newFolder();
  write("adapter_config.json", "{}");
  write("adapter_model.safetensors", "");
  write("metrics.jsonl", "{}");
});

const problem = () => rejection(Promise.try(() => pushableFiles(folder)));

test("none, a file, and one with something else", async () => {
  rmSync(folder, { recursive: true });
  expect(await problem()).toContain("does not exist; expected the folder of a training run or a model");
  writeFileSync(folder, "");
  expect(await problem()).toContain("is a file");
  rmSync(folder);
  write("config.json", "{}");
  expect(await problem()).toContain("holds neither a run nor a model");
});

test("an unfinished run, one that goes on, a model without a shard", async () => {
  rmSync(join(folder, "adapter_config.json"));
  expect(await problem()).toContain("the run has not finished");
  write("adapter_config.json", "{}");
  rmSync(join(folder, "adapter_model.safetensors"));
  expect(await problem()).toContain("the run has not finished");
  const lock = RunLock.acquire(folder);
  expect(await problem()).toContain(String(process.pid));
  lock.release();
  rmSync(join(folder, "adapter_config.json"));
  write("config.json", "{}");
  write("model.safetensors.index.json", '{"weight_map": {"a": "model-00001-of-00001.safetensors"}}');
  expect(await problem()).toContain("names files that are not there: model-00001-of-00001.safetensors");
});
