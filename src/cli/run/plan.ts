// What `neftune train` and `sweep` make of their options: a run's request, with its model and data found.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { promptTemplate } from "../../data/templates.ts";
import { UsageError } from "../../errors.ts";
import { baseFingerprint, checkpointSource, readConfig } from "../../model/index.ts";
import type { Values } from "../../options/spec.ts";
import { adapterOwn, trainerOptions } from "../../options/table.ts";
import { oneByMachine } from "../../ranks/team.ts";
import { RunFolder, type RunRequest } from "../../train/index.ts";
import { expectEffects } from "../arguments/effects.ts";
import { type Sources, withLayers } from "../arguments/precedence.ts";
import { quantizationOf } from "../arguments/quantization.ts";
import { trainOptions } from "../arguments/train-options.ts";
import type { Context } from "../command.ts";
import { BASE_FINGERPRINT, withBase } from "../inputs/adapter-base.ts";
import { completeModel, findModel } from "../inputs/checked-model.ts";
import { expectDataWords, type LocatedModel } from "../inputs/locate.ts";
import { dataNames, encodingOf, expectModel, requireData, wantedSplits } from "../inputs/model-data.ts";

/** What a folder or Hub data set given as --eval-dataset is taken from, by preference. */
const EVAL_SPLITS = ["validation", "test", "train"];

export type TrainValues = Values<typeof trainOptions>;

export interface PlannedRun {
  request: RunRequest;
  /** The options with what recipe, presets and adapter say, and where each comes from. */
  values: TrainValues;
  sources: Sources;
  model: LocatedModel;
}

/** Checks the options and finds model and data, downloading what the cache lacks. Throws UsageError, NeftuneError. */
export async function planRun(resolved: TrainValues, context: Context): Promise<PlannedRun> {
  const { values: layered, sources } = withLayers(resolved, context.given);
  const values = withBase(layered, context);
  checkTogether(values, sources, context);
  expectModel(values.model, "train");
  promptTemplate(values["prompt-template"]);
  const { team = null } = context;
  if (values.output !== undefined && team?.isFirst !== false) RunFolder.check(values.output, values);
  expectDataWords(dataNames([...values.dataset, ...(values["eval-dataset"] ?? [])]), context);
  // Fail before downloading gigabytes: the model's small files, then the data, then the weights.
  const { model, datasets, evalDatasets } = await oneByMachine(team, async () => {
    const found = await findModel(values, "train", context);
    const datasets = await requireData(values.dataset, context, wantedSplits(values));
    const evalDatasets = await requireData(values["eval-dataset"] ?? [], context, EVAL_SPLITS);
    return { model: await completeModel(found, values, context), datasets, evalDatasets };
  });
  if (readConfig(model.path).quantization !== null) {
    for (const name of ["quantization", "double-quantization"]) sources[name] = "checkpoint";
  }
  const output = values.output ?? newOutput(model.label, datasets[0]!.label);
  const request: RunRequest = {
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
    shard: values.shard,
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
  return { request, values, sources, model };
}

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
export function isElsewhere(source: string | undefined): source is string {
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
