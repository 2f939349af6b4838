// Weights that are NaN or infinite are refused by name. They are counted on the device while a model is loaded, and the
// counts read once, behind the last weight, so that loading does not wait for them.

import { NeftuneError } from "../errors.ts";
import {
  countNonFiniteBytes,
  readTensorPieces,
  type SafetensorsHeader,
  type TensorEntry,
} from "../formats/safetensors.ts";
import { addNonFinite, type Device, type Nf4, type Tensor } from "../native/index.ts";

export class FiniteCheck {
  readonly #device: Device;
  readonly #names: string[] = [];
  readonly #counts: Tensor; // i32 [tensors]

  /** For at most `tensors` weights. Owns a count of each until free(). */
  constructor(device: Device, tensors: number) {
    this.#device = device;
    this.#counts = device.allocate("i32", [tensors]);
    device.fill(this.#counts, 0);
  }

  /** The count of the weight `name`, for a kernel to add to. */
  countOf(name: string): Tensor {
    this.#names.push(name);
    return this.#counts.rows(this.#names.length - 1, 1);
  }

  /** Counts in a weight that lies on the device. */
  add(name: string, values: Tensor): void {
    addNonFinite(this.#device, this.countOf(name), values);
  }

  /** Counts in the scales of a weight that was stored in NF4: with them go its values. */
  addScales(name: string, { absmax, absmax2 }: Nf4): void {
    this.add(name, absmax2 ?? absmax);
  }

  /** Throws NeftuneError (code "data") where one of the weights has values that are not finite. */
  expectFinite(): void {
    const counts = this.#device.readInts(this.#counts);
    const at = this.#names.findIndex((_, i) => counts[i] !== 0);
    if (at >= 0) throw notFinite(this.#names[at]!, counts[at]!);
  }

  free(): void {
    this.#device.free(this.#counts.ptr);
  }
}

export function notFinite(name: string, count: number): NeftuneError {
  const what = count === 1 ? "a value that is" : `${count.toLocaleString("en")} values that are`;
  return new NeftuneError(
    "data",
    `${name} has ${what} NaN or infinite; the checkpoint is damaged or its training diverged: download or save it again`,
  );
}

/** The bytes of a tensor as it is stored. Throws NeftuneError behind the last where values are not finite. */
export function* finitePieces(
  file: SafetensorsHeader,
  { name, dtype }: TensorEntry,
  pieceBytes: number,
): Generator<Uint8Array<ArrayBuffer>> {
  let odd = 0;
  for (const bytes of readTensorPieces(file, name, pieceBytes)) {
    odd += countNonFiniteBytes(dtype, bytes);
    yield bytes;
  }
  if (odd > 0) throw notFinite(name, odd);
}
