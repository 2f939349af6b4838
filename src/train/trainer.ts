// The training loop. `Trainer` trains; `NoisyTrainer` does the same with NEFTune's noise on the embedding.

import packageJson from "../../package.json" with { type: "json" };
import { type SampleSource, type Samples, samplesOf } from "../data/samples.ts";
import { InterruptedError, NeftuneError } from "../errors.ts";
import { type Marks, type Progress, startProgress } from "./checkpoint.ts";
import { DivergenceWatch, reasonToSkip } from "./divergence.ts";
import { evaluate, eventLoopTurn } from "./evaluate.ts";
import {
  fingerprintDataset,
  fingerprintModel,
  fingerprintStart,
  makeIdentity,
  makeRounding,
} from "./identity.ts";
import { evalLine, type MetricsFile, missingNote, type StepMetrics, stepLine } from "./metrics.ts";
import {
  loraOf,
  type ModelOrigin,
  type TrainableModel,
  type TrainedParameters,
  type TrainedValues,
} from "./model.ts";
import { neftune } from "./noise.ts";
import {
  expectEvaluable,
  learnsNoise,
  optionName,
  resolveTrainerOptions,
  type TrainerOptions,
} from "./options.ts";
import { layOut, SampleOrder, totalSteps } from "./order.ts";
import type { Reporter, RunPlan, TrainResult } from "./reporter.ts";
import { restoreNewest } from "./resume.ts";
import { RunFolder } from "./run-folder.ts";
import {
  savedDtype,
  writeAdapter,
  writeModel,
  writeNoiseScale,
  writeTrainingState,
} from "./saved-weights.ts";
import { makeSchedule, type Schedule } from "./schedule.ts";

export interface TrainerSettings {
  model: TrainableModel;
  dataset: SampleSource;
  evalDataset?: SampleSource;
  options?: Partial<TrainerOptions>;
  /** Folder of the run. */
  output: string;
  /** Go on from the newest checkpoint in `output`, where there is one. */
  resume?: boolean;
  /** The base checkpoint; without it the files of the run name none. */
  origin?: ModelOrigin;
  /** More to write down in config.json: options that others read. */
  record?: Readonly<Record<string, unknown>>;
  /** Texts to keep in the run's folder, by the names of their files. */
  files?: Readonly<Record<string, string>>;
  reporter?: Reporter;
  /** On abort the step under way is finished, a checkpoint saved, and InterruptedError thrown. */
  signal?: AbortSignal;
}

export class Trainer {
  readonly model: TrainableModel;
  readonly options: TrainerOptions;
  readonly #settings: TrainerSettings;
  readonly #parameters: TrainedParameters;
  readonly #samples: Samples;
  readonly #evalSamples: Samples | null;
  readonly #order: SampleOrder;
  readonly #schedule: Schedule;

  /** Throws UsageError for options that make no sense, NeftuneError where there is nothing to train or to train on. */
  constructor(settings: TrainerSettings) {
    const options = resolveTrainerOptions(settings.options);
    if (settings.model.parameters === null) {
      throw new NeftuneError(
        "model",
        'the model was loaded with tune "none"; training needs "lora" or "full"',
      );
    }
    expectEvaluable(options, settings.evalDataset !== undefined);
    const isLearned = settings.model.parameters.part("noise").length > 0;
    if (isLearned !== learnsNoise(options)) {
      const said = isLearned ? "with learnedNoise" : "without learnedNoise";
      throw new NeftuneError(
        "model",
        `the model was loaded ${said}, but neftScale is "${options.neftScale}"`,
      );
    }
    this.model = settings.model;
    this.options = this.resolveNoise(options);
    this.#settings = settings;
    this.#parameters = settings.model.parameters;
    this.#samples = samplesOf(settings.dataset);
    this.#evalSamples = settings.evalDataset === undefined ? null : samplesOf(settings.evalDataset);
    this.#order = new SampleOrder(this.#samples.length, options);
    this.#schedule = makeSchedule(options, totalSteps(this.#order, options.epochs, options.maxSteps));
  }

  /** A plain trainer adds no noise, whatever alpha says. */
  protected resolveNoise(options: TrainerOptions): TrainerOptions {
    return { ...options, alpha: 0 };
  }

