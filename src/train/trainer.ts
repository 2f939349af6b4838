// The training loop. `Trainer` trains; `NoisyTrainer` does the same with NEFTune's noise on the embedding.

import { type SampleSource, type Samples, samplesOf } from "../data/samples.ts";
import { InterruptedError, NeftuneError } from "../errors.ts";
import type { EmbeddingHook } from "../model/index.ts";
import { stopError, wishOf } from "../ranks/wish.ts";
import { EVAL_LOSSES_FILE, evalLossesText } from "../report/eval-losses.ts";
import { shellWord } from "../shell.ts";
import { type BestEvaluation, isOutOfPatience, judge, whyStopped } from "./best.ts";
import type { Progress } from "./checkpoint.ts";
import { DivergedError } from "./divergence.ts";
import { type Evaluation, evaluate, eventLoopTurn } from "./evaluate.ts";
import { gatherMatmulChoices, keepMatmulChoices } from "./matmul-choices.ts";
import { evalLine, type StepMetrics, stepLine } from "./metrics.ts";
import { type TrainableModel, type TrainedParameters, trainedParameters } from "./model.ts";
import { neftune, readNoiseScale } from "./noise.ts";
import { expectEvaluable, learnsNoise, resolveTrainerOptions, type TrainerOptions } from "./options.ts";
import { SampleOrder, totalSteps } from "./order.ts";
import type { TrainResult } from "./reporter.ts";
import { openRun, type Run, type RunSettings } from "./run.ts";
import { readTrainedValues, watchedValues, writeResult, writeTrainingState } from "./saved-weights.ts";
import { makeSchedule, type Schedule } from "./schedule.ts";
import { type StepResult, type StepUpdate, trainStep } from "./step.ts";
import { StepBatches } from "./step-batches.ts";
import { trainStepOfTeam } from "./team.ts";
import { nextUpdate } from "./update.ts";

export interface TrainerSettings extends RunSettings {
  model: TrainableModel;
  dataset: SampleSource;
  evalDataset?: SampleSource;
  options?: Partial<TrainerOptions>;
  /**
   * Registered on the model's embedding while train() runs, and removed on every way out. Null or absent: no noise,
   * whatever alpha says.
   */
  embeddingHook?: EmbeddingHook | null;
  /** On abort the step under way is finished, a checkpoint saved, and InterruptedError thrown. */
  signal?: AbortSignal;
}

export class Trainer {
  readonly model: TrainableModel;
  readonly options: TrainerOptions;
  readonly #settings: TrainerSettings;
  readonly #hook: EmbeddingHook | null;
  readonly #parameters: TrainedParameters;
  readonly #samples: Samples;
  readonly #evalSamples: Samples | null;
  readonly #order: SampleOrder;
  readonly #batches: StepBatches;
  readonly #schedule: Schedule;

  /** Throws UsageError for options that make no sense, NeftuneError where there is nothing to train or to train on. */
  constructor(settings: TrainerSettings) {
    const options = resolveTrainerOptions(settings.options);
    this.#parameters = trainedParameters(settings.model);
    expectEvaluable(options, settings.evalDataset !== undefined);
    const isLearned = this.#parameters.part("noise").length > 0;
    if (isLearned !== learnsNoise(options)) {
      const said = isLearned ? "with learnedNoise" : "without learnedNoise";
      throw new NeftuneError(
        "model",
        `the model was loaded ${said}, but neftScale is "${options.neftScale}"`,
      );
    }
    const optim = settings.model.options.optim ?? "adamw";
    if (optim !== options.optim)
      throw new NeftuneError(
        "model",
        `the model was loaded with optim "${optim}", but optim is "${options.optim}"`,
      );
    this.model = settings.model;
    this.#hook = settings.embeddingHook ?? null;
    this.options = this.#hook === null ? { ...options, alpha: 0 } : options;
    this.#settings = settings;
    this.#samples = samplesOf(settings.dataset);
    this.#evalSamples = settings.evalDataset === undefined ? null : samplesOf(settings.evalDataset);
    this.#order = new SampleOrder(this.#samples.length, options);
    const dealing = {
      ...options,
      team: settings.team ?? null,
      isSharded: this.model.options.partners !== undefined,
    };
    this.#batches = new StepBatches(this.#samples, this.#order, dealing);
    this.#schedule = makeSchedule(options, totalSteps(this.#order, options.epochs, options.maxSteps));
  }

