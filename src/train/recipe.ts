// A whole training run, from names to files: data, model, trainer. The command line and the demo call this, and a program
// that imports the library may.
//
// runTraining is loadRunData, splitData and trainOn, one after the other: many runs can share what the first one loads.

import type { Dataset } from "../data/dataset.ts";
import { splitHoldout } from "../data/holdout.ts";
import { type DataRequest, type EncodingOptions, type LoadedMix, loadMix } from "../data/load-mix.ts";
import { contentHashOf } from "../data/samples.ts";
import { isTemplateDate, type TemplateDate, today } from "../data/template-date.ts";
import { promptTemplate } from "../data/templates.ts";
import { InterruptedError, NeftuneError, UsageError } from "../errors.ts";
import {
  type Llama,
  type LoadReporter,
  type LoraOptions,
  loadModel,
  type ModelOptions,
  type QuantizationRequest,
  readConfig,
  targetNames,
} from "../model/index.ts";
import type { Device } from "../native/index.ts";
import { optionName } from "../options/table.ts";
import { oneByMachine, sharedMemory, type Team } from "../ranks/team.ts";
import { fingerprintModel } from "./identity.ts";
import { loadedBudget, type MergedSize, mergedSizes, runLimits } from "./limits.ts";
import type { ModelOrigin } from "./model.ts";
import {
  expectEvaluable,
  learnsNoise,
  resolveTrainerOptions,
  type TrainerOptions,
  type TrainOptions,
} from "./options.ts";
import { type BatchLimits, mergeLimits } from "./order.ts";
import type { Reporter, TrainResult } from "./reporter.ts";
import { RunFolder } from "./run-folder.ts";
import { microBatchesPerStep, partnersOf } from "./team.ts";
import { TEMPLATE_DATE, templateRecord, usedTemplates } from "./template-record.ts";
import { NoisyTrainer } from "./trainer.ts";

export interface RunRequest {
  /** The base model's folder, and what files of the run call it. */
  model: ModelOrigin;
  datasets: readonly DataRequest[];
  /** Data to evaluate on; none: no evaluation, unless `evalSplit` holds some out. */
  evalDatasets?: readonly DataRequest[];
  /** A share (below 1) or a count of the data held out instead. */
  evalSplit?: number | null;
  /** The most rows of each evaluation data set, or samples held out, that are evaluated; null: all. */
  evalSamples?: number | null;
  encoding: EncodingOptions;
  tune: TrainOptions["tune"];
  dtype: TrainOptions["dtype"];
  recompute: TrainOptions["recompute"];
  /** Null or none: the frozen weights are used as the model has them. */
  quantization?: QuantizationRequest | null;
  lora: LoraOptions;
  /** Whether ranks divide gradients and what the optimizer keeps; auto: with tune "full". */
  shard?: TrainOptions["shard"];
  /** A PEFT adapter to start from; its rank, alpha, targets and rsLoRA win over `lora`. */
  adapter?: string | undefined;
  trainer: Partial<TrainerOptions>;
  output: string;
  resume?: boolean;
  /** What the model is loaded for beside training and evaluation: answers between steps. */
  extraLimits?: BatchLimits | null;
  /** More for config.json. */
  record?: Readonly<Record<string, unknown>>;
}

/** What a run tells beside what its trainer does. */
export interface RunReporter extends Reporter, LoadReporter {
  /** Rows of a data file tokenized so far. */
  onRows?(path: string, rows: number): void;
  /** All rows are tokenized. */
  onRowsDone?(): void;
  /** The data, before any is held out, then what is evaluated. */
  onData?(name: "data" | "evaluation", dataset: Dataset): void;
  /** So many samples of the evaluation data are trained on, too. */
  onShared?(shared: number, evaluation: Dataset): void;
  /** Another number of samples is held out than was asked for, as samples with equal tokens stay together. */
  onHoldout?(count: number, asked: number): void;
  onModel?(model: Llama): void;
}

