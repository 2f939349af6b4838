// Which files of a run's or a model's folder go to the Hub.

import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { FormatError, NeftuneError, UsageError } from "../../errors.ts";
import { INDEX_FILE, SINGLE_FILE, shardsOf } from "../../formats/checkpoint.ts";
import { modelTextFiles } from "../../formats/hub/index.ts";
import { COMPANIONS } from "../../formats/model-folder.ts";
import { ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE } from "../../formats/peft.ts";
import { RunLock } from "../../train/run-lock.ts";
import { CARD_FILE, REPORT_FILE } from "../run/files.ts";

/** Beside weights, configs and tokenizer: what explains the model, and what neftune reads to use it as it was trained. */
const OTHERS: readonly string[] = [
  CARD_FILE,
  REPORT_FILE,
  "run.json",
  "neft_scale.safetensors",
  "prompt_template.jinja",
];
const LICENSE = /^(?:LICENSE|NOTICE)(?:\.\w+)?$/;
/** What a run writes before it has a result. */
const RUN_MARKS: readonly string[] = ["metrics.jsonl", "checkpoints"];

const isFile = (path: string) => statSync(path, { throwIfNoEntry: false })?.isFile() === true;

export interface Pushable {
  kind: "adapter" | "model";
  /** Paths within the folder, in order. */
  names: string[];
}

/**
 * The files of a finished run, an adapter or a model. Throws UsageError where the folder is none of them, NeftuneError for
 * a run that goes on or has no result, FormatError for a model that lacks shards.
 */
export function pushableFiles(folder: string): Pushable {
  if (statSync(folder, { throwIfNoEntry: false })?.isDirectory() !== true) {
    const what = existsSync(folder) ? "is a file" : "does not exist";
    throw new UsageError(`${folder} ${what}; expected the folder of a training run or a model`);
  }
  RunLock.expectFree(folder);
  const names = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) =>
    isFile(join(folder, name)),
  );
  const kind = names.includes(ADAPTER_CONFIG_FILE) ? "adapter" : "model";
  const weights = kind === "adapter" ? adapterFiles(names) : modelFiles(folder, names);
  if (weights === null) throw noResult(folder, names);
  const { first, last } = modelTextFiles(names);
  const listed = new Set([...weights, ...first, ...last, ...COMPANIONS, ...OTHERS]);
  return { kind, names: names.filter((name) => listed.has(name) || LICENSE.test(name)).sort() };
}

const adapterFiles = (names: readonly string[]) =>
  names.includes(ADAPTER_WEIGHTS_FILE) ? [ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE] : null;

/** Null where there are no weights. */
function modelFiles(folder: string, names: readonly string[]): string[] | null {
  if (!names.includes("config.json")) return null;
  if (names.includes(SINGLE_FILE)) return [SINGLE_FILE];
  if (!names.includes(INDEX_FILE)) return null;
  const shards = shardsOf(folder);
  const missing = shards.filter((name) => !names.includes(name));
  if (missing.length === 0) return [INDEX_FILE, ...shards];
  throw new FormatError(
    join(folder, INDEX_FILE),
    `names files that are not there: ${missing.slice(0, 3).join(", ")}; the model is not complete`,
  );
}

function noResult(folder: string, names: readonly string[]): NeftuneError {
  const isRun = RUN_MARKS.some((mark) => names.some((name) => name === mark || name.startsWith(`${mark}/`)));
  if (isRun) {
    return new NeftuneError(
      "unfinished",
      `${folder}: the run has not finished, so it has no adapter or model yet; continue it with --resume, or push the folder of one of its checkpoints`,
    );
  }
  return new UsageError(
    `${folder} holds neither a run nor a model; expected ${ADAPTER_CONFIG_FILE} and ${ADAPTER_WEIGHTS_FILE}, or config.json and ${SINGLE_FILE}`,
  );
}
