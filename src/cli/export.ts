// neftune export: write a model, with or without an adapter, or an adapter alone as a GGUF file.

import { statSync } from "node:fs";
import { basename, resolve } from "node:path";
import { tokenizerFields } from "../data/gguf/vocabulary.ts";
import { Tokenizer } from "../data/tokenizer.ts";
import { UsageError } from "../errors.ts";
import { type GgufTypeName, writeGgufInSteps } from "../formats/gguf.ts";
import { partialPath } from "../formats/io.ts";
import { openAdapter } from "../formats/peft.ts";
import { adapterFields, modelFields } from "../model/gguf/fields.ts";
import { adapterGgufTensors, expectInGguf, modelTensors } from "../model/gguf/tensors.ts";
import { adapterLoraOptions, checkpointSource, type FolderSource, loraScale } from "../model/index.ts";
import { kinds } from "../model/kinds.ts";
import type { MergeOptions } from "../model/merged-checkpoint.ts";
import type { Device } from "../native/index.ts";
import { modelOption, templateHelp } from "../options/data.ts";
import type { Steps } from "../steps.ts";
import { openDevice } from "./arguments/device.ts";
import { type Context, defineCommand } from "./command.ts";
import { trainedQuantization, withBase } from "./inputs/adapter-base.ts";
import { type CheckedModel, completeModel, findModel } from "./inputs/checked-model.ts";
import { adapterOption, expectModel } from "./inputs/model-data.ts";
import { chooseTemplate } from "./inputs/prompt-template.ts";
import { baseOf, noteBase, withMerger } from "./merge.ts";
import { expectNewFile, makeFile } from "./outputs/new-file.ts";
import { expectNoModelfile, makeOllamaFolder, writeModelfile } from "./outputs/ollama.ts";
import { formatBytes, formatSeconds, toJson } from "./terminal/format.ts";
import { folded } from "./terminal/text.ts";
import { withWritingProgress } from "./terminal/writing-progress.ts";

export interface ExportRequest {
  /** Folders; `adapter` null: the model as it is. */
  model: string;
  adapter: string | null;
  /** What the file calls the model: a Hub id, or the last part of its path. */
  name: string;
  base: MergeOptions["base"] | undefined;
  type: GgufTypeName;
}

/** Writes the model, the adapter added to it, as one file, a piece of a tensor at a time. */
export function* exportModelInSteps(
  device: Device,
  request: ExportRequest,
  output: string,
  context: Pick<Context, "note">,
): Steps<void> {
  const source = openSource(request.model, context);
  const adapter = request.adapter === null ? null : openAdapter(request.adapter);
  const trained = request.adapter === null ? null : trainedQuantization(request.adapter);
  const base = baseOf(request, source.isQuantized);
  if (adapter !== null && !source.isQuantized) noteBase(base, trained, context);
  const withLora =
    adapter === null
      ? null
      : { ...adapter, lora: adapterLoraOptions(adapter.dir, adapter.config, source.config) };
  const { config } = source;
  yield* withMerger(device, source, withLora, trained, { base, dtype: "f32" }, function* (merger) {
    const tensors = modelTensors(config, inFileOrder(source, merger.tensors()), request.type);
    const fields = [
      ...modelFields(config, request.model, request.name, tensors, request.type),
      ...tokenizerFields(request.model, config.vocabSize, kinds[config.modelType].gguf.architecture),
    ];
    yield* writeGgufInSteps(output, fields, tensors);
  });
}

/** Writes the adapter alone. llama.cpp scales by alpha / r, so rsLoRA's alpha is written as alpha · √r. */
export function* exportAdapterInSteps(
  request: Pick<ExportRequest, "model" | "type"> & { adapter: string },
  output: string,
  context: Pick<Context, "note">,
): Steps<void> {
  const { config } = openSource(request.model, context);
  const adapter = openAdapter(request.adapter);
  const lora = adapterLoraOptions(request.adapter, adapter.config, config);
  const tensors = adapterGgufTensors(config, adapter, lora, request.type);
  const name = basename(resolve(request.adapter));
  const fields = adapterFields(config, request.adapter, name, tensors, loraScale(lora) * lora.r);
  yield* writeGgufInSteps(output, fields, tensors);
}

function openSource(model: string, context: Pick<Context, "note">): FolderSource {
  const source = checkpointSource(model);
  for (const note of source.notes) context.note(note);
  expectInGguf(source.config, model);
  const { window } = source.config;
  if (window !== null)
    context.note(
      `note: the model attends to the last ${window.size} tokens; llama.cpp has no window for it and attends to all, which differs in longer texts`,
    );
  return source;
}

/** File by file, by name: as llama.cpp's converters have them. */
function inFileOrder<T extends { name: string }>({ checkpoint }: FolderSource, tensors: readonly T[]): T[] {
  const file = ({ name }: T) => checkpoint.files.indexOf(checkpoint.tensors.get(name)!.file);
  return tensors.toSorted((a, b) => file(a) - file(b) || (a.name < b.name ? -1 : 1));
}

