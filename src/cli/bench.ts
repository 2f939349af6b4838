// neftune bench: training steps on random weights, beside what the same machine's matmul gives.

import { type LlamaConfig, linearModules } from "../model/index.ts";
import { ungrouped } from "../options/spec.ts";
import { trainingOptions } from "../options/table.ts";
import { readShape, shapeNames } from "../presets/shapes.ts";
import { openDevice } from "./arguments/device.ts";
import { fileSamples } from "./bench/file-samples.ts";
import { benchGeneration, describeGeneration } from "./bench/generation.ts";
import { measure } from "./bench/measure.ts";
import { CeilingBesideSteps, deviceRates } from "./bench/rates.ts";
import { describe, summarize } from "./bench/report.ts";
import { denseSamples, makeBatches } from "./bench/work.ts";
import { type Context, defineCommand } from "./command.ts";
import { dtypeOption } from "./inputs/model-data.ts";
import { toJson } from "./terminal/format.ts";

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
    optim: ungrouped(trainingOptions.optim),
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
    let beside: CeilingBesideSteps | null = null;
    try {
      // Several ranks would wait for each other's.
      if (device.isHost && ranks === 1) beside = new CeilingBesideSteps(device, values.dtype);
      const measured = await measure(
        device,
        config,
        batches,
        {
          tune: values.mode === "full" ? "full" : "lora",
          quantization: values.mode === "qlora" ? { double: true } : null,
          dtype: values.dtype,
          recompute: values.recompute,
          optim: values.optim,
          lora,
          learningRate: values["learning-rate"],
          warmup: values.warmup,
          seed: values.seed,
        },
        context,
        () => beside?.afterStep(),
      );
      const tokens = Math.round(batches.reduce((sum, batch) => sum + batch.tokens, 0) / batches.length);
      context.draw("measuring this machine's matmul rate");
      const rates = deviceRates(device, config, values.dtype, tokens, beside);
      const report = summarize(measured, rates, values, device.info, ranks);
      context.print(values.json ? toJson(report) : describe(report, context.columns));
    } finally {
      beside?.close();
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
    context.print(values.json ? toJson(report) : describeGeneration(report, context.columns));
  } finally {
    device.close();
  }
}