  /** Trains to the end, or throws: InterruptedError after saving, NeftuneError for a full disk and its like. */
  async train(): Promise<TrainResult> {
    const run = this.#openRun();
    try {
      while (!this.#isFinished(run.progress)) {
        if (!run.progress.evalPending) this.#log(run, this.#trainStep(run));
        if (run.progress.evalPending) await this.#evaluate(run);
        await this.#saveOrStop(run);
      }
      this.#expectUpdates(run.progress);
      run.watch.expectUsable(run.progress.step);
      run.watch.expectFinite(run.progress.step, this.#parameters, ["values"]);
      this.model.device.expectFilesUnchanged("in place");
      run.folder.expectOurs();
      this.#writeResult(run.folder);
      run.folder.expectOurs();
    } finally {
      run.metrics.close();
      run.folder.close();
    }
    return this.#report(run);
  }

  /** One step: gradients of the mean loss over all its target tokens, clipped, and AdamW's update. */
  #trainStep({ progress, watch }: Run): StepMetrics {
    const start = performance.now();
    const { options } = this;
    const batches = this.#order.step(progress.step).map(({ samples, draws }) => ({
      draws,
      batch: layOut(
        Array.from(samples, (i) => this.#samples.get(i)),
        options.packing,
      ),
    }));
    const targetTokens = sum(batches, ({ batch }) => batch.targets.length);
    const learningRate = this.#schedule.rate(progress.step);

    let loss = 0;
    this.#parameters.zeroGradients();
    for (const { batch, draws } of batches) {
      if (batch.targets.length === 0) continue;
      const losses = this.model.trainBatch(batch, 1 / targetTokens, { draws });
      loss += sum(losses, (value) => value) / targetTokens;
    }
    const gradNorm = targetTokens === 0 ? 0 : this.#parameters.gradientNorm(options.maxGradNorm);
    const skipped = reasonToSkip(targetTokens, loss, gradNorm);

    progress.step++;
    progress.evalPending = this.#isEvalDue(progress.step);
    if (skipped === null) {
      progress.optimizerSteps++;
      progress.loss = loss;
      watch.updated();
      const adamw = {
        learningRate,
        beta1: options.adamBeta1,
        beta2: options.adamBeta2,
        epsilon: options.adamEpsilon,
        weightDecay: options.weightDecay,
        step: progress.optimizerSteps,
      };
      const scaleRate = options.neftScaleLearningRate ?? options.learningRate;
      this.#parameters.adamwStep(adamw, { noise: scaleRate * this.#schedule.factor(progress.step - 1) });
    } else {
      progress.skipped++;
      this.#settings.reporter?.onSkip?.(progress.step, skipped, progress.skipped);
    }
    const tokens = sum(batches, ({ batch }) => batch.tokens);
    const seconds = (performance.now() - start) / 1000;
    return {
      step: progress.step,
      epoch: this.#epoch(progress.step),
      loss: targetTokens > 0 ? finite(loss) : null,
      gradNorm: targetTokens > 0 ? finite(gradNorm) : null,
      learningRate,
      samples: sum(batches, ({ draws }) => draws.length),
      tokens,
      targetTokens,
      seconds,
      tokensPerSecond: tokens / seconds,
      peakMemoryBytes: this.model.device.peakMemory(),
      neftScale: this.#noiseScale(),
      skipped,
    };
  }

  #noiseScale(): StepMetrics["neftScale"] {
    const [scale] = this.#parameters.part("noise");
    if (scale === undefined) return null;
    const values = this.#parameters.read(scale.name);
    const mean = sum(values, (value) => value) / values.length;
    return { mean, min: Math.min(...values), max: Math.max(...values) };
  }

  #log(run: Run, step: StepMetrics): void {
    run.tokens += step.tokens;
    const isLogged = step.skipped !== null || this.#isDue(this.options.loggingSteps, step.step);
    run.folder.expectOurs();
    if (isLogged) run.metrics.append(stepLine(step));
    this.#settings.reporter?.onStep?.(step, run.plan);
    if (step.skipped !== null && step.targetTokens > 0) run.watch.idled(step.step, step.skipped);
  }

  async #evaluate({ progress, metrics, folder }: Run): Promise<void> {
    const { signal, reporter } = this.#settings;
    const samples = this.#evalSamples ?? samplesOf([]);
    try {
      const { loss, perplexity, targetTokens } = await evaluate(this.model, samples, {
        batchSize: this.options.batchSize,
        packing: this.options.packing,
        ...(signal === undefined ? {} : { signal }),
        onProgress: (done) => reporter?.onEvalProgress?.(done, samples.length),
      });
      const epoch = this.#epoch(progress.step);
      progress.evaluation = {
        step: progress.step,
        epoch,
        loss: finite(loss),
        perplexity: finite(perplexity),
        targetTokens,
      };
    } catch (error) {
      // The checkpoint that follows remembers that this evaluation is still to come.
      if (error instanceof InterruptedError) return;
      throw error;
    }
    progress.evalPending = false;
    folder.expectOurs();
    metrics.append(evalLine(progress.evaluation));
    reporter?.onEval?.(progress.evaluation);
  }

  /** Prepares the folder and, to resume, the model. A run that is there is only changed once all was checked. */
  #openRun(): Run {
    const { model, options } = this;
    const { output, resume = false, origin = null } = this.#settings;
    const tune = model.options.tune === "full" ? "full" : "lora";
    const data = fingerprintDataset(this.#samples);
    const evalData = this.#evalSamples === null ? null : fingerprintDataset(this.#evalSamples);
    for (const [name, fingerprint] of [
      ["to train on", data],
      ["to evaluate", evalData],
    ] as const) {
      if (fingerprint?.targetTokens !== 0) continue;
      const message = `none of the ${fingerprint.samples} samples ${name} has a target token; are they cut before the answer?`;
      throw new NeftuneError("data", message);
    }
    const identity = makeIdentity({
      options,
      model,
      schedule: this.#schedule,
      modelFingerprint: fingerprintModel(model, origin),
      startFingerprint: fingerprintStart(model),
      dataset: data,
      evalDataset: evalData,
    });
    const marks = { identity, rounding: makeRounding(options, model.device.info) };
    const folder = RunFolder.open(output, { resume, tune });
    try {
      return this.#enterRun(folder, marks, { dataset_fingerprint: data, eval_dataset_fingerprint: evalData });
    } catch (error) {
      folder.close();
      throw error;
    }
  }

  #enterRun(folder: RunFolder, marks: Marks, fingerprints: Readonly<Record<string, unknown>>): Run {
    const { model, options } = this;
    const { output, record, files, reporter } = this.#settings;
    const { totalSteps, warmupSteps } = this.#schedule;
    const resumed = restoreNewest(folder.checkpoints, marks, totalSteps, model, this.#parameters);
    const progress = { ...(resumed?.progress ?? startProgress) };
    const kebab = Object.fromEntries(Object.entries(options).map(([key, value]) => [optionName(key), value]));
    for (const [name, text] of Object.entries(files ?? {})) folder.writeText(name, text);
    folder.writeRecord({
      ...record,
      ...kebab,
      output,
      neftune_version: packageJson.version,
      bun_version: Bun.version,
      device: model.device.info,
      ...fingerprints,
      total_steps: totalSteps,
    });
    const plan: RunPlan = {
      output: folder.path,
      samples: this.#samples.length,
      evalSamples: this.#evalSamples?.length ?? 0,
      stepsPerEpoch: this.#order.stepsPerEpoch,
      totalSteps,
      warmupSteps,
      startStep: progress.step,
      resumedFrom: resumed?.checkpoint ?? null,
      trainedParameters: sum(this.#parameters.tensors, ({ size }) => size),
      plannedMemoryBytes: model.plan.total,
    };
    reporter?.onPlan?.(plan);
    const metrics = folder.openMetrics(progress);
    const missing = missingNote(metrics);
    for (const note of [...(resumed?.notes ?? []), ...(missing === null ? [] : [missing])]) {
      reporter?.onNote?.(note);
    }
    if (progress.logging.at(-1)?.every !== options.loggingSteps) {
      progress.logging = [...progress.logging, { after: progress.step, every: options.loggingSteps }];
    }
    return {
      folder,
      marks,
      progress,
      plan,
      metrics,
      watch: new DivergenceWatch({
        output,
        learningRate: options.learningRate,
        dtype: model.options.dtype,
        checkpoint: () => folder.checkpoints.all().at(-1) ?? null,
      }),
      savedStep: progress.step,
      start: performance.now(),
      tokens: 0,
    };
  }

  /** Saves when it is time, and when the run was asked to stop: then it throws InterruptedError. */
  async #saveOrStop(run: Run): Promise<void> {
    await eventLoopTurn();
    const { step } = run.progress;
    const stop = this.#settings.signal?.aborted === true && !this.#isFinished(run.progress);
    // Before the first update there is nothing to save but the place, which only a stop needs. Nor is there after idle
    // steps, which may be the first of a divergence: it would take the place of an older, better checkpoint.
    const isUseful = run.progress.optimizerSteps > 0 && (!run.watch.isIdle || this.#isFinished(run.progress));
    const isDue = this.#isDue(this.options.saveSteps, step) && isUseful;
    if (step !== run.savedStep && (stop || isDue)) this.#save(run);
    if (!stop) return;
    const { output } = this.#settings;
    throw new InterruptedError(
      `stopped after step ${step} of ${this.#schedule.totalSteps}; to continue, run the same command with --output ${output} --resume`,
    );
  }

  #save(run: Run): void {
    const { folder, marks, progress, metrics, watch } = run;
    if (this.#isFinished(progress)) watch.expectUsable(progress.step);
    watch.expectFinite(progress.step, this.#parameters, ["values", "m", "v"]);
    this.model.device.expectFilesUnchanged("in place");
    folder.expectOurs();
    metrics.flush();
    const path = folder.checkpoints.save(progress, marks, this.options.saveTotalLimit, (dir) =>
      writeTrainingState(dir, this.model, this.#valuesFor(folder), this.#settings.origin ?? null),
    );
    run.savedStep = progress.step;
    this.#settings.reporter?.onSave?.(progress.step, path);
  }

  #expectUpdates({ optimizerSteps, step }: Progress): void {
    if (optimizerSteps > 0) return;
    throw new NeftuneError(
      "diverged",
      `none of the ${step} steps made an update (metrics.jsonl in ${this.#settings.output} says why), so nothing was ` +
        "learned and nothing is written; check the base model and the data, or try --dtype f32",
    );
  }

  /** The run's product: the adapter, or with tune "full" the model. */
  #writeResult(folder: RunFolder): void {
    const { path: output } = folder;
    const values = this.#valuesFor(folder);
    const origin = this.#settings.origin ?? null;
    const lora = loraOf(this.model);
    if (lora === null)
      writeModel(output, this.model, values, origin, savedDtype(this.options, this.model.config));
    else writeAdapter(output, values, lora, origin?.name ?? null);
    writeNoiseScale(output, values);
  }

  /** The trained values, to be written into the folder: it is looked for before each tensor, as writing may take minutes. */
  #valuesFor(folder: RunFolder): TrainedValues {
    const parameters = this.#parameters;
    const read: TrainedValues["read"] = (...which) => {
      folder.expectOurs();
      return parameters.read(...which);
    };
    return { tensors: parameters.tensors, part: (name) => parameters.part(name), read };
  }

  #epoch(step: number): number {
    return step / this.#order.stepsPerEpoch;
  }

  /** Every so many steps, and after the last. */
  #isDue(interval: number, step: number): boolean {
    return step % interval === 0 || step === this.#schedule.totalSteps;
  }

  #isEvalDue(step: number): boolean {
    return (
      this.#evalSamples !== null && this.#isDue(this.options.evalSteps ?? this.#order.stepsPerEpoch, step)
    );
  }

  #isFinished({ step, evalPending }: Progress): boolean {
    return step === this.#schedule.totalSteps && !evalPending;
  }

  #report({ folder, progress, start, tokens }: Run): TrainResult {
    const { step: steps, skipped, loss, evaluation } = progress;
    const seconds = (performance.now() - start) / 1000;
    const result = { output: folder.path, steps, skipped, loss, evaluation, seconds, tokens };
    this.#settings.reporter?.onDone?.(result);
    return result;
  }
}

