// A model's folder, config and tensors together: tensors under the names that a Llama has, whatever their files call
// them, and a config that agrees with what is stored.

import { FormatError } from "../errors.ts";
import { floatTypeNamed } from "../floats.ts";
import { type Checkpoint, type CheckpointTensor, openCheckpoint } from "../formats/checkpoint.ts";
import { readTensorPieces } from "../formats/safetensors.ts";
import { EMBEDDING, HEAD } from "./architecture.ts";
import { type LlamaConfig, readConfig } from "./config.ts";

export interface ModelCheckpoint extends Checkpoint {
  config: LlamaConfig;
  /** What a person should know of how the folder was read. */
  notes: string[];
}

/** Of each tensor so much is compared at a time. */
const PIECE_BYTES = 2 ** 22;

/** Reads config.json and the headers in `dir`. Throws FormatError where they do not belong together. */
export function openModelCheckpoint(dir: string): ModelCheckpoint {
  const read = readConfig(dir);
  const { files, tensors: asStored } = openCheckpoint(dir);
  const tensors = new Map<string, CheckpointTensor>();
  for (const [name, tensor] of asStored) {
    const full = fullName(name);
    tensors.set(asStored.has(full) ? name : full, tensor);
  }
  expectLayers(dir, read, tensors);
  const notes: string[] = [];
  const [embedding, head] = [tensors.get(EMBEDDING), tensors.get(HEAD)];
  // The weights themselves say better what they are stored in.
  const config = {
    ...read,
    dtype: floatTypeNamed("safetensors", (embedding ?? head)?.entry.dtype) ?? read.dtype,
  };
  if (!config.tieWordEmbeddings) return { dir, files, tensors, config, notes };
  if (head === undefined) return { dir, files, tensors, config, notes };
  // Whichever of the two is stored is both.
  if (embedding === undefined) tensors.set(EMBEDDING, head);
  if (embedding === undefined || areEqual(embedding, head)) {
    tensors.delete(HEAD);
    return { dir, files, tensors, config, notes };
  }
  notes.push(
    `${dir}: config.json ties lm_head to the embedding, but another lm_head.weight is stored; it is used, untied`,
  );
  return { dir, files, tensors, config: { ...config, tieWordEmbeddings: false }, notes };
}

/** A model saved without its head has names without "model.", as Transformers' LlamaModel writes them. */
export const fullName = (name: string) =>
  /^(?:embed_tokens|layers|norm)\./.test(name) ? `model.${name}` : name;

/** Asks the checkpoint how many layers it has, before the config's number is believed. */
function expectLayers(dir: string, config: LlamaConfig, tensors: ReadonlyMap<string, unknown>): void {
  let layers = 0;
  for (const name of tensors.keys()) {
    const layer = /^model\.layers\.(\d{1,9})\./.exec(name)?.[1];
    if (layer !== undefined) layers = Math.max(layers, Number(layer) + 1);
  }
  if (config.numHiddenLayers <= layers) return; // what is beyond is told by name
  throw new FormatError(
    dir,
    `config.json says num_hidden_layers ${config.numHiddenLayers}, but the weights have ${layers}; is a shard missing, or does config.json belong to another model?`,
  );
}

function areEqual(one: CheckpointTensor, other: CheckpointTensor): boolean {
  const [a, b] = [one.entry, other.entry];
  if (a.dtype !== b.dtype || a.shape.join() !== b.shape.join()) return false;
  const others = readTensorPieces(other.file, b.name, PIECE_BYTES);
  for (const piece of readTensorPieces(one.file, a.name, PIECE_BYTES)) {
    const beside = others.next().value;
    if (beside === undefined || Buffer.compare(piece, beside) !== 0) return false;
  }
  return true;
}
