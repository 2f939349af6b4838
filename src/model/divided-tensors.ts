// What ranks hold pieces of, and files hold as a whole: float32 values of the matrices, and AdamW's moments of them.

import { cast, type Device, type Tensor } from "../native/index.ts";
import type { Bucket } from "./bucket.ts";
import { type MomentTensor, stateBytes } from "./optimizer-state.ts";
import type { ParameterTensor } from "./parameter-tensor.ts";
import type { RankExchange } from "./rank-exchange.ts";
import { pieceOf, type Shares } from "./shard-layout.ts";

/** A matrix and the bucket that it lies in. */
export interface Home {
  tensor: ParameterTensor;
  bucket: Bucket;
}

interface Divided extends Home {
  /** Values of the matrix that 32 bits of it stand for. */
  valuesPerWord: number;
  bytes: number;
  /** As words of 32 bits; null: this rank has none. */
  own: Tensor | null;
}

export class DividedTensors {
  readonly #device: Device;
  readonly #shares: Shares;
  readonly #exchange: RankExchange;
  readonly #all: ReadonlyMap<string, Divided>;

  constructor(
    device: Device,
    shares: Shares,
    exchange: RankExchange,
    homes: ReadonlyMap<string, Home>,
    states: readonly MomentTensor[],
  ) {
    this.#device = device;
    this.#shares = shares;
    this.#exchange = exchange;
    const values = [...homes.values()].map(({ tensor, bucket }): [string, Divided] => {
      const own = bucket.ownValues(tensor);
      return [tensor.name, { tensor, bucket, valuesPerWord: 1, bytes: 4 * tensor.size, own }];
    });
    const moments = states.flatMap((state): [string, Divided][] => {
      const home = homes.get(state.of);
      if (home === undefined) return [];
      const { name, valuesPerWord } = state;
      const own = home.bucket.state.wordsOf(name);
      return [[name, { ...home, valuesPerWord, bytes: stateBytes(state), own }]];
    });
    this.#all = new Map([...values, ...moments]);
  }

  has(name: string): boolean {
    return this.#all.has(name);
  }

  /** All of a tensor on every rank, as words of 32 bits in its bucket's buffer, then its bytes. */
  read(name: string): Uint8Array<ArrayBuffer> {
    const whole = this.assemble(name);
    return this.#device.readBytes(whole).subarray(0, this.#all.get(name)!.bytes);
  }

  assemble(name: string): Tensor {
    this.#exchange.announce({ kind: "assemble", name });
    const divided = this.#all.get(name)!;
    const whole = wordsOf(divided);
    this.#exchange.wait((comm) => {
      for (let rank = 0; rank < this.#shares.size; rank++) {
        const part = this.#partOf(divided, whole, rank);
        if (part === null) continue;
        if (rank === this.#shares.rank) cast(this.#device, part, divided.own!);
        comm.broadcast(this.#device, part, rank);
      }
    });
    return whole;
  }

  /** Gives every rank its piece of what rank 0 has; others pass null. */
  distribute(name: string, values: Float32Array | Uint8Array | null): void {
    this.#exchange.announce({ kind: "distribute", name });
    const whole = wordsOf(this.#all.get(name)!);
    if (values !== null) {
      const bytes = new Uint8Array(whole.bytes);
      bytes.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
      this.#device.write(whole, bytes);
    }
    this.#exchange.wait((comm) => comm.broadcast(this.#device, whole));
    this.take(name, whole);
  }

  /** Takes this rank's piece of a tensor that it has all of. */
  take(name: string, whole: Tensor): void {
    const divided = this.#all.get(name)!;
    const part = this.#partOf(divided, whole, this.#shares.rank);
    if (part !== null) cast(this.#device, divided.own!, part);
  }

  /** What `rank` has of a tensor, in the whole of it; null: nothing. */
  #partOf({ tensor, bucket, valuesPerWord }: Divided, whole: Tensor, rank: number): Tensor | null {
    const piece = pieceOf(bucket.layout, tensor, rank);
    if (piece === null) return null;
    return whole.rows(piece.begin / valuesPerWord, Math.ceil(piece.count / valuesPerWord));
  }
}

const wordsOf = ({ bucket, bytes }: Divided): Tensor => bucket.buffer.rows(0, Math.ceil(bytes / 4));