export interface RunWatch {
  reporter?: RunReporter;
  /** On abort the step under way is finished, a checkpoint saved, and InterruptedError thrown. */
  signal?: AbortSignal;
  /** The ranks that train together: each makes the same request, and a step has the micro-batches of all. */
  team?: Team | null;
}

/**
 * Trains. Opens the device while workers tokenize. Throws what checkRequest throws before data or device are opened,
 * and InterruptedError, after saving, where `signal` aborts.
 */
export async function runTraining(
  request: RunRequest,
  openDevice: () => Device,
  watch: RunWatch = {},
): Promise<TrainResult> {
  const { team = null } = watch;
  checkRequest(request, team);
  const loading = loadRunData(request, watch);
  // A device that does not open must not leave this one's failure unheard.
  loading.catch(() => {});
  const device = openDevice();
  try {
    const loaded = await loading;
    const data = splitData(loaded, request, watch);
    return await trainOn(device, data, planTogether(request, loaded.recorded, team), watch);
  } finally {
    device.close();
  }
}

/** Throws UsageError for what does not go together and for a folder that is taken, NeftuneError without a model. */
export function checkRequest(request: RunRequest, team: Team | null = null): void {
  const { evalDatasets = [], evalSplit = null, model, tune } = request;
  const hasEvalData = evalDatasets.length > 0;
  expectEvaluable(resolveTrainerOptions(request.trainer), hasEvalData || evalSplit !== null);
  if (hasEvalData && evalSplit !== null)
    throw new UsageError("--eval-split and --eval-dataset exclude each other; give one");
  if (isWriter(team)) folderRecord(request);
  if (readConfig(model.dir).quantization !== null && tune === "full") {
    throw new UsageError(
      `--tune full trains the weights themselves, but ${model.dir} has them in 4 bits; take the original weights, or --tune lora`,
    );
  }
}

const isWriter = (team: Team | null) => team === null || team.isFirst;

/** The record of the run that is to be resumed; null: there is none. */
const folderRecord = ({ output, tune, resume = false }: RunRequest) =>
  RunFolder.check(output, { tune, resume });

/** What a run that is resumed began with. */
interface Recorded {
  templateDate: TemplateDate | null;
  /** Micro-batches of a step: over all ranks, and what was asked for each; null: a new run, or one of one rank. */
  step: { all: number; perRank: number } | null;
  /** Null: a new run. */
  microBatchTokens: number | null;
}

/** Of several ranks the first one reads the record. */
async function recordedOf(request: RunRequest, team: Team | null): Promise<Recorded> {
  const own = isWriter(team) ? readRecorded(request) : null;
  if (team === null) return own!;
  const [first] = await team.ranks.share(JSON.stringify(own));
  return JSON.parse(first!) as Recorded;
}

/** What config.json calls the micro-batches that --gradient-accumulation-steps gave each rank. */
const PER_RANK = "micro_batches_per_rank";

function readRecorded(request: RunRequest): Recorded {
  const record = folderRecord(request);
  const date = record?.get(TEMPLATE_DATE);
  const all = record?.get(optionName("gradientAccumulationSteps"));
  const perRank = record?.get(PER_RANK);
  const tokens = record?.get(optionName("microBatchTokens")) ?? 0;
  return {
    templateDate: isTemplateDate(date) ? date : null,
    step: typeof all === "number" && typeof perRank === "number" ? { all, perRank } : null,
    microBatchTokens: record !== null && typeof tokens === "number" ? tokens : null,
  };
}

/** The request with the micro-batches that all ranks have in a step, merged as in the run that is resumed. */
function planTogether(asked: RunRequest, recorded: Recorded, team: Team | null): RunRequest {
  const microBatchTokens = asked.trainer.microBatchTokens ?? recorded.microBatchTokens;
  const request = { ...asked, trainer: { ...asked.trainer, microBatchTokens } };
  const perRank = resolveTrainerOptions(request.trainer).gradientAccumulationSteps;
  const gradientAccumulationSteps = microBatchesPerStep(perRank, team?.size ?? 1, recorded.step);
  if (gradientAccumulationSteps === perRank) return request;
  return {
    ...request,
    trainer: { ...request.trainer, gradientAccumulationSteps },
    record: { ...request.record, [PER_RANK]: perRank },
  };
}