interface Run {
  folder: RunFolder;
  marks: Marks;
  progress: Progress;
  plan: RunPlan;
  metrics: MetricsFile;
  watch: DivergenceWatch;
  /** Of the newest checkpoint; 0: none. */
  savedStep: number;
  /** When this session began, and the tokens it trained on. */
  start: number;
  tokens: number;
}

/** Registers NEFTune's hook when train() starts and removes it on every way out. */
export class NoisyTrainer extends Trainer {
  protected override resolveNoise(options: TrainerOptions): TrainerOptions {
    return options.neftNoise === "none" ? { ...options, alpha: 0 } : options;
  }

  override async train(): Promise<TrainResult> {
    const { alpha, neftNoise, neftLength, seed } = this.options;
    const hook = neftune({ alpha, noise: neftNoise, length: neftLength, seed });
    const removeHook = hook === null ? () => {} : this.model.embedTokens.registerForwardHook(hook);
    try {
      return await super.train();
    } finally {
      removeHook();
    }
  }
}

/** JSON has no other numbers, and a checkpoint keeps these. */
function finite(value: number): number | null {
  return Number.isFinite(value) ? value : null;
}

function sum<T>(items: ArrayLike<T> & Iterable<T>, value: (item: T) => number): number {
  let total = 0;
  for (const item of items) total += value(item);
  return total;
}
