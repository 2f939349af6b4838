// neftune merge: merge an adapter into its base model and write a full checkpoint.

import { UsageError } from "../errors.ts";
import type { FloatDType } from "../floats.ts";
import { checkpointBytes, openCheckpoint, writeShardsInSteps } from "../formats/checkpoint.ts";
import {
  COMPANIONS,
  CONFIG_FILE,
  copyConfig,
  copyPresent,
  MAX_SHARD_BYTES,
  withWeights,
} from "../formats/model-folder.ts";
import { openAdapter } from "../formats/peft.ts";
import {
  adapterLoraOptions,
  checkpointSource,
  type FolderSource,
  type QuantizationRequest,
  quantizableWeights,
} from "../model/index.ts";
import { type AdapterToMerge, type MergeOptions, Merger } from "../model/merged-checkpoint.ts";
import { Nf4Room } from "../model/nf4-room.ts";
import type { Device } from "../native/index.ts";
import { encodingOptions, modelOption } from "../options/data.ts";
import type { Steps } from "../steps.ts";
import { templateDateOf, trainDefaults } from "../train/index.ts";
import { openDevice } from "./arguments/device.ts";
import { type Context, defineCommand } from "./command.ts";
import { type TrainedOn, trainedQuantization, withBase } from "./inputs/adapter-base.ts";
import { completeModel, findModel } from "./inputs/checked-model.ts";
import { expectModel, loadData, requireData, wantedSplits } from "./inputs/model-data.ts";
import { chooseTemplate } from "./inputs/prompt-template.ts";
import { checkMerge } from "./merge-check.ts";
import { expectNewFolder, makeFolder } from "./outputs/new-folder.ts";
import { evaluationText } from "./run/lines.ts";
import { formatBytes, formatSeconds, toJson } from "./terminal/format.ts";
import { folded } from "./terminal/text.ts";
import { withWritingProgress } from "./terminal/writing-progress.ts";

export interface MergeRequest {
  /** Folders. */
  model: string;
  adapter: string;
  base: MergeOptions["base"] | undefined;
  dtype: MergeOptions["dtype"];
}

interface Merged {
  base: MergeOptions["base"];
  files: string[];
  /** Of all tensors. */
  bytes: number;
  /** Of the adapter's change, what rounding to `dtype` took (norms); null: nothing was rounded. */
  roundingLoss: number | null;
}

/** Merges into the folder `dir`, a tensor at a time. */
export function* mergeInSteps(
  device: Device,
  request: MergeRequest,
  dir: string,
  context: Pick<Context, "note">,
): Steps<Merged> {
  const source = checkpointSource(request.model);
  for (const note of source.notes) context.note(note);
  const adapter = openAdapter(request.adapter);
  const lora = adapterLoraOptions(request.adapter, adapter.config, source.config);
  const trained = trainedQuantization(request.adapter);
  const base = baseOf(request, source.isQuantized);
  if (!source.isQuantized) noteBase(base, trained, context);
  const files = [CONFIG_FILE, ...copyPresent(request.model, dir, COMPANIONS)];
  copyConfig(request.model, dir, ({ quantization_config: _, ...config }) =>
    withWeights(config, { dtype: request.dtype, isTied: source.config.tieWordEmbeddings }),
  );
  let roundingLoss: number | null = null;
  const options = { base, dtype: request.dtype };
  yield* withMerger(device, source, { ...adapter, lora }, trained, options, function* (merger) {
    const tensors = merger.tensors();
    files.push(...(yield* writeShardsInSteps(dir, tensors, MAX_SHARD_BYTES, { format: "pt" })));
    roundingLoss = merger.roundingLoss;
  });
  const bytes = checkpointBytes(openCheckpoint(dir));
  const written = request.dtype ?? source.dtypeOf(...firstLinear(source));
  if (roundingLoss !== null) context.note(roundingNote(written, roundingLoss));
  return { base, files, bytes, roundingLoss };
}

/**
 * Writes with a merger of a source and an adapter (null: the weights alone), `trained` on what it was. All that it takes
 * is free when it ends. Throws where the files have changed meanwhile.
 */
export function* withMerger(
  device: Device,
  source: FolderSource,
  adapter: AdapterToMerge | null,
  trained: TrainedOn | null,
  options: MergeOptions,
  write: (merger: Merger) => Steps<void>,
): Steps<void> {
  source.retain();
  const room = new Nf4Room(device, source, trained?.double ?? trainDefaults.doubleQuantization);
  try {
    const merger = new Merger(device, source, adapter, room, options);
    try {
      yield* write(merger);
      device.expectFilesUnchanged("all");
    } finally {
      merger.free();
    }
  } finally {
    room.free();
    source.release(device);
  }
}

/** How --check quantizes the base that the adapter was added to; a model that is stored in NF4 needs no word. */
function checkQuantizationOf(base: MergeOptions["base"], adapter: string): QuantizationRequest | null {
  if (base !== "dequantized") return null;
  return { double: trainedQuantization(adapter)?.double ?? trainDefaults.doubleQuantization, cache: null };
}

function firstLinear(source: FolderSource): [string, number[]] {
  const { name, shape } = quantizableWeights(source)[0]!;
  return [name, shape];
}

