// Training and evaluation, as commands and the library use them.

export type { SampleSizes, SampleSource, Samples } from "../data/samples.ts";
export { DivergedError } from "./divergence.ts";
export { type EvaluateOptions, type Evaluation, evaluate } from "./evaluate.ts";
export { fingerprintDataset, fingerprintModel } from "./identity.ts";
export {
  type EvaluationBatches,
  evaluationSizes,
  loadedBudget,
  loadLimits,
  type PlannedRun,
  runLimits,
} from "./limits.ts";
export type { EvalMetrics, StepMetrics } from "./metrics.ts";
export type { EvaluableModel, ModelOrigin, TrainableModel } from "./model.ts";
export { type NeftuneOptions, neftune } from "./noise.ts";
export {
  expectEvaluable,
  learnsNoise,
  optionName,
  resolveTrainerOptions,
  type TrainerOptions,
  type TrainOptions,
  trainDefaults,
  trainerDefaults,
} from "./options.ts";
export { type BatchLimits, evaluationLimits, mergeLimits } from "./order.ts";
export {
  asBegun,
  checkRequest,
  type LoadedRunData,
  loadRunData,
  type RunData,
  type RunReporter,
  type RunRequest,
  type RunWatch,
  runTraining,
  splitData,
  trainOn,
} from "./recipe.ts";
export { type Reporter, type RunPlan, type TrainResult, together } from "./reporter.ts";
export { RunFolder } from "./run-folder.ts";
export { type SamplePrompt, type Sampling, samplingLimits, samplingReporter } from "./sampler.ts";
export { savedDtype } from "./saved-weights.ts";
export { makeSchedule } from "./schedule.ts";
export {
  accumulateGradients,
  countBatches,
  type StepBatch,
  type StepCounts,
  type StepModel,
  type StepResult,
  type StepSums,
  type StepUpdate,
  trainStep,
} from "./step.ts";
export { partnersOf, trainStepOfTeam } from "./team.ts";
export {
  TEMPLATE_DATE,
  templateDateOf,
  templateOfRun,
  templateRecord,
  usedTemplates,
} from "./template-record.ts";
export { NoisyTrainer, Trainer, type TrainerSettings } from "./trainer.ts";
