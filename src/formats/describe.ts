// What `neftune inspect` tells about a file or folder of tensors.
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import type { FloatDType } from "../floats.ts";
import { type CheckpointTensor, INDEX_FILE, openCheckpoint, SINGLE_FILE } from "./checkpoint.ts";
import { ioError } from "./io.ts";
import { nf4Entries, nf4Suffix } from "./nf4.ts";
import { ADAPTER_WEIGHTS_FILE } from "./peft.ts";
import { readSafetensorsHeader, type SafetensorsDType, type SafetensorsHeader } from "./safetensors.ts";

export interface TensorDescription {
  name: string;
  dtype: SafetensorsDType;
  shape: number[];
  bytes: number;
}

/** A weight in NF4, whose parts are among the tensors. */
export interface Nf4Description {
  name: string;
  /** Of what was quantized. */
  dtype: FloatDType;
  shape: number[];
  /** Of all parts. */
  bytes: number;
  double_quantization: boolean;
}

export interface TensorListing {
  /** Of the first file that has the key, where there are shards. */
  metadata: Record<string, string>;
  /** In the order of the files' headers. */
  tensors: TensorDescription[];
  /** Where there are any. */
  nf4?: Nf4Description[];
}

/**
 * Lists the tensors of a safetensors file, a checkpoint's folder or a PEFT adapter's folder. Reads and checks headers
 * and, of weights in NF4, the small parts. Throws FormatError with the reason where one is malformed.
 */
export function describeTensors(path: string): TensorListing {
  const files = headers(path);
  const metadata = new Map<string, string>();
  const tensors: TensorDescription[] = [];
  const all = new Map<string, CheckpointTensor>();
  for (const file of files) {
    for (const [key, value] of file.metadata) if (!metadata.has(key)) metadata.set(key, value);
    for (const entry of file.tensors.values()) {
      const { name, dtype, shape, begin, end } = entry;
      tensors.push({ name, dtype, shape, bytes: end - begin });
      all.set(name, { file, entry });
    }
  }
  const nf4 = nf4Names(all, isFolder(path)).flatMap((name) => nf4Entries({ tensors: all }, name) ?? []);
  // fromEntries defines properties, so that a key "__proto__" is listed and not obeyed.
  const listing = { metadata: Object.fromEntries(metadata), tensors };
  if (nf4.length === 0) return listing;
  return {
    ...listing,
    nf4: nf4.map(({ name, dtype, shape, bytes, nested }) => {
      return { name, dtype, shape, bytes, double_quantization: nested !== null };
    }),
  };
}

/** Weights in NF4: all, or those with all their parts, as a shard by itself may lack some. */
function nf4Names(tensors: ReadonlyMap<string, CheckpointTensor>, all: boolean): string[] {
  const { absmax, quantMap, quantState, nestedAbsmax, nestedQuantMap } = nf4Suffix;
  const isWhole = (name: string) => {
    const has = (suffix: string) => tensors.has(name + suffix);
    return ["", absmax, quantMap].every(has) && has(nestedAbsmax) === has(nestedQuantMap);
  };
  const names = [...tensors.keys()].filter((name) => name.endsWith(quantState));
  return names.map((name) => name.slice(0, -quantState.length)).filter((name) => all || isWhole(name));
}

function headers(path: string): SafetensorsHeader[] {
  if (!isFolder(path)) return [readSafetensorsHeader(path)];
  const adapter = join(path, ADAPTER_WEIGHTS_FILE);
  const isModel = existsSync(join(path, SINGLE_FILE)) || existsSync(join(path, INDEX_FILE));
  if (!isModel && existsSync(adapter)) return [readSafetensorsHeader(adapter)];
  return openCheckpoint(path).files;
}

function isFolder(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch (error) {
    throw ioError(path, "read", error);
  }
}
