// neftune init: a Hugging Face checkpoint with random weights, written tensor by tensor.

import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { FormatError, InterruptedError, UsageError } from "../errors.ts";
import { writeShardsInSteps } from "../formats/checkpoint.ts";
import { copyFileAtomically, ioError, writeTextAtomically } from "../formats/io.ts";
import type { TensorSource } from "../formats/safetensors.ts";
import { configToJson, type LlamaConfig } from "../model/config.ts";
import { randomSource, tensorSpecs } from "../model/source.ts";
import type { Device } from "../native/index.ts";
import { finish, finishUnlessAborted, type Steps } from "../steps.ts";
import { defineCommand } from "./command.ts";
import { openDevice } from "./device.ts";
import { formatBytes, formatCount, toJson } from "./format.ts";
import { ClosedPipe } from "./output.ts";
import { readShape, shapeNames } from "./presets.ts";

const MAX_SHARD_BYTES = 4 * 1024 ** 3;
const storedAs = { f32: "F32", bf16: "BF16", f16: "F16" } as const;

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

/** `writeRandomModel`, a tensor at a time; config.json comes last, so that no folder passes for a model that is none. */
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
      const data = () => {
        const tensor = room.rows(0, sizeOf(shape)).reshape(shape);
        source.fill(device, name, tensor);
        if (dtype !== "f16") return device.readBytes(tensor);
        return new Uint8Array(Float16Array.from(device.readFloats(tensor)).buffer);
      };
      return { name, dtype: storedAs[dtype], shape, data };
    });
    const files = yield* writeShardsInSteps(dir, tensors, MAX_SHARD_BYTES, { format: "pt" });
    writeTextAtomically(join(dir, "config.json"), `${toJson(configToJson(config))}\n`);
    const parameters = specs.reduce((sum, { shape }) => sum + sizeOf(shape), 0);
    return { files: ["config.json", ...files], parameters };
  } finally {
    device.free(room.ptr);
  }
}

const sizeOf = (shape: readonly number[]) => shape.reduce((product, n) => product * n, 1);

/** Makes the folder, or takes an empty one. Returns what takes away all that was put into it since. */
function claimFolder(dir: string): () => void {
  let made: string | undefined;
  try {
    if (existsSync(dir) && readdirSync(dir).length > 0) {
      throw new UsageError(`--output ${dir}: is there and not empty; choose another folder`);
    }
    made = mkdirSync(dir, { recursive: true });
  } catch (error) {
    throw ioError(dir, "use as --output", error);
  }
  return () => {
    if (made !== undefined) rmSync(made, { recursive: true, force: true });
    else for (const name of readdirSync(dir)) rmSync(join(dir, name), { force: true });
  };
}

interface TokenizerIds {
  bos: number | null;
  eos: number | null;
  size: number;
}

/** BOS, EOS and the number of tokens, from the files of a tokenizer's folder. */
function readTokenizerIds(dir: string): TokenizerIds {
  const read = (name: string): Record<string, unknown> => {
    const path = join(dir, name);
    if (!existsSync(path))
      throw new FormatError(dir, `has no ${name}; --tokenizer takes a folder with a tokenizer`);
    try {
      return JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
    } catch (cause) {
      throw new FormatError(path, "is not valid JSON", { cause });
    }
  };
  const tokenizer = read("tokenizer.json");
  const config = read("tokenizer_config.json");
  const added = (tokenizer.added_tokens ?? []) as { id: number; content: string }[];
  const vocab = ((tokenizer.model ?? {}) as { vocab?: Record<string, number> }).vocab ?? {};
  const idOf = (token: unknown): number | null => {
    const content = typeof token === "string" ? token : (token as { content?: string } | null)?.content;
    if (content === undefined) return null;
    return added.find((entry) => entry.content === content)?.id ?? vocab[content] ?? null;
  };
  let size = 0;
  for (const id of Object.values(vocab)) size = Math.max(size, id + 1);
  for (const { id } of added) size = Math.max(size, id + 1);
  return { bos: idOf(config.bos_token), eos: idOf(config.eos_token), size };
}

function withTokenizer(config: LlamaConfig, dir: string): LlamaConfig {
  const { bos, eos, size } = readTokenizerIds(dir);
  if (size > config.vocabSize) {
    throw new UsageError(
      `--tokenizer ${dir} has ${size} tokens, but the shape's vocab_size is ${config.vocabSize}; choose a shape with as many`,
    );
  }
  return { ...config, bosTokenId: bos, eosTokenIds: eos === null ? [] : [eos] };
}

export const init = defineCommand({
  name: "init",
  summary: "a new model with random weights",
  description:
    "Writes a Hugging Face model folder: config.json and model.safetensors (in shards of 4 GiB). Matrices are drawn from a normal distribution with the config's initializer_range (0.02) as standard deviation, norms are 1, biases 0. The same seed gives the same bytes.",
  options: {
    shape: {
      type: "string",
      value: "NAME|FILE",
      help: `${shapeNames.join(", ")}, or a config.json; required`,
    },
    output: {
      type: "path",
      value: "DIR",
      help: "the new folder; refused if it is there and not empty; required",
    },
    dtype: {
      type: "enum",
      values: ["bf16", "f32", "f16"],
      default: "bf16",
      help: "type of the stored weights",
    },
    seed: { type: "int", default: 42, min: 0, value: "N", help: "of the random weights" },
    tokenizer: {
      type: "path",
      value: "DIR",
      help: "a folder whose tokenizer files are copied; its BOS and EOS go into config.json",
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
    if (values.output === undefined) throw new UsageError("init needs --output: the folder to write");
    const dir = values.output;
    let config: LlamaConfig = { ...readShape(values.shape), dtype: values.dtype };
    if (values.tokenizer !== undefined) config = withTokenizer(config, values.tokenizer);
    const device = openDevice(values, context);
    try {
      const takeBack = claimFolder(dir);
      try {
        const steps = writeRandomModelInSteps(device, dir, config, values.seed);
        const written = await finishUnlessAborted(steps, context.signal);
        if (written === null) throw new InterruptedError("init was stopped; it left nothing");
        const { files, parameters } = written;
        for (const name of tokenizerFiles) {
          const from = values.tokenizer === undefined ? "" : join(values.tokenizer, name);
          if (from !== "" && existsSync(from)) {
            copyFileAtomically(from, join(dir, name));
            files.push(name);
          }
        }
        const bytes = parameters * (values.dtype === "f32" ? 4 : 2);
        if (values.json) context.print(toJson({ output: dir, files, parameters, bytes }));
        else
          context.print(
            `${dir}: ${formatCount(parameters)} values, ${formatBytes(bytes)} of ${values.dtype}`,
          );
      } catch (error) {
        if (!(error instanceof ClosedPipe)) takeBack();
        throw error;
      }
    } finally {
      device.close();
    }
  },
});