/** A Hub id without its revision, or the name of the folder. */
const ggufName = ({ path, name }: CheckedModel) =>
  path === name ? basename(resolve(path)) : name.replace(/@.*$/, "");

export const exportCommand = defineCommand({
  description:
    "Writes the model with its tokenizer and chat template as one file. With --adapter (or a run as --model), the adapter is added to the weights: W + s·B·A in float32, rounded once to --type. --adapter-only writes the adapter alone, for use with a GGUF of its base. Only a piece of a tensor is in memory at a time, and the file appears once it is complete. Names, metadata and bits are those of llama.cpp's own converters.",
  options: {
    model: modelOption,
    adapter: adapterOption,
    output: { type: "path", value: "FILE", help: "file to create, such as model.gguf; required" },
    format: { type: "enum", values: ["gguf"], default: "gguf", help: "file format" },
    type: {
      type: "enum",
      values: ["f16", "bf16", "f32", "q8_0", "q4_0"],
      help: "type of the matrices: a float, or blocks of 32 values in 8.5 (q8_0) or 4.5 bits (q4_0) per value. Vectors stay f32 (default f16; f32 with --adapter-only)",
    },
    "adapter-only": {
      type: "bool",
      default: false,
      help: "write the adapter without the model; llama.cpp loads it with --lora, Ollama with ADAPTER",
    },
    base: {
      type: "enum",
      values: ["original", "dequantized"],
      help: "weights to add the adapter to, as in neftune merge (default original; dequantized for a model stored in NF4)",
    },
    ollama: {
      type: "path",
      value: "DIR",
      help: "also write DIR/Modelfile, from which `ollama create` makes a model",
    },
    "prompt-template": {
      type: "string",
      value: "NAME|FILE",
      help: `template for the Modelfile: ${templateHelp}. Default: the one that the run was trained with, else the tokenizer's chat template`,
    },
  },
  examples: [
    [
      "neftune export --model runs/mine --output mine.gguf --type q8_0",
      "a run with its base model, in one file",
    ],
    [
      "neftune export --model runs/mine --adapter-only --output mine-lora.gguf",
      "the adapter alone, for a GGUF of its base",
    ],
    [
      "neftune export --model runs/mine --output mine.gguf --ollama . && ollama create mine",
      "a model for Ollama",
    ],
  ],
  interruptible: true,
  async run(given, context) {
    expectModel(given.model, "export");
    const values = withBase(given, context);
    const { adapter, output, base, ollama } = values;
    const isAdapterOnly = values["adapter-only"];
    if (output === undefined) throw new UsageError("export needs --output: the file to write");
    if (isAdapterOnly && adapter === undefined)
      throw new UsageError("--adapter-only needs --adapter: the folder of a PEFT adapter");
    if (base !== undefined && (adapter === undefined || isAdapterOnly))
      throw new UsageError("--base says what an adapter is added to; here none is added");
    expectNewFile(output);
    if (ollama !== undefined) expectNoModelfile(ollama);
    const type = values.type ?? (isAdapterOnly ? "f32" : "f16");
    const wish = { model: values.model, ...(adapter === undefined ? {} : { adapter }) };
    const found = await completeModel(await findModel(wish, "export", context), wish, context);
    const model = found.path;
    if (ollama !== undefined) makeOllamaFolder(ollama);
    const start = performance.now();
    if (isAdapterOnly) {
      const request = { model, adapter: adapter!, type };
      await makeFile(output, "export", context, exportAdapterInSteps(request, output, context));
    } else {
      const device = openDevice(values, context);
      try {
        const request = { model, adapter: adapter ?? null, name: ggufName(found), base, type };
        const steps = withWritingProgress(
          exportModelInSteps(device, request, output, context),
          { name: output, path: partialPath(output) },
          context,
        );
        await makeFile(output, "export", context, steps);
      } finally {
        device.close();
      }
    }
    const seconds = (performance.now() - start) / 1000;
    const modelfile =
      ollama === undefined
        ? null
        : writeModelfile(
            {
              dir: ollama,
              from: isAdapterOnly ? model : output,
              adapter: isAdapterOnly ? output : null,
              tokenizer: Tokenizer.load(model),
              template: chooseTemplate(values["prompt-template"], [adapter, model], found.preset).option,
            },
            context,
          );
    const bytes = statSync(output).size;
    if (values.json) {
      context.print(toJson({ output, type, bytes, ...(modelfile && { modelfile }), seconds }));
      return;
    }
    context.print(
      folded(`${output}: ${formatBytes(bytes)}, ${type}, ${formatSeconds(seconds)}`, context.columns),
    );
    if (modelfile !== null) context.print(`${modelfile}: for ollama create NAME -f ${modelfile}`);
  },
});