  /** Trains to the end, or throws: InterruptedError after saving, NeftuneError for a full disk and its like. */
  async train(): Promise<TrainResult> {
    const hook = this.#hook;
    const removeHook = hook === null ? () => {} : this.model.embedTokens.registerForwardHook(hook);
    try {
      const run = await this.#openRun();
      try {
        await this.#trainToEnd(run);
      } finally {
        run.files?.metrics.close();
        run.files?.folder.close();
      }
      return this.#report(run);
    } finally {
      removeHook();
    }
  }

  async #trainToEnd(run: Run): Promise<void> {
    const { progress, watch, files } = run;
    while (!this.#isFinished(progress)) {
      if (!progress.evalPending) this.#log(run, this.#step(run));
      if (progress.evalPending) await this.#evaluate(run);
      await this.#saveOrStop(run);
    }
    this.#expectUpdates(progress);
    this.#takeBest(run);
    watch.expectUsable(progress.step);
    watch.expectFinite(progress.step, this.#parameters, ["values"]);
    this.model.device.expectFilesUnchanged("in place");
    if (files === null) {
      this.#parameters.follow();
      return;
    }
    const { folder } = files;
    folder.expectOurs();
    const { origin = null } = this.#settings;
    const values = watchedValues(this.#parameters, () => folder.expectOurs());
    this.#parameters.lead(() => writeResult(folder.path, this.model, values, origin, this.options));
    folder.expectOurs();
  }

  /** One step, and what it says of itself. */
  #step(run: Run): StepMetrics {
    const { progress, watch } = run;
    const start = performance.now();
    const update = nextUpdate(this.options, this.#schedule, progress);
    const result = this.#updateModel(run, update);
    const { loss, gradNorm, samples, tokens, targetTokens, skipped, communicationSeconds } = result;

    progress.step++;
    progress.evalPending = this.#isEvalDue(progress.step);
    if (skipped === null) {
      progress.optimizerSteps++;
      progress.loss = loss;
      watch.updated();
    } else {
      progress.skipped++;
      this.#settings.reporter?.onSkip?.(progress.step, skipped, progress.skipped);
    }
    const seconds = (performance.now() - start) / 1000;
    return {
      step: progress.step,
      epoch: this.#epoch(progress.step),
      loss: targetTokens > 0 ? finite(loss) : null,
      gradNorm: targetTokens > 0 ? finite(gradNorm) : null,
      learningRate: update.adamw.learningRate,
      samples,
      tokens,
      targetTokens,
      seconds,
      tokensPerSecond: tokens / seconds,
      peakMemoryBytes: this.model.device.peakMemory(),
      ...(communicationSeconds === undefined ? {} : { communicationSeconds }),
      neftScale: readNoiseScale(this.#parameters),
      skipped,
    };
  }

  /** Gradients of a step's micro-batches, with a team those of all its ranks, and the update that they make. */
  #updateModel(run: Run, update: StepUpdate): StepResult & Pick<StepMetrics, "communicationSeconds"> {
    const { team = null, signal } = this.#settings;
    const { step } = run.progress;
    const own = this.#batches.of(step);
    const meanwhile = () => {
      if (step + 1 < this.#schedule.totalSteps) this.#batches.of(step + 1);
    };
    if (team === null) return trainStep(this.model, own, update, meanwhile);
    const counts = this.#batches.counts(step);
    const result = trainStepOfTeam(team, this.model, own, counts, update, wishOf(signal), meanwhile);
    run.stop = result.stop;
    return result;
  }

  #log(run: Run, step: StepMetrics): void {
    run.tokens += step.tokens;
    const isLogged = step.skipped !== null || this.#isDue(this.options.loggingSteps, step.step);
    run.files?.folder.expectOurs();
    if (isLogged) run.files?.metrics.append(stepLine(step));
    this.#settings.reporter?.onStep?.(step, run.plan);
    if (step.skipped !== null && step.targetTokens > 0) run.watch.idled(step.step, step.skipped);
  }

  async #evaluate(run: Run): Promise<void> {
    const { progress, files } = run;
    const { signal, reporter, team = null } = this.#settings;
    const samples = this.#evalSamples ?? samplesOf([]);
    let found: Evaluation;
    try {
      found = await evaluate(this.model, samples, {
        batchSize: this.options.batchSize,
        packing: this.options.packing,
        microBatchTokens: this.options.microBatchTokens,
        ...(signal === undefined ? {} : { signal }),
        team,
        onProgress: (done) => reporter?.onEvalProgress?.(done, samples.length),
      });
    } catch (error) {
      // The checkpoint that follows remembers that this evaluation is still to come.
      if (!(error instanceof InterruptedError)) throw error;
      run.stop = error.exitStatus;
      return;
    }
    const { loss, perplexity, targetTokens, perSample } = found;
    progress.evaluation = {
      step: progress.step,
      epoch: this.#epoch(progress.step),
      loss: finite(loss),
      perplexity: finite(perplexity),
      targetTokens,
    };
    progress.evalPending = false;
    files?.folder.writeText(EVAL_LOSSES_FILE, evalLossesText(progress.step, perSample));
    files?.metrics.append(evalLine(progress.evaluation));
    progress.judgement = judge(progress.judgement, progress.evaluation, this.options);
    reporter?.onEval?.(progress.evaluation);
    if (isOutOfPatience(progress.judgement, this.options) && progress.step < this.#schedule.totalSteps) {
      reporter?.onNote?.(
        `stopped early after step ${progress.step} of ${this.#schedule.totalSteps}: ${whyStopped(progress.judgement, this.options)}`,
      );
    }
    if (this.#isFinished(progress) && this.#bestBefore(progress) === null) {
      this.#expectUpdates(progress);
      run.watch.expectFiniteLoss(progress.step, loss);
    }
  }