/** What rounding to `dtype` costs, and what keeps the change where it costs much. */
export function roundingNote(dtype: FloatDType, loss: number): string {
  const remedy = dtype === "bf16" ? "--dtype f32 or f16 keeps it" : "--dtype f32 keeps it";
  if (loss > 1.005) {
    const times = loss.toFixed(loss < 10 ? 1 : 0);
    return `rounding to ${dtype} changes the weights ${times} times as much as the adapter does; --dtype f32 keeps its change`;
  }
  const percent = loss < 0.0995 ? (100 * loss).toPrecision(1) : (100 * loss).toFixed(0);
  const cost = `rounding to ${dtype} loses ${Number(percent)} % of the change (norm)`;
  return loss < 0.02 ? cost : `${cost}; ${remedy}`;
}

export function baseOf(
  { model, base }: Pick<MergeRequest, "model" | "base">,
  isQuantized: boolean,
): MergeOptions["base"] {
  if (!isQuantized) return base ?? "original";
  if (base !== "original") return "dequantized";
  throw new UsageError(
    `--base original: ${model} holds its linears in NF4 only, not the original weights; give the model that it was quantized from as --model, or leave --base out to add the adapter to the dequantized weights`,
  );
}

/** Says where the adapter is added to other weights than it was trained on. */
export function noteBase(
  base: MergeOptions["base"],
  trained: TrainedOn | null,
  context: Pick<Context, "note">,
): void {
  if (trained === null) return;
  if (base === "original" && trained.isQuantized)
    context.note("the adapter was trained on NF4 weights: --base dequantized adds it to those");
  if (base === "dequantized" && !trained.isQuantized)
    context.note("the adapter was trained on the original weights: --base original adds it to those");
}

export const merge = defineCommand({
  description:
    "Writes a model folder for Transformers: W + s·B·A computed in float32 and rounded once, in shards of 5 GB, next to config and tokenizer. Only one tensor is in memory at a time. The folder appears once it is complete.\n--base original adds the adapter to the model's own weights; dequantized to what NF4 keeps of them, which is what QLoRA trains against, so that the merged model computes what base and adapter do. A model that is stored in NF4 has only the latter.",
  options: {
    model: modelOption,
    adapter: {
      type: "path",
      value: "DIR",
      help: "PEFT LoRA adapter to add, such as the folder of a run; required",
    },
    output: {
      type: "path",
      value: "DIR",
      help: "folder to create; must be empty if it exists; required",
    },
    base: {
      type: "enum",
      values: ["original", "dequantized"],
      help: "weights to add the adapter to (default original; dequantized for a model stored in NF4). For dequantized, an unquantized model is quantized as the adapter's run did, with double quantization if that is unknown",
    },
    dtype: {
      type: "enum",
      values: ["bf16", "f16", "f32"],
      help: "type of all tensors written (default: the model's own)",
    },
    check: {
      type: "string",
      value: "NAME|FILE|ID",
      help: "data to evaluate base + adapter and the merged model on, side by side, in float32",
    },
    ...encodingOptions,
  },
  examples: [
    [
      "neftune merge --model llama2-7b --adapter runs/llama2-7b-alpaca_data-1 --output merged",
      "a model for Transformers, vLLM and others",
    ],
    [
      "neftune merge --model runs/mine --output merged --dtype f32 --check held-out.json",
      "a run onto its own base, and what the merge costs in loss",
    ],
    [
      "neftune merge --model llama2-7b --adapter runs/qlora --base dequantized --output merged",
      "the weights that a QLoRA run has trained on, with its adapter",
    ],
  ],
  interruptible: true,
  async run(given, context) {
    expectModel(given.model, "merge");
    const values = withBase(given, context);
    const { adapter, output, base, dtype = null } = values;
    if (adapter === undefined) throw new UsageError("merge needs --adapter: the folder of a PEFT adapter");
    if (output === undefined) throw new UsageError("merge needs --output: the folder to write");
    expectNewFolder(output);
    // What becomes of the weights is --base's matter.
    const wish = { model: values.model, adapter };
    const found = await findModel(wish, "merge", context);
    const files =
      values.check === undefined ? null : await requireData([values.check], context, wantedSplits(values));
    const { path: model, preset } = await completeModel(found, wish, context);
    const template = chooseTemplate(values["prompt-template"], [adapter, model], preset);
    const data =
      files === null
        ? null
        : await loadData(
            files,
            model,
            { ...values, "prompt-template": template.option },
            { seed: 0, templateDate: templateDateOf([adapter, model]) },
            context,
          );
    const device = openDevice(values, context);
    try {
      const start = performance.now();
      const request = { model, adapter, base, dtype };
      const merged = await makeFolder(output, "merge", context, (dir) =>
        withWritingProgress(
          mergeInSteps(device, request, dir, context),
          { name: output, path: dir },
          context,
        ),
      );
      const seconds = (performance.now() - start) / 1000;
      const quantization = checkQuantizationOf(merged.base, adapter);
      const check =
        data === null
          ? null
          : await checkMerge(device, { model, adapter, merged: output, quantization }, data, context);
      if (values.json) {
        const { roundingLoss, ...rest } = merged;
        const losses = check && { base_and_adapter: check.separate.loss, merged: check.merged.loss };
        context.print(
          toJson({ output, ...rest, rounding_loss: roundingLoss, ...(losses && { check: losses }), seconds }),
        );
        return;
      }
      const size = formatBytes(merged.bytes);
      context.print(
        folded(
          `${output}: ${size}, onto the ${merged.base} weights, ${formatSeconds(seconds)}`,
          context.columns,
        ),
      );
      if (check === null) return;
      context.print(`base + adapter: ${evaluationText(check.separate)}`);
      context.print(`merged:         ${evaluationText(check.merged)}`);
    } finally {
      device.close();
    }
  },
});