/** The request of one process as runTraining takes it: a run that is resumed keeps what it began with. */
export const asBegun = (request: RunRequest): RunRequest =>
  planTogether(request, readRecorded(request), null);

/** The tokenized data of a run, nothing held out yet. */
export interface LoadedRunData {
  data: LoadedMix;
  evaluation: LoadedMix | null;
  /** The day that templates were told. */
  templateDate: TemplateDate;
  recorded: Recorded;
}

/** Loads and tokenizes. */
export async function loadRunData(
  request: RunRequest,
  { reporter = {}, signal, team = null }: RunWatch,
): Promise<LoadedRunData> {
  const recorded = await recordedOf(request, team);
  const { encoding, datasets, evalDatasets = [], evalSamples } = request;
  const fixedDate = encoding.templateDate ?? recorded.templateDate ?? undefined;
  const templateDate = fixedDate ?? today();
  const { dir } = request.model;
  const options = {
    ...encoding,
    tokenizerDir: dir,
    vocabSize: readConfig(dir).vocabSize,
    ...{ templateDate: fixedDate, defaultDate: templateDate },
    signal,
    seed: resolveTrainerOptions(request.trainer).seed,
    onProgress: (path: string, rows: number) => reporter.onRows?.(path, rows),
  };
  const load = () =>
    Promise.all([
      loadMix(datasets, options),
      evalDatasets.length === 0 ? null : loadMix(evalDatasets, { ...options, samples: evalSamples }),
    ]);
  const [data, evaluation] = await oneByMachine(team, load);
  reporter.onRowsDone?.();
  await team?.ranks.expectSame({
    "the data set (--dataset and how it is read)": contentHashOf(data.dataset),
    "the evaluation data set": evaluation === null ? null : contentHashOf(evaluation.dataset),
    "the model (--model)": fingerprintModel({ config: readConfig(dir) }, request.model),
  });
  return { data, evaluation, templateDate, recorded };
}

/** What a run trains on and evaluates, and what its folder says of that. */
export interface RunData {
  train: Dataset;
  held: Dataset | null;
  record: Readonly<Record<string, unknown>>;
  files: Readonly<Record<string, string>>;
}

/** Holds samples out where that is asked for. Throws NeftuneError where there is nothing to learn from. */
export function splitData(
  { data, evaluation, templateDate }: LoadedRunData,
  request: RunRequest,
  { reporter = {} }: RunWatch,
): RunData {
  const { dataset } = data;
  reporter.onData?.("data", dataset);
  const { template, maxLength } = request.encoding;
  const kept = templateRecord(template, promptTemplate(template), usedTemplates(dataset.notes));
  if (dataset.stats.targetTokens === 0) {
    throw new NeftuneError(
      "data",
      `no sample has a target within ${maxLength} tokens; a larger --max-length may help`,
    );
  }
  const { train, held } = holdOut(dataset, evaluation?.dataset ?? null, request, reporter);
  if (held !== null) reporter.onData?.("evaluation", held);
  const record = {
    ...kept.record,
    [TEMPLATE_DATE]: templateDate,
    data: data.record,
    ...(evaluation === null ? {} : { eval_data: evaluation.record }),
  };
  return { train, held, record, files: kept.files };
}

function holdOut(
  all: Dataset,
  evaluation: Dataset | null,
  { evalSplit = null, evalSamples, trainer }: RunRequest,
  reporter: RunReporter,
): { train: Dataset; held: Dataset | null } {
  if (evalSplit === null) {
    const shared = evaluation?.countShared(all) ?? 0;
    if (shared > 0) reporter.onShared?.(shared, evaluation!);
    return { train: all, held: evaluation };
  }
  const { seed } = resolveTrainerOptions(trainer);
  const { train, held, asked, count } = splitHoldout(all, evalSplit, seed, evalSamples ?? undefined);
  if (count !== asked) reporter.onHoldout?.(count, asked);
  return { train, held };
}

