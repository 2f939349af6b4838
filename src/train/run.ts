// A run as it is opened: its folder and what it was trained with, its identity, and, to resume, the newest checkpoint.

import packageJson from "../../package.json" with { type: "json" };
import type { Samples } from "../data/samples.ts";
import { NeftuneError } from "../errors.ts";
import { type Marks, type Progress, startProgress } from "./checkpoint.ts";
import { DivergenceWatch } from "./divergence.ts";
import {
  fingerprintDataset,
  fingerprintModel,
  fingerprintStart,
  makeIdentity,
  makeRounding,
} from "./identity.ts";
import { type MetricsFile, missingNote } from "./metrics.ts";
import { type ModelOrigin, type TrainableModel, trainedParameters } from "./model.ts";
import { optionName, type TrainerOptions } from "./options.ts";
import type { Reporter, RunPlan } from "./reporter.ts";
import { restoreNewest } from "./resume.ts";
import { RunFolder } from "./run-folder.ts";
import type { Schedule } from "./schedule.ts";

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

export interface Run {
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

/** Prepares the folder and, to resume, the model. A run that is there is only changed once all was checked. */
export function openRun(training: Training, settings: RunSettings): Run {
  const { model, options, schedule } = training;
  const { output, resume = false, origin = null } = settings;
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
  const marks = { identity, rounding: makeRounding(options, model.device.info) };
  const folder = RunFolder.open(output, { resume, tune });
  try {
    const fingerprints = { dataset_fingerprint: data, eval_dataset_fingerprint: evalData };
    return enterRun(folder, marks, fingerprints, training, settings);
  } catch (error) {
    folder.close();
    throw error;
  }
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
  { model, samples, evalSamples, options, schedule, stepsPerEpoch }: Training,
  { output, record, files, reporter }: RunSettings,
): Run {
  const { totalSteps, warmupSteps } = schedule;
  const parameters = trainedParameters(model);
  const resumed = restoreNewest(folder.checkpoints, marks, totalSteps, model, parameters);
  const progress = { ...(resumed?.progress ?? startProgress) };
  if (resumed === null && evalSamples !== null) progress.evalPending = options.evalOnStart;
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
    samples: samples.length,
    evalSamples: evalSamples?.length ?? 0,
    stepsPerEpoch,
    totalSteps,
    warmupSteps,
    startStep: progress.step,
    resumedFrom: resumed?.checkpoint ?? null,
    trainedParameters: parameters.tensors.reduce((sum, { size }) => sum + size, 0),
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
