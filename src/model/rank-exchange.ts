// Exchanges with the ranks that divide the parameters. Where rank 0 alone knows their order, as it reads or writes files,
// it announces each, and the others follow.

import type { Allocator, Communicator, Device, Tensor } from "../native/index.ts";
import type { Shares } from "./shard-layout.ts";

/** The ranks that divide the parameters, seen from one of them. */
export interface Partners extends Shares {
  readonly comm: Communicator;
  /** Spent in exchanges, and counted here. */
  seconds: number;
}

const kinds = ["end", "assemble", "distribute", "afterWrite", "findNonFinite"] as const;

export interface Announced {
  kind: Exclude<(typeof kinds)[number], "end">;
  /** Of what; "" where there is only one. */
  name: string;
}

/** Bytes of an announcement: the kind, the name's length in two, the name. */
const BYTES = 1024;
const HEAD = 3;

export class RankExchange {
  readonly #device: Device;
  readonly #partners: Partners;
  readonly #announcement: Tensor; // f32 [BYTES / 4]
  #leads = false;

  constructor(device: Device, allocator: Allocator, partners: Partners) {
    this.#device = device;
    this.#partners = partners;
    this.#announcement = allocator.allocate("trained", "f32", [BYTES / 4]);
  }

  /** Does an exchange once earlier work is done, and waits for it. */
  wait(exchange: (comm: Communicator) => void): void {
    const { comm } = this.#partners;
    comm.wait(this.#device);
    this.enqueue(() => {
      exchange(comm);
      comm.wait(this.#device);
    });
  }

  /** Enqueues an exchange; only what that takes is counted. */
  enqueue(exchange: (comm: Communicator) => void): void {
    const start = performance.now();
    exchange(this.#partners.comm);
    this.#partners.seconds += (performance.now() - start) / 1000;
  }

  /** On rank 0: does `work`, whose exchanges the others follow. An error in it ends them as any failure of a rank does. */
  lead<T>(work: () => T): T {
    this.#leads = true;
    try {
      const result = work();
      this.#send("end", "");
      return result;
    } finally {
      this.#leads = false;
    }
  }

  /** What an exchange begins with; only within lead() does it say anything. */
  announce({ kind, name }: Announced): void {
    if (this.#leads) this.#send(kind, name);
  }

  /** On the other ranks: takes part in what rank 0 announces, until its work is done. */
  follow(takePart: (announced: Announced) => void): void {
    for (;;) {
      const { kind, name } = this.#receive();
      if (kind === "end") return;
      takePart({ kind, name });
    }
  }

  #send(kind: (typeof kinds)[number], name: string): void {
    const bytes = new Uint8Array(BYTES);
    const { written } = new TextEncoder().encodeInto(name, bytes.subarray(HEAD));
    bytes.set([kinds.indexOf(kind), written & 255, written >> 8]);
    this.#device.write(this.#announcement, bytes);
    this.#broadcast();
  }

  #receive() {
    this.#broadcast();
    const bytes = this.#device.readBytes(this.#announcement);
    const length = bytes[1]! + 256 * bytes[2]!;
    const name = new TextDecoder().decode(bytes.subarray(HEAD, HEAD + length));
    return { kind: kinds[bytes[0]!]!, name };
  }

  #broadcast(): void {
    const { comm } = this.#partners;
    comm.broadcast(this.#device, this.#announcement);
    comm.wait(this.#device);
  }
}
