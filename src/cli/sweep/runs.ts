// The runs of a sweep, one after the other: each is trained, unless it was, then measured, unless it was. Whatever is in the
// folder already is kept, so a sweep that was stopped goes on where it was.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { contentHashOf } from "../../data/samples.ts";
import { InterruptedError } from "../../errors.ts";
import { writeTextAtomically } from "../../formats/io.ts";
import { readConfig } from "../../model/index.ts";
import type { Device } from "../../native/index.ts";
import {
  asBegun,
  DivergedError,
  fingerprintModel,
  loadRunData,
  type RunData,
  type RunReporter,
  type RunRequest,
  splitData,
  trainOn,
} from "../../train/index.ts";
import type { Context } from "../command.ts";
import { measureRun, type Question, questionsOf, type RunMeasures } from "./measure.ts";

/** In a run's folder: it is done, and this was measured. */
const MEASURES_FILE = "sweep_run.json";

export interface PlannedSweepRun {
  /** For lines that say which run it is. */
  label: string;
  request: RunRequest;
}

export interface SweepOptions {
  /** Prompts to answer: how many held-out samples, or those that a run of this request is asked. */
  prompts: number | ((request: RunRequest) => Promise<readonly Question[]>);
  maxNewTokens: number;
  /** The seed that holds samples out, for all runs the same ones. */
  holdoutSeed: number;
  openDevice: () => Device;
}

/** Trains and measures one run after the other; those that are done already are only read. */
export class SweepRunner {
  readonly #options: SweepOptions;
  readonly #context: Context;
  readonly #loaded = new Map<string, Promise<RunData>>();
  readonly #questions = new Map<string, Promise<readonly Question[]>>();
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

  /** Throws DivergedError for a run that has no finite loss to compare, InterruptedError. */
  async run(run: PlannedSweepRun, reporter: RunReporter = {}): Promise<RunMeasures> {
    const { request, label } = run;
    const context = this.#context;
    const data = await this.#dataOf(request, reporter);
    const settings = await this.#fingerprint(request, data);
    const done = readMeasures(request.output, settings);
    if (done !== null) return expectFinite(done);
    this.#device ??= this.#options.openDevice();
    await trainOn(this.#device, data, asBegun(request), { reporter, signal: context.signal });
    if (context.signal.aborted) throw new InterruptedError(`stopped after ${label} was trained`);
    const measures = await this.measure(run);
    const text = JSON.stringify({ ...measures, settings }, null, 2);
    writeTextAtomically(join(request.output, MEASURES_FILE), `${text}\n`);
    return expectFinite(measures);
  }

  /** Measures a model that is there. */
  async measure({ request, label }: PlannedSweepRun): Promise<RunMeasures> {
    const { held, train } = await this.#dataOf(request, {});
    if (held === null) throw new TypeError("a sweep has held-out data");
    this.#device ??= this.#options.openDevice();
    const { prompts, maxNewTokens } = this.#options;
    const questions =
      typeof prompts === "number"
        ? questionsOf(held, prompts, request.model.dir)
        : await this.#asked(prompts, request);
    const asked = { request, train, held, questions, maxNewTokens, label };
    return await measureRun(this.#device, asked, this.#context);
  }

  /** Prompts by what their text and ids follow from. */
  #asked(
    read: (request: RunRequest) => Promise<readonly Question[]>,
    request: RunRequest,
  ): Promise<readonly Question[]> {
    const key = JSON.stringify([request.encoding, request.model.dir]);
    const known = this.#questions.get(key);
    if (known !== undefined) return known;
    const reading = read(request);
    this.#questions.set(key, reading);
    return reading;
  }

  /**
   * What a run and its measures were asked for, data, prompts and model by what they hold: for another they are not done,
   * and training checks the checkpoint.
   */
  async #fingerprint(request: RunRequest, { train, held }: RunData): Promise<string> {
    const { output: _output, resume: _resume, record: _record, ...asked } = request;
    const { prompts, maxNewTokens } = this.#options;
    const questions = typeof prompts === "number" ? prompts : await this.#asked(prompts, request);
    const hasher = new Bun.CryptoHasher("sha256");
    const parts = [
      ...[asked, maxNewTokens, fingerprintModel({ config: readConfig(request.model.dir) }, request.model)],
      ...[contentHashOf(train), held === null ? null : contentHashOf(held)],
      typeof questions === "number"
        ? questions
        : questions.map(({ ids, text, references }) => [[...ids], text, references]),
    ];
    return hasher.update(JSON.stringify(parts)).digest("hex");
  }

  close(): void {
    this.#device?.close();
    this.#device = null;
  }
}

/** What the last updates broke shows in no step's loss. A file has null for what is not finite. */
function expectFinite(measures: RunMeasures): RunMeasures {
  if (Number.isFinite(measures.held_out_loss)) return measures;
  throw new DivergedError("diverged: the held-out loss is not finite", "; lower --learning-rate");
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
