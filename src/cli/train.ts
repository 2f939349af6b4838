// neftune train: the main job.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { promptTemplate } from "../data/templates.ts";
import { UsageError } from "../errors.ts";
import { baseFingerprint, checkpointSource, readConfig } from "../model/index.ts";
import type { Values } from "../options/spec.ts";
import { adapterOwn, trainerOptions } from "../options/table.ts";
import { RunFolder, runTraining, type TrainResult, together } from "../train/index.ts";
import { BASE_FINGERPRINT, withBase } from "./adapter-base.ts";
import { completeModel, findModel } from "./checked-model.ts";
import { type Context, defineCommand } from "./command.ts";
import { openDevice } from "./device.ts";
import { expectEffects } from "./effects.ts";
import { toJson } from "./format.ts";
import { expectDataWords } from "./locate.ts";
import { dataNames, encodingOf, expectModel, requireData, wantedSplits } from "./model-data.ts";
import { type Sources, withLayers } from "./precedence.ts";
import { progressReporter } from "./progress.ts";
import { quantizationOf } from "./quantization.ts";
import { trackRun, writeCard, writeReport } from "./run-files.ts";
import { RunHistory } from "./run-lines.ts";
import { trainOptions } from "./train-options.ts";
import { noteRun } from "./train-run.ts";

/** What a folder or Hub data set given as --eval-dataset is taken from, by preference. */
const EVAL_SPLITS = ["validation", "test", "train"];

type TrainValues = Values<typeof trainOptions>;

export const train = defineCommand({
  description:
    "Writes a PEFT adapter (with --tune full a whole model), metrics.jsonl, config.json with every option and where its value came from, and checkpoints. Ctrl-C saves a checkpoint and ends with status 130; --resume continues the run, which ends with the same bits as one that was never stopped.",
  options: trainOptions,
  examples: [
    [
      "neftune --model llama2-7b --dataset evol-instruct --alpha 5",
      "LoRA with NEFTune noise, model and data from the Hugging Face Hub; train may be left out",
    ],
    ["neftune --model llama2-7b --dataset sharegpt --recipe neftune", "the settings of the NEFTune paper"],
    [
      "neftune --model ./my-llama --dataset mine.jsonl --eval-split 0.05 --output runs/mine",
      "your own model and data",
    ],
    [
      "neftune --model ./my-llama --dataset mine.jsonl --output runs/mine --resume",
      "continues after Ctrl-C or a crash",
    ],
    [
      "neftune --model llama2-7b --quantization nf4 --alpha 5",
      "QLoRA: the frozen weights in 4 bits, 3.8 GB instead of 13.5",
    ],
    ["neftune --config run.toml --alpha 10", "options from a file, one of them changed"],
  ],
  interruptible: true,
  async run(resolved, context) {
    const { values: layered, sources } = withLayers(resolved, context.given);
    const values = withBase(layered, context);
    checkTogether(values, sources, context);
    expectModel(values.model, "train");
    promptTemplate(values["prompt-template"]);
    if (values.output !== undefined) RunFolder.check(values.output, values);
    expectDataWords(dataNames([...values.dataset, ...(values["eval-dataset"] ?? [])]), context);
    // Fail before downloading gigabytes: the model's small files, then the data, then the weights.
    const found = await findModel(values, "train", context);
    const datasets = await requireData(values.dataset, context, wantedSplits(values));
    const evalDatasets = await requireData(values["eval-dataset"] ?? [], context, EVAL_SPLITS);
    const model = await completeModel(found, values, context);
    if (readConfig(model.path).quantization !== null) {
      for (const name of ["quantization", "double-quantization"]) sources[name] = "checkpoint";
    }
    const output = values.output ?? newOutput(model.label, datasets[0]!.label);
    const request = {
      model: { dir: model.path, name: model.name },
      datasets,
      evalDatasets,
      evalSplit: values["eval-split"] || null,
      evalSamples: values["eval-samples"] ?? null,
      encoding: encodingOf(values),
      tune: values.tune,
      dtype: values.dtype,
      recompute: values.recompute,
      quantization: quantizationOf(values),
      lora: {
        r: values["lora-r"],
        alpha: values["lora-alpha"],
        dropout: values["lora-dropout"],
        targetModules: [...values["target-modules"]],
        useRslora: values["use-rslora"],
      },
      adapter: values.adapter,
      trainer: trainerOptions(values),
      output,
      resume: values.resume,
      record: {
        ...record(values, sources, model.path),
        ...(values.tune === "lora"
          ? { [BASE_FINGERPRINT]: baseFingerprint(checkpointSource(model.path)) }
          : {}),
      },
    };
    const history = new RunHistory();
    const template = sources["prompt-template"];
    const origins = { options: sources, ...(isElsewhere(template) ? { template } : {}) };
    const progress = history.beside(progressReporter(context));
    const tracking = trackRun(values["report-to"], request, context);
    const work = runTraining(request, () => openDevice(values, context), {
      reporter: together(noteRun(request, origins, context, progress), tracking.reporter),
      signal: context.signal,
    });
    const result = await tracking.during(work, () => {
      writeCard(request, model.preset, context);
      if (values.report) writeReport(output, context);
    });
    if (values.json) context.print(toJson(summary(result)));
    else {
      const lines = history.closingLines(result, values.tune === "full");
      context.print([...lines, `try it:  ${tryCommand(result.output, values)}`].join("\n"));
    }
  },
});

