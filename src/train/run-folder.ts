// OUTPUT: the folder of a run and who may write to it.
//
//     config.json (run.json with tune "full", where config.json is the model's)   every option as resolved
//     metrics.jsonl, checkpoints/
//     adapter_config.json, adapter_model.safetensors      or the whole model

import { existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { UsageError } from "../errors.ts";
import { expectNoDanglingLink, ioError, writeTextAtomically } from "../formats/io.ts";
import { readJsonObject } from "../formats/json-file.ts";
import { CheckpointFolder } from "./checkpoint.ts";
import { MetricsFile, type MetricsPosition } from "./metrics.ts";
import { RunLock } from "./run-lock.ts";

const METRICS_FILE = "metrics.jsonl";
const CHECKPOINTS = "checkpoints";
/** What a killed writer leaves; see writeFileAtomically and RunLock. */
const LEFTOVER = /^\..+\.\d+\.(partial|new)$/;

/** Files that say that a folder is taken, by a run or by a model. */
const TAKEN =
  /^(config\.json|run\.json|metrics\.jsonl|checkpoints|tokenizer.*|adapter_.*|.*\.safetensors(\.index\.json)?)$/;

export interface RunAccess {
  resume: boolean;
  tune: "lora" | "full";
}

export class RunFolder {
  readonly path: string;
  readonly checkpoints: CheckpointFolder;
  readonly #recordFile: string;
  #lock: RunLock | null = null;

  private constructor(path: string, recordFile: string) {
    this.path = path;
    this.checkpoints = new CheckpointFolder(join(path, CHECKPOINTS));
    this.#recordFile = recordFile;
  }

  /**
   * Makes the folder and locks it until close(). With `resume` it may hold a run of this kind, whose leftovers are cleaned away; otherwise, or
   * where it holds anything else of note, throws UsageError and touches nothing. Where another process writes to it,
   * throws NeftuneError (code "busy").
   */
  static open(path: string, access: RunAccess): RunFolder {
    RunFolder.#checked(path, access);
    expectNoDanglingLink(path);
    try {
      mkdirSync(path, { recursive: true });
    } catch (error) {
      throw ioError(path, "used as --output", error);
    }
    const lock = RunLock.acquire(path);
    try {
      // Another process may have made a run there just before the lock was ours.
      const { folder, names } = RunFolder.#checked(path, access);
      for (const name of names) if (LEFTOVER.test(name)) rmSync(join(path, name), { force: true });
      folder.checkpoints.clean();
      folder.#lock = lock;
      return folder;
    } catch (error) {
      lock.release();
      throw ioError(path, "used as --output", error);
    }
  }

  /** To call before every write. Throws NeftuneError (code "moved") where the folder was moved, removed or replaced. */
  expectOurs(): void {
    this.#lock?.expectHeld();
  }

  /** Lets other processes write to the folder. */
  close(): void {
    this.#lock?.release();
    this.#lock = null;
  }

  /** What `open` would throw, without making anything. Returns the record of the run to resume, or null where none is. */
  static check(path: string, access: RunAccess): ReadonlyMap<string, unknown> | null {
    const { folder, names } = RunFolder.#checked(path, access);
    expectNoDanglingLink(path);
    RunLock.expectFree(path);
    return names.includes(folder.#recordFile) ? folder.#readRecord() : null;
  }

  static #checked(path: string, { resume, tune }: RunAccess): { folder: RunFolder; names: string[] } {
    const folder = new RunFolder(path, tune === "full" ? "run.json" : "config.json");
    try {
      const names = existsSync(path) ? readdirSync(path) : [];
      folder.#expectFree(names, resume);
      return { folder, names };
    } catch (error) {
      throw ioError(path, "used as --output", error);
    }
  }

  #expectFree(names: readonly string[], resume: boolean): void {
    const taken = names.filter((name) => TAKEN.test(name));
    if (taken.length === 0) return;
    const isRun = taken.includes(this.#recordFile) && this.#holdsRecord();
    if (isRun && resume) return;
    const what = isRun
      ? "holds another run"
      : `holds files of another kind of run or of a model (${taken.slice(0, 3).join(", ")})`;
    const remedy = isRun ? "give another folder, or --resume to continue that run" : "give another folder";
    throw new UsageError(`--output ${this.path} ${what}; ${remedy}`);
  }

  #holdsRecord(): boolean {
    return this.#readRecord().has("neftune_version");
  }

  #readRecord(): ReadonlyMap<string, unknown> {
    return readJsonObject(join(this.path, this.#recordFile));
  }

  /** Writes every option as resolved. */
  writeRecord(record: Readonly<Record<string, unknown>>): void {
    this.expectOurs();
    writeTextAtomically(join(this.path, this.#recordFile), `${JSON.stringify(record, null, 2)}\n`);
  }

  /** Keeps a text in a file of the folder. */
  writeText(name: string, text: string): void {
    this.expectOurs();
    writeTextAtomically(join(this.path, name), text);
  }

  openMetrics(position: MetricsPosition): MetricsFile {
    return MetricsFile.open(join(this.path, METRICS_FILE), position);
  }
}
