// A run as it is opened: its folder and what it was trained with, its identity, and, to resume, the newest checkpoint.

import packageJson from "../../package.json" with { type: "json" };
import type { Samples } from "../data/samples.ts";
import { NeftuneError } from "../errors.ts";
import { sizeOf } from "../native/index.ts";
import type { Team } from "../ranks/team.ts";
import { type CheckpointFolder, type Marks, type Progress, startProgress } from "./checkpoint.ts";
import { DivergenceWatch } from "./divergence.ts";
import {
  fingerprintDataset,
  fingerprintModel,
  fingerprintStart,
  makeIdentity,
  makeRounding,
} from "./identity.ts";
import { readMatmulChoices, restoreMatmulChoices } from "./matmul-choices.ts";
import { type MetricsFile, missingNote } from "./metrics.ts";
import { type ModelOrigin, type TrainableModel, trainedParameters } from "./model.ts";
import { optionName, type TrainerOptions } from "./options.ts";
import type { Reporter, RunPlan } from "./reporter.ts";
import { restoreNewest } from "./resume.ts";
import { RunFolder } from "./run-folder.ts";
import type { Schedule } from "./schedule.ts";
import { broadcastState, sharedStateOf } from "./team.ts";

/** Where a run is kept and what is kept of it. */
export interface RunSettings {
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
  /** The ranks that train together; the first one writes the files. */
  team?: Team | null;
}

/** What is trained, on what, and how. */
export interface Training {
  model: TrainableModel;
  samples: Samples;
  evalSamples: Samples | null;
  options: TrainerOptions;
  schedule: Schedule;
  stepsPerEpoch: number;
}

/** What a run writes to. */
export interface RunFiles {
  folder: RunFolder;
  marks: Marks;
  metrics: MetricsFile;
}

export interface Run {
  /** Null on ranks beside the first. */
  files: RunFiles | null;
  progress: Progress;
  plan: RunPlan;
  /** The exit status that the run was asked to stop with; null: it goes on. */
  stop: number | null;
  watch: DivergenceWatch;
  /** Of the newest checkpoint; 0: none. */
  savedStep: number;
  /** When this session began, and the tokens it trained on. */
  start: number;
  tokens: number;
}

/**
 * Prepares the folder and, to resume, the model. A run that is there is only changed once all was checked. Of several
 * ranks the first one does, and the others take from it what it restored.
 */
export async function openRun(training: Training, settings: RunSettings): Promise<Run> {
  const { model, options, schedule } = training;
  const { output, resume = false, origin = null, team = null } = settings;
  const tune = model.options.tune === "full" ? "full" : "lora";
  const data = fingerprint(training.samples, "to train on");
  const evalData = training.evalSamples === null ? null : fingerprint(training.evalSamples, "to evaluate");
  const identity = makeIdentity({
    options,
    model,
    schedule,
    modelFingerprint: fingerprintModel(model, origin),
    startFingerprint: fingerprintStart(model),
    dataset: data,
    evalDataset: evalData,
  });
  if (team !== null) {
    await team.ranks.expectSame(identity);
    if (!team.isFirst) return joinRun(team, training, settings);
  }
  const isSharded = model.options.partners !== undefined;
  const rounding = makeRounding(options, model.device.info, team?.size ?? 1, isSharded);
  const marks = { identity, rounding };
  const folder = RunFolder.open(output, { resume, tune });
  try {
    const fingerprints = { dataset_fingerprint: data, eval_dataset_fingerprint: evalData };
    const enter = () => enterRun(folder, marks, fingerprints, training, settings);
    const run = trainedParameters(model).lead(enter);
    const choices = run.plan.resumedFrom === null ? [] : readMatmulChoices(folder);
    if (team !== null) await shareRun(team, model, run, choices);
    for (const note of await restoreMatmulChoices(choices, model.device, team))
      settings.reporter?.onNote?.(note);
    return run;
  } catch (error) {
    folder.close();
    throw error;
  }
}

/** How far a run is, for the ranks that have no files, and what readMatmulChoices found. */
type SharedProgress = Pick<Run, "progress"> & Pick<RunPlan, "resumedFrom"> & { choices: readonly string[] };

async function shareRun(
  team: Team,
  model: TrainableModel,
  { progress, plan }: Run,
  choices: readonly string[],
): Promise<void> {
  const shared: SharedProgress = { progress, resumedFrom: plan.resumedFrom, choices };
  await team.ranks.share(JSON.stringify(shared));
  if (plan.resumedFrom !== null) broadcastState(team, sharedStateOf(trainedParameters(model)));
}

