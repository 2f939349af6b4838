// Tells one base model from another of its shape: by its config and some of its embedding's values, which an adapter's
// training leaves alone and which are the same in a quantized copy.

import { decodeFloats, floatTypeNamed } from "../floats.ts";
import { readTensorPart } from "../formats/safetensors.ts";
import { EMBEDDING } from "./architecture.ts";
import type { FolderSource } from "./source.ts";

const PLACES = 16;
const VALUES = 1024;

/** SHA-256 over what makes the computation and over values from 16 places of the embedding, widened to float32. */
export function baseFingerprint({ config, checkpoint }: FolderSource): string {
  const { hiddenSize, intermediateSize, numHiddenLayers, numAttentionHeads, numKeyValueHeads } = config;
  const { headDim, vocabSize, rmsNormEps, ropeTheta, ropeScaling } = config;
  const hasher = new Bun.CryptoHasher("sha256");
  const widths = [hiddenSize, intermediateSize, numHiddenLayers, numAttentionHeads, numKeyValueHeads];
  hasher.update(JSON.stringify([...widths, headDim, vocabSize, rmsNormEps, ropeTheta, ropeScaling]));
  const { file, entry } = checkpoint.tensors.get(EMBEDDING)!;
  const size = vocabSize * hiddenSize;
  const bytes = (entry.end - entry.begin) / size;
  const length = Math.min(VALUES, size);
  for (let i = 0; i < PLACES; i++) {
    const first = Math.floor(((size - length) * i) / (PLACES - 1));
    const part = readTensorPart(file, entry.name, first * bytes, length * bytes);
    hasher.update(decodeFloats(floatTypeNamed("safetensors", entry.dtype)!, part));
  }
  return hasher.digest("hex");
}
