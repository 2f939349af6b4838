// neftune init: a Hugging Face checkpoint with random weights, written tensor by tensor.

import { join } from "node:path";
import { Tokenizer } from "../data/tokenizer.ts";
import { UsageError } from "../errors.ts";
import { encodeFloats, floatTypes } from "../floats.ts";
import { writeShardsInSteps } from "../formats/checkpoint.ts";
import { writeTextAtomically } from "../formats/io.ts";
import { CONFIG_FILE, copyPresent, MAX_SHARD_BYTES } from "../formats/model-folder.ts";
import type { TensorSource } from "../formats/safetensors.ts";
import { tensorSpecs } from "../model/architecture.ts";
import { configToJson, type LlamaConfig } from "../model/config.ts";
import { randomSource } from "../model/source.ts";
import { type Device, sizeOf } from "../native/index.ts";
import { readShape, shapeNames } from "../presets/shapes.ts";
import { finish, type Steps } from "../steps.ts";
import { openDevice } from "./arguments/device.ts";
import { defineCommand } from "./command.ts";
import { expectNewFolder, makeFolder } from "./outputs/new-folder.ts";
import { formatBytes, formatCount, toJson } from "./terminal/format.ts";
import { folded } from "./terminal/text.ts";
import { withWritingProgress } from "./terminal/writing-progress.ts";

/** Values that pass from the device to the file at a time. */
const PIECE_VALUES = 2 ** 22;

/** What a tokenizer folder may hold; the first is required. */
const tokenizerFiles = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "chat_template.jinja",
  "generation_config.json",
];

/** Writes a checkpoint with random weights into `dir`: N(0, initializer_range), norms 1, biases 0. */
export function writeRandomModel(
  device: Device,
  dir: string,
  config: LlamaConfig,
  seed: number,
): WrittenModel {
  return finish(writeRandomModelInSteps(device, dir, config, seed));
}

interface WrittenModel {
  files: string[];
  parameters: number;
}

/** `writeRandomModel`, a piece of a tensor at a time. */
function* writeRandomModelInSteps(
  device: Device,
  dir: string,
  config: LlamaConfig,
  seed: number,
): Steps<WrittenModel> {
  const dtype = config.dtype ?? "f32";
  const source = randomSource(config, seed);
  const specs = tensorSpecs(config);
  const elements = specs.reduce((most, { shape }) => Math.max(most, sizeOf(shape)), 0);
  // The generator makes no f16.
  const room = device.allocate(dtype === "f16" ? "f32" : dtype, [elements]);
  try {
    const tensors = specs.map(({ name, shape }): TensorSource => {
      const data = function* () {
        const values = room.rows(0, sizeOf(shape));
        source.fill(device, name, values.reshape(shape));
        for (let at = 0; at < values.size; at += PIECE_VALUES) {
          const piece = values.rows(at, Math.min(PIECE_VALUES, values.size - at));
          if (dtype !== "f16") yield device.readBytes(piece);
          else yield encodeFloats(device.readFloats(piece), "f16");
        }
      };
      return { name, dtype: floatTypes[dtype].safetensors, shape, data };
    });
    const files = yield* writeShardsInSteps(dir, tensors, MAX_SHARD_BYTES, { format: "pt" });
    writeTextAtomically(join(dir, CONFIG_FILE), `${toJson(configToJson(config))}\n`);
    const parameters = specs.reduce((sum, { shape }) => sum + sizeOf(shape), 0);
    return { files: [CONFIG_FILE, ...files], parameters };
  } finally {
    device.free(room.ptr);
  }
}

function withTokenizer(config: LlamaConfig, dir: string): LlamaConfig {
  const { bosId, eosId, vocabSize } = Tokenizer.load(dir);
  if (vocabSize > config.vocabSize) {
    throw new UsageError(
      `--tokenizer ${dir} has ${vocabSize} tokens, but the shape's vocab_size is ${config.vocabSize}; choose a shape whose vocab_size is at least ${vocabSize}`,
    );
  }
  return { ...config, bosTokenId: bosId, eosTokenIds: eosId === null ? [] : [eosId] };
}

export const init = defineCommand({
  description:
    "Writes a Hugging Face model folder: config.json and model.safetensors (in shards of 5 GB). Matrices are drawn from a normal distribution with the config's initializer_range (0.02) as standard deviation, norms are 1, biases 0. The same seed gives the same bytes.",
  options: {
    shape: {
      type: "string",
      value: "NAME|FILE",
      help: `shape of the model: ${shapeNames.join(", ")}, or a config.json; required`,
    },
    output: {
      type: "path",
      value: "DIR",
      help: "folder to create; must be empty if it exists; required",
    },
    dtype: {
      type: "enum",
      values: ["bf16", "f32", "f16"],
      default: "bf16",
      help: "type of the stored weights",
    },
    seed: { type: "int", default: 42, min: 0, value: "N", help: "seed for the random weights" },
    tokenizer: {
      type: "path",
      value: "DIR",
      help: "copy the tokenizer from this folder and put its BOS and EOS into config.json",
    },
  },
  examples: [
    [
      "neftune init --shape m25 --output m25 --tokenizer llama2-tokenizer",
      "a model of 38.7 M values to train from scratch",
    ],
    ["neftune init --shape my/config.json --output new --dtype f32", "a shape of your own"],
  ],
  interruptible: true,
  async run(values, context) {
    if (values.shape === undefined)
      throw new UsageError(`init needs --shape: ${shapeNames.join(", ")}, or a config.json`);
    const { output, tokenizer } = values;
    if (output === undefined) throw new UsageError("init needs --output: the folder to write");
    const shape: LlamaConfig = { ...readShape(values.shape), dtype: values.dtype };
    const config = tokenizer === undefined ? shape : withTokenizer(shape, tokenizer);
    expectNewFolder(output);
    const device = openDevice(values, context);
    try {
      const { files, parameters } = await makeFolder(output, "init", context, function* (dir) {
        const steps = writeRandomModelInSteps(device, dir, config, values.seed);
        const written = yield* withWritingProgress(steps, { name: output, path: dir }, context);
        const copied = tokenizer === undefined ? [] : copyPresent(tokenizer, dir, tokenizerFiles);
        return { ...written, files: [...written.files, ...copied] };
      });
      const bytes = parameters * floatTypes[values.dtype].bytes;
      if (values.json) context.print(toJson({ output, files, parameters, bytes }));
      else
        context.print(
          folded(
            `${output}: ${formatCount(parameters)} values, ${formatBytes(bytes)} of ${values.dtype}`,
            context.columns,
          ),
        );
    } finally {
      device.close();
    }
  },
});
