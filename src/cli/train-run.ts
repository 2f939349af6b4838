// A training run from names to files: data, model, trainer. What `neftune train` and the demo both call.

import type { Dataset } from "../data/dataset.ts";
import { splitHoldout } from "../data/holdout.ts";
import { isTemplateDate, today } from "../data/template-date.ts";
import { promptTemplate } from "../data/templates.ts";
import { InterruptedError, NeftuneError, UsageError } from "../errors.ts";
import { openAdapter } from "../formats/peft.ts";
import {
  adapterLoraOptions,
  type Llama,
  type LoraOptions,
  loadAdapter,
  readConfig,
  targetNames,
} from "../model/index.ts";
import type { Device } from "../native/index.ts";
import {
  evaluationLimits,
  expectEvaluable,
  learnsNoise,
  mergeLimits,
  NoisyTrainer,
  type Reporter,
  RunFolder,
  type RunPlan,
  resolveTrainerOptions,
  SampleOrder,
  savedDtype,
  type TrainerOptions,
  type TrainResult,
  totalSteps,
  trainingLimits,
} from "../train/index.ts";
import type { Context } from "./command.ts";
import { diskNote } from "./disk-note.ts";
import { countOf, formatBytes, formatCount } from "./format.ts";
import { type DataRequest, type EncodingValues, loadDatasets, noteDataset } from "./model-data.ts";
import { type ChosenTemplate, TEMPLATE_DATE, templateLine, templateRecord } from "./prompt-template.ts";
import { loadModel, type QuantizationValues } from "./quantization.ts";
import { usedTemplates } from "./row-notes.ts";
import { settingLines } from "./run-lines.ts";

export interface TrainRequest {
  /** Folder of the base model, and what files of the run call it. */
  model: { dir: string; name: string };
  datasets: readonly DataRequest[];
  evalDatasets: readonly DataRequest[];
  /** A share or a count of the data held out instead. */
  evalSplit: number | null;
  /** The most rows of each evaluation data set, or samples held out, that are evaluated; null: all. */
  evalSamples?: number | null;
  encoding: EncodingValues;
  /** Where the encoding's prompt template comes from: a preset; not given: from its option, or the rows. */
  templateFrom?: string;
  tune: "lora" | "full";
  dtype: "bf16" | "f32";
  recompute: "none" | "mlp" | "layer" | "auto";
  /** None: the frozen weights are used as the model has them. */
  quantization?: QuantizationValues;
  lora: LoraOptions;
  /** A PEFT adapter to start from; its rank, alpha, targets and rsLoRA win over `lora`. */
  adapter: string | undefined;
  trainer: Partial<TrainerOptions>;
  output: string;
  resume: boolean;
  /** Where the options' values come from, for the first lines; not given: the caller chose them all. */
  origins?: Readonly<Record<string, string>>;
  /** More for config.json. */
  record: Readonly<Record<string, unknown>>;
}

/** Trains. Opens the device while workers tokenize. Throws InterruptedError after saving where `context.signal` aborts. */
export async function runTraining(
  request: TrainRequest,
  openDevice: () => Device,
  context: Context,
  reporter: Reporter,
): Promise<TrainResult> {
  const options = resolveTrainerOptions(request.trainer);
  expectEvaluable(options, request.evalDatasets.length > 0 || request.evalSplit !== null);
  const recorded = RunFolder.check(request.output, request)?.get(TEMPLATE_DATE);
  const templateDate = isTemplateDate(recorded) ? recorded : today();
  const { dir } = request.model;
  const config = readConfig(dir);
  if (request.tune === "full" && config.quantization !== null) {
    throw new UsageError(
      `--tune full trains the weights themselves, but ${dir} has them in 4 bits; take the original weights, or --tune lora`,
    );
  }
  const evalEncoding = { ...request.encoding, samples: request.evalSamples ?? undefined };
  const load = (data: readonly DataRequest[], encoding: EncodingValues) =>
    loadDatasets(data, dir, encoding, config.vocabSize, {
      seed: options.seed,
      templateDate,
      context,
    });
  const loading = Promise.all([
    load(request.datasets, request.encoding),
    request.evalDatasets.length === 0 ? null : load(request.evalDatasets, evalEncoding),
  ]);
  // A device that does not open must not leave this one's failure unheard.
  loading.catch(() => {});
  const device = openDevice();
  try {
    const [{ dataset: all, record: data }, evaluation] = await loading;
    const evalFile = evaluation?.dataset ?? null;
    const maxLength = request.encoding["max-length"];
    noteDataset(context, "data", all, maxLength);
    const option = request.encoding["prompt-template"];
    const byOption = option === undefined ? "by the rows" : "--prompt-template";
    const template: ChosenTemplate = { option, why: request.templateFrom ?? byOption };
    const used = usedTemplates(all.notes);
    context.note(templateLine(template, used, dir));
    const kept = templateRecord(template, promptTemplate(option), used);
    if (all.stats.targetTokens === 0) {
      throw new NeftuneError(
        "data",
        `no sample has a target within ${maxLength} tokens; a larger --max-length may help`,
      );
    }
    const { train, held } = split(all, evalFile, request, options.seed, context);
    if (held !== null) noteDataset(context, "evaluation", held, maxLength);
    const model = loadForTraining(device, request, options, train, held, context);
    try {
      const { plan, quantized } = model;
      const dtype = quantized.size > 0 ? `nf4 and ${request.dtype}` : request.dtype;
      context.note(
        `model: ${request.model.name}, ${request.tune}, ${dtype}; ${formatBytes(plan.total)} planned (recompute ${plan.recompute})`,
      );
      const trainer = new NoisyTrainer({
        model,
        dataset: train,
        ...(held === null ? {} : { evalDataset: held }),
        options,
        output: request.output,
        resume: request.resume,
        origin: request.model,
        record: {
          ...request.record,
          ...loraRecord(model.options.lora),
          ...quantizationRecord(quantized),
          ...kept.record,
          [TEMPLATE_DATE]: templateDate,
          data,
          ...(evaluation === null ? {} : { eval_data: evaluation.record }),
        },
        files: kept.files,
        reporter: {
          ...reporter,
          onPlan(plan) {
            const lines = settingLines(trainer.options, plan, model.options.lora, request.origins ?? {});
            for (const line of lines) context.note(line);
            if (request.tune === "full") {
              const saveDtype = savedDtype(trainer.options, model.config);
              const use = {
                ...trainer.options,
                saveDtype,
                parameters: plan.trainedParameters,
                steps: plan.totalSteps,
              };
              context.note(diskNote(request.output, use));
            }
            context.finishFirst?.();
            reporter.onPlan?.(plan);
          },
        },
        signal: context.signal,
      });
      if (context.signal.aborted) throw new InterruptedError("stopped before the first step");
      return await trainer.train();
    } finally {
      model.close();
    }
  } finally {
    device.close();
  }
}