  #openRun(): Promise<Run> {
    const { model, options } = this;
    const training = {
      model,
      options,
      samples: this.#samples,
      evalSamples: this.#evalSamples,
      schedule: this.#schedule,
      stepsPerEpoch: this.#order.stepsPerEpoch,
    };
    return openRun(training, this.#settings);
  }

  /** Saves when it is time, and when the run was asked to stop: then it throws InterruptedError. */
  async #saveOrStop(run: Run): Promise<void> {
    await eventLoopTurn();
    const { step } = run.progress;
    const { team = null, signal } = this.#settings;
    // Ranks stop where they agreed to; a process alone, also at once where it was just asked to.
    const wish = team === null ? wishOf(signal) : run.stop;
    const stop = wish !== null && !this.#isFinished(run.progress);
    // Before the first update there is nothing to save but the place, which only a stop needs. Nor is there after idle
    // steps, which may be the first of a divergence: it would take the place of an older, better checkpoint. What
    // evaluates best is always saved, as #takeBest needs it.
    const isUseful = run.progress.optimizerSteps > 0 && (!run.watch.isIdle || this.#isFinished(run.progress));
    const isDue =
      this.#isBest(step, run) ||
      (isUseful && (this.#isDue(this.options.saveSteps, step) || this.#isFinished(run.progress)));
    if (step !== run.savedStep && (stop || isDue)) {
      await this.#keepChoices(run);
      this.#save(run);
    }
    if (!stop) return;
    const { output } = this.#settings;
    const message = `stopped after step ${step} of ${this.#schedule.totalSteps}; to continue, run the same command with --output ${shellWord(output)} --resume`;
    throw stopError(message, wish, team);
  }

  /** Before a checkpoint, so that what a resumed run starts from was computed by what is kept. All ranks call it. */
  async #keepChoices({ files }: Run): Promise<void> {
    const texts = await gatherMatmulChoices(this.model.device, this.#settings.team);
    if (files === null) return;
    files.folder.expectOurs();
    keepMatmulChoices(files.folder, texts);
  }

  #save(run: Run): void {
    const { files, progress, watch } = run;
    if (this.#isFinished(progress)) watch.expectUsable(progress.step);
    watch.expectFinite(progress.step, this.#parameters, ["values", "m", "v"]);
    this.model.device.expectFilesUnchanged("in place");
    run.savedStep = progress.step;
    if (files === null) {
      this.#parameters.follow();
      return;
    }
    const { folder, marks, metrics } = files;
    folder.expectOurs();
    metrics.flush();
    const { saveTotalLimit: limit, loadBestModelAtEnd, saveOnlyModel } = this.options;
    const kept = loadBestModelAtEnd ? (progress.judgement.best?.step ?? null) : null;
    const origin = this.#settings.origin ?? null;
    const write = (dir: string) =>
      writeTrainingState(
        dir,
        this.model,
        watchedValues(this.#parameters, () => folder.expectOurs()),
        origin,
        !saveOnlyModel,
      );
    const path = this.#parameters.lead(() =>
      folder.checkpoints.save(progress, marks, { limit, kept }, write),
    );
    this.#settings.reporter?.onSave?.(progress.step, path);
  }

  #expectUpdates({ optimizerSteps, step }: Progress): void {
    if (optimizerSteps > 0) return;
    throw new DivergedError(
      `none of the ${step} steps made an update`,
      ` (metrics.jsonl in ${this.#settings.output} says why), so nothing was ` +
        "learned and nothing is written; check the base model and the data, or try --dtype f32",
    );
  }

  #epoch(step: number): number {
    return step / this.#order.stepsPerEpoch;
  }

  /** Every `interval` steps, and after the last. */
  #isDue(interval: number, step: number): boolean {
    return step % interval === 0 || step === this.#schedule.totalSteps;
  }

