// --quantized-cache DIR: the NF4 weights of a model, kept so that they are quantized once.
//
//     DIR/<fingerprint>.safetensors   the linears of the layers, as neftune quantize writes them; whole or absent
//
// The other weights still come from the model's folder. Two processes may fill the cache at a time: the file is made
// under another name and moved into its place.

import {
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  rmSync,
  statSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { openCheckpoint } from "../formats/checkpoint.ts";
import { ioError } from "../formats/io.ts";
import { nf4Entries } from "../formats/nf4.ts";
import {
  readSafetensorsHeader,
  type SafetensorsHeader,
  type TensorEntry,
  writeSafetensors,
} from "../formats/safetensors.ts";
import type { Device, Nf4 } from "../native/index.ts";
import { fullName } from "./model-checkpoint.ts";
import { storedNf4Tensors } from "./nf4-tensors.ts";
import { type Quantization, quantizableWeights } from "./quantize.ts";
import type { ModelSource } from "./source.ts";

/** To be raised when the same files and settings give other bytes. */
const VERSION = 2;
/** Of each weight so much is looked at, in its middle. */
const EXCERPT_BYTES = 4096;
const LEFTOVER_MS = 3_600_000;

export class QuantizedCache {
  readonly path: string;
  readonly #source: ModelSource;
  readonly #quantization: Quantization;

  /** The place in `folder` for the model in `modelDir`, quantized on a device of this kind. */
  constructor(
    folder: string,
    modelDir: string,
    source: ModelSource,
    quantization: Quantization,
    device: Pick<Device, "info">,
  ) {
    this.#source = source;
    this.#quantization = quantization;
    // Backends may differ in the last bit of a mean.
    const settings = JSON.stringify([VERSION, quantization.double, device.info.backend]);
    const names = new Set(quantizableWeights(source).map(({ name }) => name));
    this.path = join(folder, `${fingerprint(modelDir, names, settings)}.safetensors`);
  }

  /** The cached weights; null where there are none, or where the file does not hold all of them as it should. */
  open(): SafetensorsHeader | null {
    if (!existsSync(this.path)) return null;
    try {
      const header = readSafetensorsHeader(this.path);
      const tensors = new Map([...header.tensors].map(([name, entry]) => [name, { file: header, entry }]));
      const isWhole = quantizableWeights(this.#source).every(({ name, shape }) => {
        const stored = nf4Entries({ tensors }, name);
        return (
          stored?.shape.every((size, i) => size === shape[i]) &&
          (stored.nested !== null) === this.#quantization.double
        );
      });
      return isWhole ? header : null;
    } catch {
      return null; // save() puts a whole one in its place
    }
  }

  /** Keeps the weights of a model that was loaded without the cache. Throws NeftuneError where they cannot be written. */
  save(device: Device, weights: ReadonlyMap<string, Nf4>): void {
    const folder = dirname(this.path);
    try {
      mkdirSync(folder, { recursive: true });
      removeLeftovers(folder);
    } catch (error) {
      throw ioError(folder, "used as --quantized-cache", error);
    }
    const tensors = [...weights].flatMap(([name, nf4]) => storedNf4Tensors(device, name, nf4));
    writeSafetensors(this.path, tensors, { format: "pt" });
  }
}

/** Gigabytes that a killed process left behind (writeFileAtomically): what nobody has written to for an hour. */
function removeLeftovers(folder: string): void {
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    if (!/^\.[0-9a-f]{32}\.safetensors\.\d+\.partial$/.test(name)) continue;
    if (Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0) > LEFTOVER_MS)
      rmSync(path, { force: true });
  }
}

/** Tells a model's files from others: names, shapes, sizes, times of change, and some bytes of every weight of `names`. */
function fingerprint(dir: string, names: ReadonlySet<string>, settings: string): string {
  const hasher = new Bun.CryptoHasher("sha256");
  hasher.update(settings);
  for (const file of openCheckpoint(dir).files) {
    try {
      const fd = openSync(file.path, "r");
      try {
        const { size, mtimeMs } = fstatSync(fd);
        hasher.update(JSON.stringify([size, mtimeMs]));
        for (const entry of file.tensors.values()) {
          const { name, dtype, shape, begin } = entry;
          hasher.update(JSON.stringify([name, dtype, shape, begin]));
          if (names.has(fullName(name))) hasher.update(middleOf(fd, entry));
        }
      } finally {
        closeSync(fd);
      }
    } catch (error) {
      throw ioError(file.path, "read", error);
    }
  }
  return hasher.digest("hex").slice(0, 32);
}

function middleOf(fd: number, { begin, end }: TensorEntry): Uint8Array {
  const bytes = new Uint8Array(Math.min(EXCERPT_BYTES, end - begin));
  readSync(fd, bytes, 0, bytes.length, begin + Math.floor((end - begin - bytes.length) / 2));
  return bytes;
}
