// The base model of an adapter: what --model RUN loads, and notes when an adapter is used with other weights.

import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { NeftuneError, UsageError } from "../../errors.ts";
import { INDEX_FILE, SINGLE_FILE } from "../../formats/checkpoint.ts";
import { parseRepoName } from "../../formats/hub-cache.ts";
import { readJsonObject } from "../../formats/json-file.ts";
import { CONFIG_FILE } from "../../formats/model-folder.ts";
import { ADAPTER_CONFIG_FILE, readAdapterConfig } from "../../formats/peft.ts";
import { baseFingerprint, type FolderSource } from "../../model/index.ts";
import type { Context } from "../command.ts";

/** Where a run's config.json keeps the result of baseFingerprint. */
export const BASE_FINGERPRINT = "base_fingerprint";

interface ModelValues {
  model?: string | undefined;
  adapter?: string | undefined;
}

const isFolder = (path: string) => statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;

/** True for the folder of a PEFT adapter, such as a LoRA run's, that holds no model. */
const isAdapterFolder = (path: string) =>
  existsSync(join(path, ADAPTER_CONFIG_FILE)) &&
  !existsSync(join(path, SINGLE_FILE)) &&
  !existsSync(join(path, INDEX_FILE));

/**
 * The options as they are, or, where --model is the folder of an adapter, with the adapter's base as --model and the
 * folder as --adapter. Throws NeftuneError where no base can be found, UsageError where another --adapter is given.
 */
export function withBase<T extends ModelValues>(values: T, context: Pick<Context, "note">): T {
  const { model: run, adapter } = values;
  if (run === undefined || !isAdapterFolder(run)) return values;
  if (adapter !== undefined && join(adapter, ".") !== join(run, ".")) {
    throw new UsageError(
      `--model ${run} is an adapter, too; give its base as --model, and one of the two as --adapter`,
    );
  }
  const model = baseOf(run);
  context.note(`${run} is an adapter; loading it with its base model ${model}`);
  return { ...values, model, adapter: run };
}

/** What to give as --model for the base of an adapter: a folder or a Hub id. */
function baseOf(run: string): string {
  const { baseModel, revision = null } = readAdapterConfig(run);
  const remedy = `give the base as --model and ${run} as --adapter`;
  if (baseModel === null) {
    throw new NeftuneError(
      "not_found",
      `--model ${run} is an adapter, and its ${ADAPTER_CONFIG_FILE} names no base; ${remedy}`,
    );
  }
  const folder = [baseModel, recordOf(run)?.get("model_folder"), join(run, baseModel)].find(
    (path): path is string => typeof path === "string" && isFolder(path),
  );
  if (folder !== undefined && isAdapterFolder(folder)) {
    throw new NeftuneError("not_found", `--model ${run}: its base ${folder} is an adapter, too; ${remedy}`);
  }
  if (folder !== undefined) return folder;
  const repo = parseRepoName(baseModel);
  if (repo !== null && /^[^./][^/]*\/[^/]+$/.test(baseModel))
    return revision === null ? baseModel : `${baseModel}@${revision}`;
  throw new NeftuneError(
    "not_found",
    `--model ${run} is an adapter, but its base model ${baseModel} is not here; ${remedy}`,
  );
}

/** The record of the run that trained an adapter; null: another program trained it. */
function recordOf(adapter: string): ReadonlyMap<string, unknown> | null {
  const path = join(adapter, CONFIG_FILE);
  if (!existsSync(path)) return null;
  const record = readJsonObject(path);
  return record.has("neftune_version") ? record : null;
}

export interface TrainedOn {
  isQuantized: boolean;
  double: boolean;
}

/** How a run of neftune quantized the weights that its adapter was trained on; null: the adapter is another's. */
export function trainedQuantization(adapter: string): TrainedOn | null {
  const record = recordOf(adapter);
  if (record === null) return null;
  const isQuantized = record.get("quantization") === "nf4";
  return { isQuantized, double: record.get("double-quantization") !== false };
}

/**
 * Says where an adapter is put on another model than it was trained on, by the fingerprint in its run's config.json or
 * else by name. `name` is the model's.
 */
export function noteOtherBase(
  adapter: string,
  source: FolderSource,
  name: string,
  context: Pick<Context, "note">,
): void {
  const fingerprint = recordOf(adapter)?.get(BASE_FINGERPRINT);
  const { baseModel } = readAdapterConfig(adapter);
  if (typeof fingerprint === "string") {
    if (fingerprint === baseFingerprint(source)) return;
    const trained = baseModel === null ? "" : ` (${baseModel})`;
    context.note(
      `warning: ${adapter} was trained on another model${trained} than ${name}: their embeddings or configs differ`,
    );
    return;
  }
  if (baseModel === null || lastPart(baseModel) === lastPart(name)) return;
  context.note(`note: ${adapter} names ${baseModel} as its base, which may not be ${name}`);
}

const lastPart = (name: string) =>
  name
    .replace(/@.*$/, "")
    .replace(/\/+$/, "")
    .replace(/\/snapshots\/[0-9a-f]+$/, "")
    .split(/\/|--/)
    .at(-1)!
    .toLowerCase();

/** Notes an adapter trained on 4-bit weights that is used with plain ones, or the other way round. */
export function noteOtherPrecision(
  adapter: string,
  isQuantized: boolean,
  context: Pick<Context, "note">,
): void {
  const trained = trainedQuantization(adapter);
  if (trained === null || trained.isQuantized === isQuantized) return;
  if (!trained.isQuantized) {
    context.note(`note: ${adapter} was trained on weights that were not quantized; here they are in NF4`);
    return;
  }
  const flags = `--quantization nf4${trained.double ? "" : " --double-quantization off"}`;
  context.note(`note: ${adapter} was trained on weights in NF4; ${flags} loads those`);
}