/** A rank beside the first enters the run. */
async function joinRun(team: Team, training: Training, settings: RunSettings): Promise<Run> {
  trainedParameters(training.model).follow();
  const [first] = await team.ranks.share("");
  const { progress, resumedFrom, choices } = JSON.parse(first!) as SharedProgress;
  if (resumedFrom !== null) broadcastState(team, sharedStateOf(trainedParameters(training.model)));
  await restoreMatmulChoices(choices, training.model.device, team);
  const plan = planOf(training, settings, progress, resumedFrom);
  settings.reporter?.onPlan?.(plan);
  return startOf(null, plan, progress, training, () => resumedFrom);
}

function fingerprint(samples: Samples, purpose: string) {
  const found = fingerprintDataset(samples);
  if (found.targetTokens > 0) return found;
  const message = `none of the ${found.samples} samples ${purpose} has a target token; are they cut before the answer?`;
  throw new NeftuneError("data", message);
}

function enterRun(
  folder: RunFolder,
  marks: Marks,
  fingerprints: Readonly<Record<string, unknown>>,
  training: Training,
  settings: RunSettings,
): Run {
  const { output, record, files, reporter, team = null } = settings;
  const { model, options, schedule } = training;
  const { totalSteps } = schedule;
  const parameters = trainedParameters(model);
  const resumed = restoreNewest(folder.checkpoints, marks, totalSteps, model, parameters);
  const progress = { ...(resumed?.progress ?? startProgress) };
  if (resumed === null && training.evalSamples !== null) progress.evalPending = options.evalOnStart;
  const lost = options.loadBestModelAtEnd ? forgetLostBest(progress, folder.checkpoints) : null;
  const kebab = Object.fromEntries(Object.entries(options).map(([key, value]) => [optionName(key), value]));
  for (const [name, text] of Object.entries(files ?? {})) folder.writeText(name, text);
  folder.writeRecord({
    ...record,
    ...kebab,
    output,
    neftune_version: packageJson.version,
    bun_version: Bun.version,
    device: model.device.info,
    ...(team === null ? {} : { ranks: team.size }),
    ...fingerprints,
    total_steps: totalSteps,
  });
  const plan = planOf(training, settings, progress, resumed?.checkpoint ?? null);
  reporter?.onPlan?.(plan);
  const metrics = folder.openMetrics(progress);
  for (const note of [...(resumed?.notes ?? []), missingNote(metrics), lost])
    if (note !== null) reporter?.onNote?.(note);
  if (progress.logging.at(-1)?.every !== options.loggingSteps) {
    progress.logging = [...progress.logging, { after: progress.step, every: options.loggingSteps }];
  }
  const newest = () => folder.checkpoints.all().at(-1) ?? null;
  return startOf({ folder, marks, metrics }, plan, progress, training, newest);
}

/**
 * Forgets a best evaluation that no checkpoint is left of, since a run without --load-best-model-at-end keeps none.
 * Returns what to say of that.
 */
function forgetLostBest(progress: Progress, checkpoints: CheckpointFolder): string | null {
  const { best } = progress.judgement;
  if (best === null || checkpoints.all().includes(checkpoints.pathOf(best.step))) return null;
  progress.judgement = { ...progress.judgement, best: null };
  return `--resume: there is no checkpoint of step ${best.step}, the best so far; --load-best-model-at-end takes the best of the evaluations that follow`;
}

function planOf(
  { model, samples, evalSamples, options, schedule, stepsPerEpoch }: Training,
  { output, team = null }: RunSettings,
  progress: Progress,
  resumedFrom: string | null,
): RunPlan {
  return {
    output,
    samples: samples.length,
    evalSamples: evalSamples?.length ?? 0,
    stepsPerEpoch,
    totalSteps: schedule.totalSteps,
    microBatches: options.gradientAccumulationSteps,
    ...(options.microBatchTokens ? { microBatchTokens: options.microBatchTokens } : {}),
    ranks: team?.size ?? 1,
    warmupSteps: schedule.warmupSteps,
    startStep: progress.step,
    resumedFrom,
    trainedParameters: trainedParameters(model).tensors.reduce((sum, { shape }) => sum + sizeOf(shape), 0),
    plannedMemoryBytes: model.plan.total,
  };
}

function startOf(
  files: RunFiles | null,
  plan: RunPlan,
  progress: Progress,
  { model, options }: Training,
  checkpoint: () => string | null,
): Run {
  const { learningRate } = options;
  return {
    files,
    progress,
    plan,
    stop: null,
    watch: new DivergenceWatch({ output: plan.output, learningRate, dtype: model.options.dtype, checkpoint }),
    savedStep: progress.step,
    start: performance.now(),
    tokens: 0,
  };
}
