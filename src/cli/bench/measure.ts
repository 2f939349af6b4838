// The measured steps of a benchmark: random weights, an optimizer step a batch.

import type { Batch } from "../../data/batch.ts";
import { InterruptedError } from "../../errors.ts";
import {
  Llama,
  type LlamaConfig,
  type LoraOptions,
  type Optimizer,
  type Quantization,
  randomSource,
} from "../../model/index.ts";
import { type Device, type RecordedCall, waitingSeconds } from "../../native/index.ts";
import { stopError, wishOf } from "../../ranks/wish.ts";
import {
  countBatches,
  partnersOf,
  type StepCounts,
  trainerDefaults,
  trainStep,
  trainStepOfTeam,
} from "../../train/index.ts";
import type { Context } from "../command.ts";
import { peakBytes, resetPeakBytes, residentBytes } from "../process/memory.ts";
import { formatCount } from "../terminal/format.ts";
import { type KernelUse, kernelUses } from "./kernels.ts";
import { stepFlops } from "./work.ts";

export interface Step {
  seconds: number;
  /** Of these, those in which the host did not wait for the device. */
  host: number;
  /** Of several ranks: of these seconds, those spent on exchanges. */
  communication: number;
  tokens: number;
  flops: number;
  loss: number;
  grad_norm: number;
}

export interface Measured {
  steps: Step[];
  load_seconds: number;
  seconds_by_operation: Record<string, { seconds: number; calls: number }>;
  /** On a GPU: what one more step asked of it. */
  recorded: { calls: number; kernels: KernelUse[] } | null;
  planned: Llama["plan"];
  resident_before_bytes: number;
  peak_bytes: number;
}

export interface BenchSettings {
  tune: "lora" | "full";
  quantization: Quantization | null;
  dtype: "f32" | "bf16";
  recompute: "none" | "mlp" | "layer" | "auto";
  optim: Optimizer;
  lora: LoraOptions | null;
  learningRate: number;
  warmup: number;
  seed: number;
}

/** A model with random weights and room for each of `batches`. */
export function loadModel(
  device: Device,
  config: LlamaConfig,
  batches: readonly Batch[],
  { dtype, seed, lora, ...settings }: Omit<BenchSettings, "learningRate" | "warmup">,
  team: NonNullable<Context["team"]> | null = null,
): Llama {
  const most = (value: (batch: Batch) => number) =>
    batches.reduce((most, batch) => Math.max(most, value(batch)), 0);
  const { tune, quantization, recompute, optim } = settings;
  return Llama.load(device, randomSource({ ...config, dtype }, seed), {
    ...{ dtype, tune, quantization, recompute, optim, seed },
    ...(lora === null ? {} : { lora }),
    maxTokens: most((batch) => batch.ids.length),
    maxTargets: most((batch) => batch.targets.length),
    maxPosition: most((batch) => batch.lengths.reduce((longest, n) => Math.max(longest, n), 0)),
    ...(tune === "full" ? partnersOf(team) : {}),
  });
}

/**
 * Trains on `batches`, of several ranks each on its own; the first `warmup` are not measured. `afterStep` is called after
 * each of the others.
 */
export async function measure(
  device: Device,
  config: LlamaConfig,
  all: readonly Batch[],
  settings: BenchSettings,
  context: Pick<Context, "team" | "signal" | "draw">,
  afterStep: () => void,
): Promise<Measured> {
  const { lora } = settings;
  const { team = null } = context;
  const batches = team === null ? all : all.filter((_, i) => team.isOwn(i));
  resetPeakBytes();
  const residentBefore = device.isHost ? residentBytes() : device.peakMemory();
  const loadStart = performance.now();
  const model = loadModel(device, config, batches, settings, team);
  const loadSeconds = (performance.now() - loadStart) / 1000;
  const steps: Step[] = [];
  const ranks = team?.size ?? 1;
  const countsOf = (step: number) => countBatches(all.slice(step * ranks).slice(0, ranks));
  try {
    const profile = new Map<string, { seconds: number; calls: number }>();
    for (const [i, batch] of batches.entries()) {
      const isMeasured = i >= settings.warmup;
      device.profile = isMeasured ? profile : null;
      // Between steps Ctrl-C gets its turn.
      await Bun.sleep(0);
      if (team === null && context.signal.aborted) throw new InterruptedError("bench was stopped");
      const waited = waitingSeconds(profile);
      const step = timedStep(model, batch, settings.learningRate, i + 1, countsOf(i), context);
      const host = step.seconds - (waitingSeconds(profile) - waited);
      const rate = formatCount(step.tokens / step.seconds);
      context.draw(`step ${i + 1}/${batches.length}  loss ${step.loss.toFixed(4)}  ${rate} tokens/s`);
      steps.push({ ...step, host, flops: stepFlops(config, batch, lora) });
      device.profile = null;
      if (isMeasured) afterStep();
    }
    const again = () =>
      timedStep(model, batches.at(-1)!, settings.learningRate, batches.length + 1, countsOf(-1), context);
    const calls = device.isHost ? null : device.record(again).calls;
    return {
      steps,
      load_seconds: loadSeconds,
      seconds_by_operation: sorted(calls === null ? profile : deviceSeconds(calls)),
      recorded: calls && { calls: calls.length, kernels: kernelUses(calls) },
      planned: model.plan,
      resident_before_bytes: residentBefore,
      peak_bytes: device.isHost ? peakBytes() : device.peakMemory(),
    };
  } finally {
    device.profile = null;
    context.draw("");
    model.close();
  }
}

type ByOperation = ReadonlyMap<string, { seconds: number; calls: number }>;

/** The longest first. */
const sorted = (profile: ByOperation) =>
  Object.fromEntries([...profile].sort(([, a], [, b]) => b.seconds - a.seconds));

/** The GPU's seconds by native function. */
function deviceSeconds(calls: readonly RecordedCall[]): ByOperation {
  const profile = new Map<string, { seconds: number; calls: number }>();
  for (const { name, launches } of calls) {
    const entry = profile.get(name) ?? { seconds: 0, calls: 0 };
    entry.seconds += launches.reduce((sum, { seconds }) => sum + seconds, 0);
    entry.calls += 1;
    profile.set(name, entry);
  }
  return profile;
}

/** One optimizer step with one micro-batch, of several ranks with one each. */
export function timedStep(
  model: Llama,
  batch: Batch,
  learningRate: number,
  step: number,
  counts: StepCounts,
  { team = null, signal }: Pick<Context, "team" | "signal">,
): Omit<Step, "flops" | "host"> {
  const draws = BigInt64Array.from(batch.lengths, (_, i) => BigInt((step - 1) * batch.lengths.length + i));
  const { adamBeta1: beta1, adamBeta2: beta2, adamEpsilon: epsilon, ...defaults } = trainerDefaults;
  const { maxGradNorm, weightDecay } = defaults;
  const update = { maxGradNorm, adamw: { learningRate, beta1, beta2, epsilon, weightDecay, step } };
  const start = performance.now();
  const own = [{ batch, draws }];
  const done =
    team === null
      ? { ...trainStep(model, own, update), stop: null, communicationSeconds: 0 }
      : trainStepOfTeam(team, model, own, counts, update, wishOf(signal));
  model.device.synchronize();
  const seconds = (performance.now() - start) / 1000;
  if (done.stop !== null) throw stopError("bench was stopped", done.stop, team);
  const { loss, gradNorm: grad_norm, communicationSeconds: communication } = done;
  return { seconds, communication, tokens: batch.tokens, loss, grad_norm };
}
