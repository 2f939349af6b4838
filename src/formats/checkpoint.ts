// A Hugging Face model folder's weights: model.safetensors, or shards with model.safetensors.index.json.
import { existsSync, mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { FormatError, NeftuneError } from "../errors.ts";
import { finish, type Steps } from "../steps.ts";
import { ioError, writeTextAtomically } from "./io.ts";
import { readJsonObject } from "./json-file.ts";
import { sourceBytes, sourceGroups } from "./safetensors/writer.ts";
import {
  readSafetensorsHeader,
  type SafetensorsHeader,
  type TensorEntry,
  type TensorSource,
  type TensorSources,
  writeSafetensorsInSteps,
} from "./safetensors.ts";

export const SINGLE_FILE = "model.safetensors";
export const INDEX_FILE = "model.safetensors.index.json";
const SHARD_NAME = /^model-\d{5}-of-\d{5}\.safetensors$/;

export interface Checkpoint {
  dir: string;
  /** One header a file, shards in the order of their names. */
  files: SafetensorsHeader[];
  /** All tensors of all files. */
  tensors: Map<string, CheckpointTensor>;
}

export interface CheckpointTensor {
  file: SafetensorsHeader;
  entry: TensorEntry;
}

/**
 * Reads the headers of the checkpoint in `dir`, and no data. A single file wins over an index, as in
 * Transformers. A tensor that a shard holds and the index leaves out is taken too, as long as no other shard
 * holds it. Throws FormatError where index and shards disagree, NeftuneError where there are no safetensors.
 */
export function openCheckpoint(dir: string): Checkpoint {
  const names = listFolder(dir);
  if (names.includes(SINGLE_FILE)) {
    const file = readSafetensorsHeader(join(dir, SINGLE_FILE));
    return { dir, files: [file], tensors: collect([file]) };
  }
  if (names.includes(INDEX_FILE)) return openShards(dir);
  throw noWeights(dir, names);
}

function openShards(dir: string): Checkpoint {
  const indexPath = join(dir, INDEX_FILE);
  const weightMap = readWeightMap(indexPath);
  const headers = new Map<string, SafetensorsHeader>();
  for (const shard of shardsIn(weightMap)) {
    const path = join(dir, shard);
    if (!existsSync(path)) {
      throw new FormatError(
        indexPath,
        `names the shard ${shard}, which is not in the folder; download or copy it there`,
      );
    }
    headers.set(shard, readSafetensorsHeader(path));
  }
  for (const [name, shard] of weightMap) {
    if (!headers.get(shard)!.tensors.has(name)) {
      throw new FormatError(
        indexPath,
        `says that ${shard} holds tensor ${JSON.stringify(name)}, but it does not`,
      );
    }
  }
  const files = [...headers.values()];
  return { dir, files, tensors: collect(files) };
}

/** The file names of the shards that the index in `dir` names, sorted. Throws FormatError for a malformed index. */
export function shardsOf(dir: string): string[] {
  return shardsIn(readWeightMap(join(dir, INDEX_FILE)));
}

const shardsIn = (weightMap: ReadonlyMap<string, string>) => [...new Set(weightMap.values())].sort();

/** The index's weight_map: tensor name → file name in the same folder. */
function readWeightMap(indexPath: string): Map<string, string> {
  const map = readJsonObject(indexPath).get("weight_map");
  if (!(map instanceof Map)) {
    throw new FormatError(indexPath, "weight_map must be an object from tensor names to file names");
  }
  if (map.size === 0)
    throw new FormatError(indexPath, "weight_map is empty; expected tensor names and their files");
  const checked = new Map<string, string>();
  for (const [name, file] of map) {
    if (typeof file !== "string") {
      throw new FormatError(
        indexPath,
        `weight_map[${JSON.stringify(name)}] must be a file name, found ${typeof file}`,
      );
    }
    // A name with a folder in it could lead out of the model's folder.
    if (!/^[^/\\\0]+\.safetensors$/.test(file)) {
      throw new FormatError(
        indexPath,
        `weight_map[${JSON.stringify(name)}] is ${JSON.stringify(file)}; expected the plain name of a .safetensors file in the same folder`,
      );
    }
    checked.set(name, file);
  }
  return checked;
}

function collect(files: readonly SafetensorsHeader[]): Map<string, CheckpointTensor> {
  const tensors = new Map<string, CheckpointTensor>();
  for (const file of files) {
    for (const [name, entry] of file.tensors) {
      const other = tensors.get(name);
      if (other) {
        throw new FormatError(
          file.path,
          `tensor ${JSON.stringify(name)} is also in ${other.file.path}; remove one of them`,
        );
      }
      tensors.set(name, { file, entry });
    }
  }
  return tensors;
}

function listFolder(dir: string): string[] {
  try {
    if (!statSync(dir).isDirectory()) {
      throw new NeftuneError(
        "io",
        `${dir}: expected a model folder, found a file; give the folder that holds it`,
      );
    }
    return readdirSync(dir).sort();
  } catch (error) {
    throw ioError(dir, "read", error);
  }
}

/** True for weights as PyTorch pickles them, going by the name: reading such a file can run code. */
export const isPickle = (name: string) => /\.(?:bin|pt|pth|ckpt)$/.test(name) && name !== "training_args.bin";

/** Bytes of all tensors of a checkpoint. */
export const checkpointBytes = ({ files }: Checkpoint) =>
  files.reduce((sum, { fileBytes, dataStart }) => sum + fileBytes - dataStart, 0);

/** The error for a folder without safetensors weights; says what is there in their place. */
function noWeights(dir: string, names: readonly string[]): NeftuneError {
  const wanted = `expected ${SINGLE_FILE} or ${INDEX_FILE} with its shards`;
  const pickles = names.filter(isPickle);
  if (pickles.length > 0) {
    return new NeftuneError(
      "no_safetensors",
      `${dir}: only PyTorch files here (${pickles.slice(0, 3).join(", ")}); ${wanted}. They can run code when read, so neftune ` +
        'does not read them. Convert them where you trust them: python -c "from transformers import AutoModelForCausalLM as M; ' +
        `M.from_pretrained('${dir}').save_pretrained('${dir}-safetensors')"`,
    );
  }
  if (names.includes("adapter_model.safetensors")) {
    return new NeftuneError(
      "no_safetensors",
      `${dir}: a PEFT adapter, not a model; ${wanted}. Give its base as --model and this folder as --adapter`,
    );
  }
  const others = names.filter((name) => name.endsWith(".safetensors"));
  const found =
    others.length > 0 ? `found ${others.slice(0, 3).join(", ")} without an index` : "found neither";
  return new NeftuneError(
    "no_safetensors",
    `${dir}: no model weights: ${wanted}; ${found}. Download or copy the missing file`,
  );
}

/**
 * Writes a checkpoint into `dir` (made where it is missing): model.safetensors where all fits in
 * `maxShardBytes` of data, else shards filled in the given order and, last, the index. Each file appears whole or
 * not at all, and an index only after all its shards; weights of another checkpoint in `dir` are replaced.
 * Tensors in a list stay together; what is larger than `maxShardBytes` gets a shard of its own. Returns the names of the
 * files.
 */
export function writeShards(
  dir: string,
  tensors: TensorSources,
  maxShardBytes: number,
  metadata?: ReadonlyMap<string, string> | Readonly<Record<string, string>>,
): string[] {
  return finish(writeShardsInSteps(dir, tensors, maxShardBytes, metadata));
}

/** `writeShards`, a tensor at a time. */
export function* writeShardsInSteps(
  dir: string,
  tensors: TensorSources,
  maxShardBytes: number,
  metadata?: ReadonlyMap<string, string> | Readonly<Record<string, string>>,
): Steps<string[]> {
  const { shards, totalBytes } = split(dir, tensors, maxShardBytes);
  try {
    mkdirSync(dir, { recursive: true });
  } catch (error) {
    throw ioError(dir, "created", error);
  }
  const single = shards.length === 1;
  const number = (n: number) => String(n).padStart(5, "0");
  const files = single
    ? [SINGLE_FILE]
    : shards.map((_, i) => `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`);
  // An old index must not speak for new shards, should we be stopped between two of them.
  if (!single) remove(join(dir, INDEX_FILE));
  yield totalBytes;
  for (const [i, shard] of shards.entries()) {
    yield* writeSafetensorsInSteps(join(dir, files[i]!), shard, metadata);
  }
  if (single) {
    remove(join(dir, INDEX_FILE));
  } else {
    remove(join(dir, SINGLE_FILE));
    writeTextAtomically(join(dir, INDEX_FILE), indexText(shards, files, totalBytes));
    files.push(INDEX_FILE);
  }
  for (const name of listFolder(dir)) {
    if (SHARD_NAME.test(name) && !files.includes(name)) remove(join(dir, name));
  }
  return files;
}

function remove(path: string): void {
  try {
    rmSync(path, { force: true });
  } catch (error) {
    throw ioError(path, "removed", error);
  }
}

function split(dir: string, tensors: TensorSources, maxShardBytes: number) {
  const shards: (readonly TensorSource[])[][] = [[]];
  const names = new Set<string>();
  let shardBytes = 0;
  let totalBytes = 0;
  for (const group of sourceGroups(tensors)) {
    let bytes = 0;
    for (const tensor of group) {
      if (names.has(tensor.name)) {
        throw new NeftuneError(
          "invalid_tensor",
          `${dir}: two tensors have the name ${JSON.stringify(tensor.name)}`,
        );
      }
      names.add(tensor.name);
      bytes += sourceBytes(dir, tensor);
    }
    if (shardBytes > 0 && shardBytes + bytes > maxShardBytes) {
      shards.push([]);
      shardBytes = 0;
    }
    shards.at(-1)!.push(group);
    shardBytes += bytes;
    totalBytes += bytes;
  }
  return { shards, totalBytes };
}

/** The index as Transformers writes it: names sorted, two spaces, a newline at the end. */
function indexText(
  shards: readonly (readonly TensorSource[])[][],
  files: readonly string[],
  totalBytes: number,
): string {
  const lines = shards.flatMap((shard, i) => shard.flat().map(({ name }) => ({ name, file: files[i]! })));
  lines.sort((a, b) => (a.name < b.name ? -1 : 1));
  const map = lines
    .map(({ name, file }) => `    ${JSON.stringify(name)}: ${JSON.stringify(file)}`)
    .join(",\n");
  return `{\n  "metadata": {\n    "total_size": ${totalBytes}\n  },\n  "weight_map": {\n${map}\n  }\n}\n`;
}
