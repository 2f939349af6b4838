// What `neftune inspect` tells about a file or folder of tensors.
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { INDEX_FILE, openCheckpoint, SINGLE_FILE } from "./checkpoint.ts";
import { ioError } from "./io.ts";
import { ADAPTER_WEIGHTS_FILE } from "./peft.ts";
import { readSafetensorsHeader, type SafetensorsDType, type SafetensorsHeader } from "./safetensors.ts";

export interface TensorDescription {
  name: string;
  dtype: SafetensorsDType;
  shape: number[];
  bytes: number;
}

export interface TensorListing {
  /** Of the first file that has the key, where there are shards. */
  metadata: Record<string, string>;
  /** In the order of the files' headers. */
  tensors: TensorDescription[];
}

/**
 * Lists the tensors of a safetensors file, a checkpoint's folder or a PEFT adapter's folder. Reads and checks headers
 * only. Throws FormatError with the reason where one is malformed.
 */
export function describeTensors(path: string): TensorListing {
  const files = headers(path);
  const metadata = new Map<string, string>();
  const tensors: TensorDescription[] = [];
  for (const file of files) {
    for (const [key, value] of file.metadata) if (!metadata.has(key)) metadata.set(key, value);
    for (const { name, dtype, shape, begin, end } of file.tensors.values()) {
      tensors.push({ name, dtype, shape, bytes: end - begin });
    }
  }
  // fromEntries defines properties, so that a key "__proto__" is listed and not obeyed.
  return { metadata: Object.fromEntries(metadata), tensors };
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