  #isEvalDue(step: number): boolean {
    return (
      this.#evalSamples !== null && this.#isDue(this.options.evalSteps ?? this.#order.stepsPerEpoch, step)
    );
  }

  #isFinished({ step, evalPending, judgement }: Progress): boolean {
    if (evalPending) return false;
    return step === this.#schedule.totalSteps || isOutOfPatience(judgement, this.options);
  }

  /** Whether the model after `step` is to be kept as the best so far. */
  #isBest(step: number, { progress }: Run): boolean {
    return this.options.loadBestModelAtEnd && progress.judgement.best?.step === step;
  }

  /** The evaluation whose values are the result instead of the last ones, if that is asked for. */
  #bestBefore({ step, judgement: { best } }: Progress): BestEvaluation | null {
    return this.options.loadBestModelAtEnd && best?.step !== step ? best : null;
  }

  /** Takes back the values of the best evaluation. */
  #takeBest({ files, progress }: Run): void {
    const best = this.#bestBefore(progress);
    if (best === null) return;
    // Of several ranks the first one writes the result.
    if (files === null) {
      this.#parameters.follow();
      return;
    }
    const path = files.folder.checkpoints.pathOf(best.step);
    this.#parameters.lead(() => readTrainedValues(path, this.model, this.#parameters));
    this.#settings.reporter?.onBest?.(best, path);
  }

  #report({ plan, progress, start, tokens }: Run): TrainResult {
    const { step: steps, skipped, loss, evaluation } = progress;
    const seconds = (performance.now() - start) / 1000;
    const result = { output: plan.output, steps, skipped, loss, evaluation, seconds, tokens };
    this.#settings.reporter?.onDone?.(result);
    return result;
  }
}

/** A Trainer with NEFTune's hook, as the options say. */
export class NoisyTrainer extends Trainer {
  constructor(settings: Omit<TrainerSettings, "embeddingHook">) {
    const { alpha, neftNoise: noise, neftLength: length, seed } = resolveTrainerOptions(settings.options);
    super({ ...settings, embeddingHook: neftune({ alpha, noise, length, seed }) });
  }
}

/** JSON has no other numbers, and a checkpoint keeps these. */
function finite(value: number): number | null {
  return Number.isFinite(value) ? value : null;
}
