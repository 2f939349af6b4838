// GGUF v3, the one file that llama.cpp and Ollama load: metadata, the list of tensors, their data (ggml, docs/gguf.md).

import { NeftuneError } from "../errors.ts";
import type { Steps } from "../steps.ts";
import { type GgufTypeName, ggufTypes } from "./gguf/blocks.ts";
import { type GgufField, textBytes, u32Bytes, u64Bytes } from "./gguf/values.ts";
import { writeAll, writeFileInSteps } from "./io.ts";

export { BLOCK_VALUES, type GgufTypeName, ggufTypes, largest } from "./gguf/blocks.ts";

/** A tensor to write, made when its turn comes, so that a piece of one is held at a time. */
export interface GgufTensor {
  name: string;
  type: GgufTypeName;
  /** Row-major, as safetensors has it; the last dimension is a multiple of the type's block. */
  shape: readonly number[];
  /** The elements in order, in pieces. */
  data: () => Iterable<Uint8Array>;
}

const VERSION = 3;
/** What data begins at a multiple of, as there is no field that says otherwise. */
const ALIGNMENT = 32;

const padding = (bytes: number) => (ALIGNMENT - (bytes % ALIGNMENT)) % ALIGNMENT;

function ggufTensorBytes({ type, shape }: Pick<GgufTensor, "type" | "shape">): number {
  const { values, bytes } = ggufTypes[type];
  return (shape.reduce((size, n) => size * n, 1) / values) * bytes;
}

/** Writes a file, whole or not at all, a piece of a tensor at a time. Throws NeftuneError: "io", "invalid_tensor". */
export function* writeGgufInSteps(
  path: string,
  fields: readonly GgufField[],
  tensors: readonly GgufTensor[],
): Steps<void> {
  const header = headerOf(fields, tensors);
  yield* writeFileInSteps(path, function* (fd) {
    writeAll(fd, header);
    writeAll(fd, new Uint8Array(padding(header.length)));
    yield tensors.reduce((bytes, tensor) => bytes + ggufTensorBytes(tensor), header.length);
    for (const tensor of tensors) {
      let written = 0;
      for (const piece of tensor.data()) {
        writeAll(fd, piece);
        written += piece.length;
        yield;
      }
      const expected = ggufTensorBytes(tensor);
      if (written !== expected)
        throw new NeftuneError(
          "invalid_tensor",
          `${path}: ${tensor.name}: ${tensor.type} [${tensor.shape}] takes ${expected} bytes, got ${written}`,
        );
      writeAll(fd, new Uint8Array(padding(written)));
    }
  });
}

function headerOf(fields: readonly GgufField[], tensors: readonly GgufTensor[]): Uint8Array {
  const parts: Uint8Array[] = [
    new TextEncoder().encode("GGUF"),
    u32Bytes(VERSION),
    u64Bytes(tensors.length),
    u64Bytes(fields.length),
  ];
  for (const [key, { type, bytes }] of fields) parts.push(textBytes(key), u32Bytes(type), bytes);
  let offset = 0;
  for (const tensor of tensors) {
    const dimensions = tensor.shape.toReversed(); // innermost first
    parts.push(textBytes(tensor.name), u32Bytes(dimensions.length), ...dimensions.map(u64Bytes));
    parts.push(u32Bytes(ggufTypes[tensor.type].id), u64Bytes(offset));
    const bytes = ggufTensorBytes(tensor);
    offset += bytes + padding(bytes);
  }
  return Buffer.concat(parts);
}
