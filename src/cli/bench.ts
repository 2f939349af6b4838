// neftune bench: training steps on random weights, beside what the same machine's matmul gives.

import type { Batch } from "../data/batch.ts";
import { Encoder } from "../data/encode.ts";
import type { Sample } from "../data/sample.ts";
import { openSource, rowsOf } from "../data/source.ts";
import { Tokenizer } from "../data/tokenizer.ts";
import { InterruptedError, NeftuneError, UsageError } from "../errors.ts";
import {
  Llama,
  type LlamaConfig,
  type LoraOptions,
  linearModules,
  type Quantization,
  randomSource,
} from "../model/index.ts";
import type { Device, DeviceInfo } from "../native/index.ts";
import { ungrouped } from "../options/spec.ts";
import { trainingOptions } from "../options/table.ts";
import { readShape, shapeNames } from "../presets/shapes.ts";
import { stopError, wishOf } from "../ranks/wish.ts";
import {
  countBatches,
  partnersOf,
  type StepCounts,
  trainerDefaults,
  trainStep,
  trainStepOfTeam,
} from "../train/index.ts";
import { benchGeneration, describeGeneration } from "./bench/generation.ts";
import { denseSamples, hasTargets, makeBatches, matmulRates, median, stepFlops } from "./bench/work.ts";
import { type Context, defineCommand } from "./command.ts";
import { openDevice } from "./device.ts";
import { countOf, formatBytes, formatCount, formatTable, toJson } from "./format.ts";
import { peakBytes, resetPeakBytes, residentBytes } from "./memory.ts";
import { dtypeOption } from "./model-data.ts";

interface Step {
  seconds: number;
  /** Of several ranks: of these seconds, those spent on exchanges. */
  communication: number;
  tokens: number;
  flops: number;
  loss: number;
  grad_norm: number;
}

interface Measured {
  steps: Step[];
  load_seconds: number;
  seconds_by_operation: Record<string, { seconds: number; calls: number }>;
  planned: Llama["plan"];
  resident_before_bytes: number;
  peak_bytes: number;
}

interface BenchSettings {
  tune: "lora" | "full";
  quantization: Quantization | null;
  dtype: "f32" | "bf16";
  recompute: "none" | "mlp" | "layer" | "auto";
  lora: LoraOptions | null;
  learningRate: number;
  warmup: number;
  seed: number;
}