/** Trains on `data`: loads the model for its largest micro-batch, and closes it. */
export async function trainOn(
  device: Device,
  { train, held, record, files }: RunData,
  request: RunRequest,
  { reporter = {}, signal, team = null }: RunWatch,
): Promise<TrainResult> {
  const { trainer: options, output, resume = false } = request;
  const run = { dataset: train, ...(held === null ? {} : { evalDataset: held }), options };
  const { extraLimits } = request;
  const withExtra = (limits: BatchLimits) => (extraLimits ? mergeLimits(limits, extraLimits) : limits);
  const ranks = team?.size ?? 1;
  const sizes = mergedSizes(run, ranks, device.info.backend).map(({ limits, ...size }) => ({
    ...size,
    limits: withExtra(limits),
  }));
  const together = team === null ? {} : { ranks, ...(await sharedMemory(team, device)) };
  const sized = {
    // Evaluation is divided by whatever budget is chosen, so that undivided it need not fit.
    ...(sizes.at(-1)?.limits ?? withExtra(runLimits(run, ranks))),
    larger: sizes.map(({ limits }) => limits),
    ...together,
  };
  const model = loadForTraining(device, request, sized, reporter, team);
  try {
    reporter.onModel?.(model);
    const microBatchTokens = options.microBatchTokens ?? (await mergedSize(model, sizes, team));
    const trainer = new NoisyTrainer({
      ...run,
      options: { ...options, microBatchTokens },
      model,
      output,
      resume,
      origin: request.model,
      record: {
        ...request.record,
        ...loraRecord(model.options.lora),
        ...quantizationRecord(model.quantized),
        ...record,
      },
      files,
      reporter,
      team,
      ...(signal === undefined ? {} : { signal }),
    });
    // Ranks agree on a stop after their first step.
    if (team === null && signal?.aborted) throw new InterruptedError("stopped before the first step");
    return await trainer.train();
  } finally {
    model.close();
  }
}

/** The --micro-batch-tokens that a model was loaded for, on all ranks. */
export async function mergedSize(
  model: Pick<Llama, "options">,
  sizes: readonly MergedSize[],
  team: { ranks: Pick<Team["ranks"], "share"> } | null,
): Promise<number> {
  const own = loadedBudget(model, sizes);
  return team === null ? own : Math.min(...(await team.ranks.share(String(own))).map(Number));
}

function loadForTraining(
  device: Device,
  { model, adapter, quantization, tune, dtype, recompute, lora, shard, trainer }: RunRequest,
  { maxSequences: _, ...limits }: BatchLimits & Pick<ModelOptions, "larger" | "ranks" | "sharing">,
  reporter: LoadReporter,
  team: Team | null,
): Llama {
  const options = resolveTrainerOptions(trainer);
  const common = {
    ...{ dtype, recompute, ...limits },
    seed: options.seed,
    learnedNoise: learnsNoise(options),
    optim: options.optim,
  };
  return loadModel(
    device,
    { dir: model.dir, adapter, quantization },
    (adapterLora) => {
      if (tune === "full") return { ...common, tune, ...partnersOf(team, shard) };
      const chosen = adapterLora === null ? lora : { ...adapterLora, dropout: lora.dropout };
      return { ...common, tune, lora: chosen };
    },
    reporter,
  );
}

/** The LoRA options in use, which an --adapter may have brought. */
function loraRecord(lora: LoraOptions | undefined): Record<string, unknown> {
  if (lora === undefined) return {};
  const { r, alpha, dropout, useRslora } = lora;
  return {
    "lora-r": r,
    "lora-alpha": alpha,
    "lora-dropout": dropout,
    "target-modules": targetNames(lora),
    "use-rslora": useRslora,
  };
}

/** The quantization in use, which the checkpoint may have brought. */
function quantizationRecord(quantized: Llama["quantized"]): Record<string, unknown> {
  const [first] = quantized.values();
  if (first === undefined) return {};
  return { quantization: "nf4", "double-quantization": first.absmax2 !== null };
}
