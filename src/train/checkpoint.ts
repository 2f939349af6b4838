// checkpoints/step-00000500/: all that a run needs to go on. A folder is filled under another name and renamed when
// its bytes have reached the disk, so one with this name is whole; it is renamed away before it is removed.

import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { FormatError, NeftuneError } from "../errors.ts";
import { flushFolder, ioError, writeTextAtomically } from "../formats/io.ts";
import { readJsonObject } from "../formats/json-file.ts";
import { type BestEvaluation, type Judgement, noJudgement } from "./best.ts";
import type { Identity } from "./identity.ts";
import type { EvalMetrics, LoggingSpan } from "./metrics.ts";

const PROGRESS_FILE = "progress.json";
const FORMAT_VERSION = 1;
const WHOLE = /^step-(\d{8,})$/;
const LEFTOVER = /^\.step-\d{8,}\.(partial|removed)$/;

/** How far a run is. */
export interface Progress {
  /** Steps done. */
  step: number;
  /** Updates made: what AdamW's bias correction counts. */
  optimizerSteps: number;
  /** Steps without an update. */
  skipped: number;
  /** Of the last step that had one. */
  loss: number | null;
  /** The latest evaluation. */
  evaluation: EvalMetrics | null;
  /** The evaluation that belongs after `step` was cut short by an interruption. */
  evalPending: boolean;
  /** Which steps have a line in metrics.jsonl. */
  logging: readonly LoggingSpan[];
  judgement: Judgement;
}

/** Whose checkpoint it is. */
export interface Marks {
  identity: Identity;
  /** What may differ on --resume, yet changes the last bits. */
  rounding: Identity;
}

export const startProgress: Readonly<Progress> = {
  step: 0,
  optimizerSteps: 0,
  skipped: 0,
  loss: null,
  evaluation: null,
  evalPending: false,
  logging: [],
  judgement: noJudgement,
};

export class CheckpointFolder {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  /** Removes what a killed run left half written or half removed. */
  clean(): void {
    for (const name of this.#list()) if (LEFTOVER.test(name)) remove(join(this.path, name));
  }

  /** Paths of the checkpoints, oldest first. */
  all(): string[] {
    const steps = this.#list().flatMap((name) => (WHOLE.test(name) ? [Number(WHOLE.exec(name)![1])] : []));
    return steps.sort((a, b) => a - b).map((step) => this.pathOf(step));
  }

  /** Takes a damaged one out of the way of those to come, and keeps it for a person to look at. Returns its new path. */
  setAside(path: string): string {
    const aside = join(dirname(path), `damaged-${basename(path)}`);
    try {
      rmSync(aside, { recursive: true, force: true });
      renameSync(path, aside);
    } catch (error) {
      throw ioError(path, "renamed", error);
    }
    return aside;
  }

  /**
   * Saves a checkpoint; `writeState` fills the folder it is given. Then removes the oldest down to `limit`, but never
   * the one of step `kept`. Returns its path. On an error (a full disk) nothing of it stays and the earlier ones are as they were.
   */
  save(
    progress: Progress,
    marks: Marks,
    { limit, kept = null }: { limit: number; kept?: number | null },
    writeState: (dir: string) => void,
  ): string {
    const path = this.pathOf(progress.step);
    const partial = this.#aside(path, "partial");
    try {
      rmSync(partial, { recursive: true, force: true });
      mkdirSync(partial, { recursive: true });
      writeState(partial);
      writeProgress(join(partial, PROGRESS_FILE), progress, marks);
      renameSync(partial, path);
      flushFolder(this.path);
    } catch (error) {
      rmSync(partial, { recursive: true, force: true });
      throw saveError(path, error);
    }
    const best = kept === null ? null : this.pathOf(kept);
    for (const old of this.all().slice(0, -limit)) if (old !== best) this.#discard(old);
    return path;
  }

  #discard(path: string): void {
    const aside = this.#aside(path, "removed");
    try {
      renameSync(path, aside);
    } catch (error) {
      throw ioError(path, "removed", error);
    }
    remove(aside);
  }