/** Trains on `batches`, of several ranks each on its own; the first `warmup` of them are not measured. */
async function measure(
  device: Device,
  config: LlamaConfig,
  all: readonly Batch[],
  settings: BenchSettings,
  context: Context,
): Promise<Measured> {
  const { tune, lora, quantization, dtype, recompute, seed } = settings;
  const { team = null } = context;
  const batches = team === null ? all : all.filter((_, i) => team.isOwn(i));
  const most = (value: (batch: Batch) => number) =>
    batches.reduce((most, batch) => Math.max(most, value(batch)), 0);
  resetPeakBytes();
  const residentBefore = device.isHost ? residentBytes() : device.peakMemory();
  const loadStart = performance.now();
  const model = Llama.load(device, randomSource({ ...config, dtype }, seed), {
    dtype,
    tune,
    ...(lora === null ? {} : { lora }),
    quantization,
    recompute,
    maxTokens: most((batch) => batch.ids.length),
    maxTargets: most((batch) => batch.targets.length),
    maxPosition: most((batch) => batch.lengths.reduce((longest, n) => Math.max(longest, n), 0)),
    seed,
    ...(tune === "full" ? partnersOf(team) : {}),
  });
  const loadSeconds = (performance.now() - loadStart) / 1000;
  const steps: Step[] = [];
  const ranks = team?.size ?? 1;
  const countsOf = (step: number) => countBatches(all.slice(step * ranks).slice(0, ranks));
  try {
    for (const [i, batch] of batches.entries()) {
      if (i === settings.warmup && device.isHost) device.profile = new Map();
      // Between steps Ctrl-C gets its turn.
      await Bun.sleep(0);
      if (team === null && context.signal.aborted) throw new InterruptedError("bench was stopped");
      const step = timedStep(model, batch, settings.learningRate, i + 1, countsOf(i), context);
      const rate = formatCount(step.tokens / step.seconds);
      context.draw(`step ${i + 1}/${batches.length}  loss ${step.loss.toFixed(4)}  ${rate} tokens/s`);
      steps.push({ ...step, flops: stepFlops(config, batch, lora) });
    }
    if (!device.isHost) {
      // On a GPU timing each operation slows the step, so one more step is made for it.
      device.profile = new Map();
      timedStep(model, batches.at(-1)!, settings.learningRate, batches.length + 1, countsOf(-1), context);
    }
    return {
      steps,
      load_seconds: loadSeconds,
      seconds_by_operation: Object.fromEntries(
        [...(device.profile ?? [])].sort(([, a], [, b]) => b.seconds - a.seconds),
      ),
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

/** One optimizer step with one micro-batch, of several ranks with one each. */
function timedStep(
  model: Llama,
  batch: Batch,
  learningRate: number,
  step: number,
  counts: StepCounts,
  { team = null, signal }: Context,
): Omit<Step, "flops"> {
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

/** Samples of a data file. Their lengths and masks are the file's; the weights are random anyway. */
async function fileSamples(
  path: string,
  tokenizerDir: string | undefined,
  maxLength: number,
  vocabSize: number,
): Promise<Sample[]> {
  if (tokenizerDir === undefined) {
    throw new UsageError(
      `--data ${path} needs --tokenizer: a folder with a tokenizer.json of at most ${vocabSize} tokens`,
    );
  }
  const tokenizer = Tokenizer.load(tokenizerDir);
  if (tokenizer.vocabSize > vocabSize) {
    throw new UsageError(
      `--tokenizer ${tokenizerDir} has ${tokenizer.vocabSize} tokens, more than the shape's vocabulary of ${vocabSize}`,
    );
  }
  const encoder = new Encoder(tokenizer, {
    template: { kind: "auto" },
    maxLength,
    parseSpecial: false,
    vocabSize,
  });
  const samples: Sample[] = [];
  for await (const { row, problem, where } of rowsOf(openSource(path))) {
    try {
      if (problem !== null) throw new NeftuneError("row", problem);
      samples.push(encoder.encode(row));
    } catch (error) {
      if (!(error instanceof NeftuneError)) throw error;
      throw new NeftuneError(error.code, `${where}: ${error.message}`, { cause: error });
    }
  }
  const useful = samples.filter(hasTargets);
  if (useful.length === 0)
    throw new NeftuneError("data", `${path}: no row has a target within ${maxLength} tokens`);
  return useful;
}

export const bench = defineCommand({
  description:
    "Tokens per second do not count padding. Model FLOPs of a LoRA or QLoRA step: 4 N tokens for the frozen linears (lm_head for target tokens alone), 6 r (in + out) tokens for the adapters, attention over each sample's own causal half; no credit for recomputation. The matmul rates are measured in the same run. The loss and gradient norm of every step are shown, as proof that the steps really train.",
  options: {
    shape: {
      type: "string",
      default: "m25",
      value: "NAME|FILE",
      help: `shape of the model: ${shapeNames.join(", ")}, or a config.json`,
    },
    mode: {
      type: "enum",
      values: ["lora", "full", "qlora", "generate"],
      default: "lora",
      help: "what to train; qlora is LoRA on NF4 weights; generate trains nothing: it reads a prompt of --max-length tokens and continues it",
    },
    dtype: dtypeOption,
    "batch-size": { type: "int", default: 4, min: 1, help: "samples per step" },
    "max-length": {
      type: "int",
      default: 512,
      min: 2,
      help: "tokens per dense row; rows of a file are cut to this length",
    },
    steps: { type: "int", default: 8, min: 1, help: "number of steps to measure" },
    warmup: { type: "int", default: 2, min: 0, help: "steps to run before measuring" },
    data: {
      type: "string",
      default: "dense",
      value: "dense|FILE",
      help: "dense rows of full length with every token a target, or rows with the lengths and masks of a data file",
    },
    tokenizer: { type: "path", value: "DIR", help: "tokenizer for --data FILE" },
    recompute: ungrouped(trainingOptions.recompute),
    "lora-r": { type: "int", default: 16, min: 1, help: "LoRA rank, on all seven linear layers" },
    "learning-rate": { type: "float", default: 2e-4, above: 0, help: "constant learning rate" },
    seed: { type: "int", default: 42, min: 0, help: "seed for weights, row order and dense tokens" },
  },
  examples: [
    ["neftune bench --shape s135m", "LoRA on a 135M shape, 4 dense rows of 512 tokens a step"],
    ["neftune bench --shape t1b --batch-size 2 --json", "1.1B, as JSON"],
    ["neftune bench --shape t1b --mode qlora", "the same on 4-bit weights"],
    [
      "neftune bench --shape s135m --mode generate",
      "reading a prompt and generating, next to the memory's rate",
    ],
    [
      "neftune bench --data alpaca_data.json --tokenizer llama2-7b --batch-size 8",
      "rows as long as real ones",
    ],
  ],
  interruptible: true,
  ranked: true,
  async run(values, context) {
    const config = readShape(values.shape);
    const length = values["max-length"];
    if (values.mode === "generate") {
      await generation(config, values, context);
      return;
    }
    const count = values.warmup + values.steps;
    const size = values["batch-size"];
    const ranks = context.team?.size ?? 1;
    const samples =
      values.data === "dense"
        ? denseSamples(count * ranks * size, length, config.vocabSize, values.seed)
        : await fileSamples(values.data, values.tokenizer, length, config.vocabSize);
    const batches = makeBatches(samples, count * ranks, size, values.seed);
    const lora =
      values.mode !== "full"
        ? { r: values["lora-r"], alpha: 16, dropout: 0, targetModules: [...linearModules], useRslora: false }
        : null;
    const device = openDevice(values, context);
    try {
      const measured = await measure(
        device,
        config,
        batches,
        {
          tune: values.mode === "full" ? "full" : "lora",
          quantization: values.mode === "qlora" ? { double: true } : null,
          dtype: values.dtype,
          recompute: values.recompute,
          lora,
          learningRate: values["learning-rate"],
          warmup: values.warmup,
          seed: values.seed,
        },
        context,
      );
      const tokens = Math.round(batches.reduce((sum, batch) => sum + batch.tokens, 0) / batches.length);
      context.draw("measuring this machine's matmul rate");
      const rates = matmulRates(device, config, values.dtype, tokens);
      const report = summarize(measured, rates, values, device.info, ranks);
      context.print(values.json ? toJson(report) : describe(report));
    } finally {
      device.close();
    }
  },
});

async function generation(
  config: LlamaConfig,
  values: { shape: string; dtype: "f32" | "bf16"; seed: number; json: boolean } & Record<
    "max-length",
    number
  > &
    Parameters<typeof openDevice>[0],
  context: Context,
): Promise<void> {
  const device = openDevice(values, context);
  try {
    const { shape, dtype, seed } = values;
    const settings = { shape, dtype, seed, promptTokens: values["max-length"] };
    const report = await benchGeneration(device, config, settings, context);
    context.print(values.json ? toJson(report) : describeGeneration(report));
  } finally {
    device.close();
  }
}

function summarize(
  measured: Measured,
  rates: ReturnType<typeof matmulRates>,
  values: { shape: string; mode: string; dtype: string; data: string; warmup: number } & Record<
    "batch-size" | "max-length",
    number
  >,
  device: DeviceInfo,
  ranks: number,
) {
  const timed = measured.steps.slice(values.warmup);
  const total = (value: (step: Step) => number) => timed.reduce((sum, step) => sum + value(step), 0);
  const seconds = median(timed.map((step) => step.seconds));
  // Dense steps are equal, so the median stands for all; a file's differ in length, so their sum does.
  const span = values.data === "dense" ? seconds * timed.length : total((step) => step.seconds);
  const flops = total((step) => step.flops) / span;
  const ceiling = rates[0]!.gflops;
  return {
    shape: values.shape,
    mode: values.mode,
    dtype: values.dtype,
    data: values.data,
    batch_size: values["batch-size"],
    max_length: values["max-length"],
    device: device.name,
    isa: device.isa,
    threads: device.threads,
    load_seconds: measured.load_seconds,
    step_seconds_median: seconds,
    tokens_per_step: total((step) => step.tokens) / timed.length,
    tokens_per_second: total((step) => step.tokens) / span,
    ...(ranks === 1 ? {} : { ranks: rankRates(timed, ranks) }),
    model_gflops_per_second: flops / 1e9,
    matmul_gflops_per_second: rates.map(({ shape, gflops }) => ({ shape: shape.join("x"), gflops })),
    share_of_matmul_rate: flops / 1e9 / ceiling,
    recompute: measured.planned.recompute,
    planned_bytes: measured.planned,
    resident_before_bytes: measured.resident_before_bytes,
    peak_bytes: measured.peak_bytes,
    seconds_by_operation: measured.seconds_by_operation,
    steps: measured.steps.map(({ seconds, loss, grad_norm }) => ({ seconds, loss, grad_norm })),
  };
}

function ranksRows(rates: ReturnType<typeof rankRates> | undefined): string[][] {
  if (rates === undefined) return [];
  return [
    [`tokens/s of ${rates.count} ranks`, formatCount(rates.tokens_per_second)],
    ["  of one alone", formatCount(rates.tokens_per_second_of_one)],
    ["  efficiency", `${(100 * rates.efficiency).toFixed(1)} %`],
    ["  communication", `${rates.communication_seconds_per_step.toFixed(4)} s per step`],
  ];
}

/** What ranks gain: their tokens/s together, one's without the exchanges, and the share of N times that. */
function rankRates(timed: readonly Step[], ranks: number) {
  const total = (value: (step: Step) => number) => timed.reduce((sum, step) => sum + value(step), 0);
  const [tokens, seconds] = [total((step) => step.tokens), total((step) => step.seconds)];
  const communication = total((step) => step.communication);
  const [all, one] = [(ranks * tokens) / seconds, tokens / (seconds - communication)];
  return {
    count: ranks,
    tokens_per_second: all,
    tokens_per_second_of_one: one,
    efficiency: all / (ranks * one),
    communication_seconds_per_step: communication / timed.length,
  };
}

function describe(report: ReturnType<typeof summarize>): string {
  const { planned_bytes: planned } = report;
  const expected = report.resident_before_bytes + planned.total;
  const percent = (share: number) => `${(share * 100).toFixed(1)} %`;
  const rows = [
    [
      "work",
      `${report.shape}, ${report.mode}, ${report.dtype}, ${report.data}, ${report.batch_size} × ${report.max_length}`,
    ],
    [
      "machine",
      `${report.device}, ${report.isa}, ${countOf(report.threads, report.isa.startsWith("sm_") ? "multiprocessor" : "thread")}`,
    ],
    ["median step", `${report.step_seconds_median.toFixed(3)} s`],
    ["tokens/s", formatCount(report.tokens_per_second)],
    ...ranksRows(report.ranks),
    ["model GFLOP/s", formatCount(report.model_gflops_per_second)],
    ...report.matmul_gflops_per_second.map(({ shape, gflops }) => [
      `matmul ${shape}`,
      `${formatCount(gflops)} GFLOP/s`,
    ]),
    [
      `share of ${report.matmul_gflops_per_second[0]!.shape.split("x")[0]}³`,
      percent(report.share_of_matmul_rate),
    ],
    [
      "planned",
      `${formatBytes(planned.total)}: weights ${formatBytes(planned.weights)}, trained ${formatBytes(planned.trained)}, ` +
        `activations ${formatBytes(planned.activations)}, workspace ${formatBytes(planned.workspace)} (recompute ${report.recompute})`,
    ],
    [
      "peak memory",
      `${formatBytes(report.peak_bytes)}; ${formatBytes(expected)} planned, with ${formatBytes(report.resident_before_bytes)} of the program before`,
    ],
  ];
  const spent = Object.values(report.seconds_by_operation).reduce((sum, { seconds }) => sum + seconds, 0);
  const operations = Object.entries(report.seconds_by_operation).map(([name, { seconds, calls }]) => [
    `  ${name.replace(/^nt_/, "")}`,
    `${seconds.toFixed(3)} s`,
    percent(seconds / spent),
    `${calls} calls`,
  ]);
  const steps = report.steps.map(({ seconds, loss, grad_norm }, i) => [
    `  ${i + 1}`,
    `${seconds.toFixed(3)} s`,
    loss.toFixed(4),
    grad_norm.toPrecision(4),
  ]);
  return [
    formatTable(rows),
    "",
    "by operation, measured steps:",
    formatTable(operations, [1, 2, 3]),
    "",
    formatTable([["  step", "time", "loss", "gradient norm"], ...steps], [1, 2, 3]),
  ].join("\n");
}