/** Options that exclude each other, before anything is opened. */
function checkTogether(values: TrainValues, sources: Sources, context: Context): void {
  if (values.quantization === "nf4" && values.tune === "full") {
    throw new UsageError(
      "--quantization nf4 is for frozen weights, and --tune full freezes none; take --tune lora, or leave --quantization out",
    );
  }
  if (values.adapter !== undefined && values.tune === "full") {
    throw new UsageError("--adapter goes with --tune lora; --tune full trains no adapter");
  }
  expectEffects(trainOptions, values, context, sources);
  if (values.resume && values.output === undefined) {
    throw new UsageError("--resume needs --output: the folder of the run to continue");
  }
  if (values["eval-split"] && values["eval-dataset"] !== undefined) {
    throw new UsageError("--eval-split and --eval-dataset exclude each other; give one");
  }
  if (values["eval-samples"] !== undefined && !values["eval-split"] && values["eval-dataset"] === undefined) {
    throw new UsageError("--eval-samples needs something to evaluate on: --eval-dataset or --eval-split");
  }
  const held = values["eval-split"];
  if (held !== undefined && held >= 1 && !Number.isInteger(held)) {
    throw new UsageError(`--eval-split expects a share below 1 or a whole count, got ${held}`);
  }
  if (values.adapter === undefined) return;
  const own = adapterOwn.find((name) => context.given.has(name));
  if (own !== undefined) {
    throw new UsageError(`--adapter ${values.adapter} brings its own ${own}; leave --${own} out`);
  }
}

/** True where a value comes neither from a flag nor from the default: from a file, a recipe or a preset. */
function isElsewhere(source: string | undefined): source is string {
  return source !== undefined && source !== "flag" && source !== "default";
}

/** The options that the trainer does not see, for config.json; the trainer adds its own. */
function record(values: TrainValues, sources: Sources, modelDir: string): Record<string, unknown> {
  const given = Object.fromEntries(
    Object.keys(trainOptions).map((name) => [name, values[name as keyof TrainValues] ?? null]),
  );
  const { resume: _resume, output: _output, ...rest } = given;
  const { resume: _r, output: _o, ...origins } = sources;
  return { ...rest, model_folder: modelDir, option_sources: origins };
}

/** The first runs/<model>-<dataset>-<n> that is not there. */
function newOutput(model: string, dataset: string): string {
  const stem = `${model}-${dataset}`.replaceAll(/[^\w.-]+/g, "_");
  for (let n = 1; ; n++) {
    const path = join("runs", `${stem}-${n}`);
    if (!existsSync(path)) return path;
  }
}

function summary(result: TrainResult) {
  const { output, steps, skipped, loss, evaluation, seconds, tokens } = result;
  return {
    output,
    steps,
    skipped,
    loss,
    eval_loss: evaluation?.loss ?? null,
    eval_perplexity: evaluation?.perplexity ?? null,
    seconds,
    tokens,
  };
}

/** What to type to ask the model a question. The run brings its prompt template. */
function tryCommand(output: string, values: TrainValues): string {
  const what = values.tune === "full" ? `--model ${output}` : `--model ${values.model} --adapter ${output}`;
  const asQuantized = values.quantization === "nf4" ? quantizationFlags(values) : "";
  return `neftune generate ${what}${asQuantized} --prompt "…"`;
}

/** What a command needs to load the weights that the run was trained on. */
function quantizationFlags(values: TrainValues): string {
  const cache = values["quantized-cache"];
  return [
    " --quantization nf4",
    ...(values["double-quantization"] ? [] : ["--double-quantization off"]),
    ...(cache === undefined ? [] : [`--quantized-cache ${cache}`]),
  ].join(" ");
}