  /** Where the checkpoint of a step is, or would be. */
  pathOf(step: number): string {
    return join(this.path, `step-${String(step).padStart(8, "0")}`);
  }

  #aside(path: string, why: "partial" | "removed"): string {
    return join(dirname(path), `.${basename(path)}.${why}`);
  }

  #list(): string[] {
    try {
      return existsSync(this.path) ? readdirSync(this.path) : [];
    } catch (error) {
      throw ioError(this.path, "read", error);
    }
  }
}

function saveError(path: string, error: unknown): unknown {
  const known = ioError(path, "written", error);
  if (!(known instanceof NeftuneError)) return known;
  const rest =
    "This checkpoint was not saved; earlier ones are intact, and --resume continues from the newest";
  return new NeftuneError(known.code, `${known.message}. ${rest}`, { cause: known });
}

function remove(path: string): void {
  try {
    rmSync(path, { recursive: true, force: true });
  } catch (error) {
    throw ioError(path, "removed", error);
  }
}

function writeProgress(path: string, progress: Progress, marks: Marks): void {
  const { evaluation, ...rest } = progress;
  const json = { format_version: FORMAT_VERSION, ...rest, evaluation, ...marks };
  writeTextAtomically(path, `${JSON.stringify(json, null, 2)}\n`);
}

/** Reads how far a checkpoint's run was, and whose it is. Throws FormatError. */
export function readProgress(checkpoint: string): { progress: Progress } & Marks {
  const path = join(checkpoint, PROGRESS_FILE);
  const fields = readJsonObject(path);
  const version = fields.get("format_version");
  if (version !== FORMAT_VERSION) {
    throw new FormatError(
      path,
      `format_version is ${JSON.stringify(toPlain(version ?? null))}; this version of neftune reads ${FORMAT_VERSION}`,
    );
  }
  const plain = <T>(name: string, accepts: (value: unknown) => boolean): T => {
    const value = fields.get(name);
    const object = toPlain(value);
    if (!accepts(object))
      throw new FormatError(path, `${name} is ${JSON.stringify(object)}; the file was changed`);
    return object as T;
  };
  const isCount = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0;
  const isSpan = (value: unknown) =>
    isObject(value) &&
    isCount((value as LoggingSpan).after) &&
    isCount((value as LoggingSpan).every) &&
    (value as LoggingSpan).every > 0;
  const isObject = (value: unknown) => typeof value === "object" && value !== null && !Array.isArray(value);
  const isBest = (value: unknown) =>
    value === null ||
    (isObject(value) &&
      isCount((value as BestEvaluation).step) &&
      Number.isFinite((value as BestEvaluation).value));
  const isJudgement = (value: unknown) =>
    isObject(value) && isBest((value as Judgement).best) && isCount((value as Judgement).waited);
  const progress: Progress = {
    step: plain("step", isCount),
    optimizerSteps: plain("optimizerSteps", isCount),
    skipped: plain("skipped", isCount),
    loss: plain("loss", (value) => value === null || typeof value === "number"),
    evaluation: plain("evaluation", (value) => value === null || isObject(value)),
    evalPending: plain("evalPending", (value) => typeof value === "boolean"),
    logging: plain("logging", (value) => Array.isArray(value) && value.every(isSpan)),
    // Checkpoints of older versions have none.
    judgement: fields.has("judgement") ? plain("judgement", isJudgement) : noJudgement,
  };
  return { progress, identity: plain("identity", isObject), rounding: plain("rounding", isObject) };
}

/** Maps, which readJsonObject makes of objects, as objects again. */
function toPlain(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(toPlain);
  if (!(value instanceof Map)) return value;
  return Object.fromEntries([...value].map(([key, field]) => [key, toPlain(field)]));
}