/** Training and evaluation data; notes samples that are in both, and a number held out that was not asked for. */
function split(
  all: Dataset,
  evalFile: Dataset | null,
  { evalSplit, evalSamples }: TrainRequest,
  seed: number,
  context: Context,
): { train: Dataset; held: Dataset | null } {
  if (evalSplit === null) {
    const shared = evalFile?.countShared(all) ?? 0;
    if (shared > 0) {
      context.note(
        `evaluation: the training data also has ${formatCount(shared)} of its ${countOf(evalFile!.length, "sample")}; their loss says little about new text`,
      );
    }
    return { train: all, held: evalFile };
  }
  if (evalFile !== null) throw new UsageError("--eval-split and --eval-dataset exclude each other; give one");
  const { train, held, asked, count } = splitHoldout(all, evalSplit, seed, evalSamples ?? undefined);
  if (count !== asked) {
    context.note(
      `--eval-split: ${countOf(count, "sample")} held out, not ${formatCount(asked)}: samples with equal tokens stay together`,
    );
  }
  return { train, held };
}

function loadForTraining(
  device: Device,
  request: TrainRequest,
  options: TrainerOptions,
  train: Dataset,
  held: Dataset | null,
  context: Context,
): Llama {
  const { batchSize, packing, epochs, maxSteps } = options;
  const order = new SampleOrder(train.length, options);
  let limits = trainingLimits(train, order, totalSteps(order, epochs, maxSteps), packing);
  if (held !== null) limits = mergeLimits(limits, evaluationLimits(held, batchSize, packing));

  const adapter = request.adapter === undefined ? null : openAdapter(request.adapter);
  const { dtype, tune, recompute, quantization } = request;
  const model = loadModel(device, request.model.dir, quantization, context, (config) => {
    const lora =
      adapter === null
        ? request.lora
        : { ...adapterLoraOptions(adapter.dir, adapter.config, config), dropout: request.lora.dropout };
    return {
      dtype,
      tune,
      ...(tune === "lora" ? { lora } : {}),
      recompute,
      maxTokens: limits.maxTokens,
      maxTargets: limits.maxTargets,
      maxPosition: limits.maxPosition,
      seed: options.seed,
      learnedNoise: learnsNoise(options),
    };
  });
  try {
    if (adapter !== null) loadAdapter(model.parameters!, adapter);
  } catch (error) {
    model.close();
    throw error;
  }
  return model;
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

/** How many values are trained and how long that takes, in a line. */
export function describePlan(plan: RunPlan): string {
  const parts = [
    `${formatCount(plan.trainedParameters)} trained values`,
    `${countOf(plan.totalSteps, "step")} (${formatCount(plan.stepsPerEpoch)} per epoch)`,
  ];
  if (plan.resumedFrom !== null) parts.push(`resumed after step ${plan.startStep} from ${plan.resumedFrom}`);
  return `run: ${plan.output}: ${parts.join(", ")}`;
}
