// The runs of a sweep, one after the other: each is trained, unless it was, then measured, unless it was. Whatever is in the
// folder already is kept, so a sweep that was stopped goes on where it was.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { InterruptedError } from "../../errors.ts";
import { writeTextAtomically } from "../../formats/io.ts";
import type { Device } from "../../native/index.ts";
import {
  loadRunData,
  type RunData,
  type RunReporter,
  type RunRequest,
  splitData,
  trainOn,
} from "../../train/index.ts";
import type { Context } from "../command.ts";
import { progressReporter } from "../progress.ts";
import { measureRun, type Question, questionsOf, type RunMeasures } from "./measure.ts";

/** In a run's folder: it is done, and this was measured. */
const MEASURES_FILE = "sweep_run.json";

export interface PlannedSweepRun {
  /** For lines that say which run it is. */
  label: string;
  request: RunRequest;
}

export interface SweepOptions {
  /** Prompts to answer: how many held-out samples, or these. */
  prompts: number | readonly Question[];
  maxNewTokens: number;
  /** The seed that holds samples out, for all runs the same ones. */
  holdoutSeed: number;
  openDevice: () => Device;
  reporterOf?: (run: PlannedSweepRun) => RunReporter;
}

/** Trains and measures one run after the other; those that are done already are only read. */
export class SweepRunner {
  readonly #options: SweepOptions;
  readonly #context: Context;
  readonly #loaded = new Map<string, Promise<RunData>>();
  #device: Device | null = null;

  constructor(options: SweepOptions, context: Context) {
    this.#options = options;
    this.#context = context;
  }

  /** Data by what it is made of: runs that differ in other options share it. */
  #dataOf(request: RunRequest, reporter: RunReporter): Promise<RunData> {
    const { datasets, evalDatasets, evalSplit, evalSamples, encoding, model } = request;
    const key = JSON.stringify([datasets, evalDatasets, evalSplit, evalSamples, encoding, model.dir]);
    const known = this.#loaded.get(key);
    if (known !== undefined) return known;
    const shared = { ...request, trainer: { ...request.trainer, seed: this.#options.holdoutSeed } };
    const watch = { reporter, signal: this.#context.signal };
    const loading = loadRunData(shared, watch).then((data) => splitData(data, shared, watch));
    this.#loaded.set(key, loading);
    return loading;
  }

  async run(run: PlannedSweepRun): Promise<RunMeasures> {
    const { request, label } = run;
    const settings = this.#fingerprint(request);
    const done = readMeasures(request.output, settings);
    if (done !== null) return done;
    const context = this.#context;
    const reporter = this.#options.reporterOf?.(run) ?? progressReporter(context, label);
    const data = await this.#dataOf(request, reporter);
    this.#device ??= this.#options.openDevice();
    await trainOn(this.#device, data, request, { reporter, signal: context.signal });
    if (context.signal.aborted) throw new InterruptedError(`stopped after ${label} was trained`);
    const measures = await this.measure(run);
    const text = JSON.stringify({ ...measures, settings }, null, 2);
    writeTextAtomically(join(request.output, MEASURES_FILE), `${text}\n`);
    return measures;
  }

  /** Measures a model that is there. */
  async measure({ request, label }: PlannedSweepRun): Promise<RunMeasures> {
    const { held, train } = await this.#dataOf(request, {});
    if (held === null) throw new TypeError("a sweep has held-out data");
    this.#device ??= this.#options.openDevice();
    const { prompts, maxNewTokens } = this.#options;
    const questions = typeof prompts === "number" ? questionsOf(held, prompts, request.model.dir) : prompts;
    const asked = { request, train, held, questions, maxNewTokens, label };
    return await measureRun(this.#device, asked, this.#context);
  }

  /** What a run and its measures were asked for: for other settings they are not done, and training checks the checkpoint. */
  #fingerprint({ output: _output, resume: _resume, record: _record, ...request }: RunRequest): string {
    const { prompts, maxNewTokens } = this.#options;
    const asked =
      typeof prompts === "number" ? prompts : prompts.map(({ text, references }) => [text, references]);
    const hasher = new Bun.CryptoHasher("sha256");
    return hasher.update(JSON.stringify([request, asked, maxNewTokens])).digest("hex");
  }

  close(): void {
    this.#device?.close();
    this.#device = null;
  }
}

/** What was measured of a run of these settings; null where it is not done. */
function readMeasures(output: string, settings: string): RunMeasures | null {
  const path = join(output, MEASURES_FILE);
  if (!existsSync(path)) return null;
  try {
    const { settings: own, ...measures } = JSON.parse(readFileSync(path, "utf8"));
    return own === settings ? measures : null;
  } catch {
    return null;
  }
}
