// A command's model, looked at before any data: config, tensor names and shapes, adapter. What the cache lacks of a
// model on the Hub is downloaded later, when the data has been found.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { NeftuneError } from "../../errors.ts";
import { missingModelFiles } from "../../formats/hub/index.ts";
import { readStart } from "../../formats/io.ts";
import { expectNoLfsPointer } from "../../formats/lfs.ts";
import { openAdapter } from "../../formats/peft.ts";
import {
  adapterLoraOptions,
  checkpointSource,
  expectAdapter,
  type FolderSource,
  readConfig,
} from "../../model/index.ts";
import type { Context } from "../command.ts";
import { noteOtherBase, noteOtherPrecision } from "./adapter-base.ts";
import { type LocatedModel, locateModel } from "./locate.ts";
import { expectModel } from "./model-data.ts";

const TOKENIZER_FILE = "tokenizer.json";

interface ModelValues {
  model: string | undefined;
  adapter?: string | undefined;
  /** Absent: the command decides how to load the weights. */
  quantization?: "none" | "nf4";
}

export interface CheckedModel extends LocatedModel {
  /** Its weights have been checked; false: they are still on the Hub. */
  isWhole: boolean;
}

/** Finds the model of --model and checks what of it is here, and its --adapter. Throws NeftuneError, UsageError. */
export async function findModel(
  values: ModelValues,
  command: string,
  context: Context,
): Promise<CheckedModel> {
  const name = expectModel(values.model, command);
  const { adapter } = values;
  if (adapter !== undefined && !existsSync(adapter))
    throw new NeftuneError("not_found", `--adapter ${adapter}: no such folder`);
  const located = await locateModel(name, "text", context);
  const config = readConfig(located.path);
  expectTokenizer(located.path);
  if (adapter !== undefined) adapterLoraOptions(adapter, openAdapter(adapter).config, config);
  const isWhole = located.path === name || missingModelFiles(located.path, "weights").length === 0;
  if (isWhole) checkWeights(located, values, context);
  return { ...located, isWhole };
}

/** Downloads what findModel found missing, and checks it. */
export async function completeModel(
  found: CheckedModel,
  values: ModelValues,
  context: Context,
): Promise<CheckedModel> {
  if (found.isWhole) return found;
  const located = await locateModel(expectModel(values.model, "this"), "weights", context);
  checkWeights(located, values, context);
  return { ...located, isWhole: true };
}

/** Rows of ids do without a tokenizer; one that is there is more than a pointer to it. */
function expectTokenizer(dir: string): void {
  const path = join(dir, TOKENIZER_FILE);
  if (existsSync(path)) expectNoLfsPointer(path, readStart(path, 64));
}

/** Reads headers only, but for a little of the embedding where there is an adapter. */
function checkWeights(
  { path, name }: LocatedModel,
  { adapter, quantization }: ModelValues,
  context: Context,
): void {
  const source: FolderSource = checkpointSource(path);
  if (adapter === undefined) return;
  expectAdapter(openAdapter(adapter), source.config);
  noteOtherBase(adapter, source, name, context);
  if (quantization === undefined) return;
  noteOtherPrecision(adapter, source.isQuantized || quantization === "nf4", context);
}
