// neftune quantize: a model with its linears in NF4, for Transformers with bitsandbytes and for neftune.

import { FormatError, UsageError } from "../errors.ts";
import { floatTypes } from "../floats.ts";
import { checkpointBytes, openCheckpoint, writeShardsInSteps } from "../formats/checkpoint.ts";
import {
  COMPANIONS,
  CONFIG_FILE,
  copyConfig,
  copyPresent,
  MAX_SHARD_BYTES,
  numberText,
  withWeights,
} from "../formats/model-folder.ts";
import { checkpointSource, quantizableWeights } from "../model/index.ts";
import { Nf4Room } from "../model/nf4-room.ts";
import { quantizedTensors } from "../model/quantized-checkpoint.ts";
import type { Device } from "../native/index.ts";
import { modelOption } from "../options/data.ts";
import type { Steps } from "../steps.ts";
import { trainDefaults } from "../train/index.ts";
import { openDevice } from "./arguments/device.ts";
import { defineCommand } from "./command.ts";
import { withBase } from "./inputs/adapter-base.ts";
import { expectModel, requireModel } from "./inputs/model-data.ts";
import { expectNewFolder, makeFolder } from "./outputs/new-folder.ts";
import { formatBytes, formatSeconds, toJson } from "./terminal/format.ts";
import { folded } from "./terminal/text.ts";
import { withWritingProgress } from "./terminal/writing-progress.ts";

/** As Transformers writes it. */
const quantizationConfig = (computeDtype: string, double: boolean) => ({
  _load_in_4bit: true,
  _load_in_8bit: false,
  bnb_4bit_compute_dtype: computeDtype,
  bnb_4bit_quant_storage: "uint8",
  bnb_4bit_quant_type: "nf4",
  bnb_4bit_use_double_quant: double,
  llm_int8_enable_fp32_cpu_offload: false,
  llm_int8_has_fp16_weight: false,
  llm_int8_skip_modules: null,
  llm_int8_threshold: numberText("6.0"),
  load_in_4bit: true,
  load_in_8bit: false,
  quant_method: "bitsandbytes",
});

interface Written {
  files: string[];
  /** Of all tensors, there and here. */
  originalBytes: number;
  bytes: number;
}

/** Quantizes the model in `from` into the folder `dir`, a tensor at a time. */
export function* quantizeInSteps(device: Device, from: string, dir: string, double: boolean): Steps<Written> {
  const source = checkpointSource(from);
  if (source.isQuantized || source.config.quantization !== null) {
    throw new FormatError(from, "is quantized already; give the original, unquantized model");
  }
  const [first] = quantizableWeights(source);
  const computeDtype = floatTypes[source.dtypeOf(first!.name, first!.shape)].torch;
  const companions = copyPresent(from, dir, COMPANIONS);
  copyConfig(from, dir, (config) => ({
    ...withWeights(config, { dtype: null, isTied: source.config.tieWordEmbeddings }),
    quantization_config: quantizationConfig(computeDtype, double),
  }));
  source.retain();
  const room = new Nf4Room(device, source, double);
  try {
    const tensors = quantizedTensors(device, source, room);
    const shards = yield* writeShardsInSteps(dir, tensors, MAX_SHARD_BYTES, { format: "pt" });
    device.expectFilesUnchanged("all");
    const files = [CONFIG_FILE, ...companions, ...shards];
    const [originalBytes, bytes] = [checkpointBytes(source.checkpoint), checkpointBytes(openCheckpoint(dir))];
    return { files, originalBytes, bytes };
  } finally {
    room.free();
    source.release(device);
  }
}

export const quantize = defineCommand({
  description:
    "Writes a model folder that Transformers loads with bitsandbytes and that neftune takes as --model without any flag. The linear layers become NF4, with the same values that --quantization nf4 trains on; embeddings, norms and lm_head stay as they are. Weights go into shards of 5 GB, next to config and tokenizer. Only one tensor is in memory at a time. The folder appears once it is complete.",
  options: {
    model: modelOption,
    output: {
      type: "path",
      value: "DIR",
      help: "folder to create; must be empty if it exists; required",
    },
    "double-quantization": {
      type: "bool",
      default: trainDefaults.doubleQuantization,
      help: "also quantize the scales: 4.13 bits per weight instead of 4.5",
    },
  },
  examples: [
    ["neftune quantize --model llama2-7b --output llama2-7b-nf4", "13.5 GB become 3.9"],
    [
      "neftune --model ./llama2-7b-nf4 --dataset alpaca --alpha 5",
      "QLoRA with NEFTune, without quantizing again",
    ],
  ],
  interruptible: true,
  async run(values, context) {
    expectModel(values.model, "quantize");
    const { output } = values;
    if (output === undefined) throw new UsageError("quantize needs --output: the folder to write");
    expectNewFolder(output);
    const { model } = withBase<{ model: string | undefined; adapter?: string }>(
      { model: values.model },
      context,
    );
    if (model !== values.model)
      context.note(
        "note: only the base model is quantized; to include the adapter, merge it first with neftune merge",
      );
    const { path: from } = await requireModel(model, "quantize", context);
    for (const note of checkpointSource(from).notes) context.note(note);
    const device = openDevice(values, context);
    try {
      const start = performance.now();
      const { files, originalBytes, bytes } = await makeFolder(output, "quantize", context, (dir) =>
        withWritingProgress(
          quantizeInSteps(device, from, dir, values["double-quantization"]),
          { name: output, path: dir },
          context,
        ),
      );
      const seconds = (performance.now() - start) / 1000;
      if (values.json) {
        context.print(toJson({ output, files, original_bytes: originalBytes, bytes, seconds }));
      } else {
        const sizes = `${formatBytes(originalBytes)} became ${formatBytes(bytes)}`;
        context.print(folded(`${output}: ${sizes}, ${formatSeconds(seconds)}`, context.columns));
      }
    } finally {
      device.close();
    }
  },
});
