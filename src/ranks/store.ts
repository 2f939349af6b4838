// torchrun's agent holds MASTER_PORT itself, with PyTorch's TCPStore (torch/csrc/distributed/c10d/TCPStoreBackend.cpp):
// the part of its protocol that leaves a value there and waits for one.

import type { Socket } from "node:net";

const MAGIC = 0x3c85f7ce;
const Query = { validate: 0, set: 1, get: 3, wait: 6 } as const;
const STOP_WAITING = 0;

/** A value under a key, to be left or found. Numbers are little-endian, texts stand behind their length of 64 bits. */
export class TcpStore {
  readonly #socket: Socket;
  #have: Buffer = Buffer.alloc(0);
  #wake: () => void = () => {};
  #isClosed = false;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (chunk: Buffer) => {
      this.#have = Buffer.concat([this.#have, chunk]);
      this.#wake();
    });
    const close = () => {
      this.#isClosed = true;
      this.#wake();
    };
    socket.on("error", close);
    socket.on("close", close);
    const magic = Buffer.alloc(4);
    magic.writeUInt32LE(MAGIC);
    socket.write(Buffer.concat([Buffer.of(Query.validate), magic]));
  }

  set(key: string, value: string): void {
    this.#socket.write(Buffer.concat([Buffer.of(Query.set), text(key), text(value)]));
  }

  /** Waits until some rank has set it. */
  async get(key: string): Promise<string> {
    this.#socket.write(Buffer.concat([Buffer.of(Query.wait), length(1), text(key)]));
    const [answer] = await this.#take(1);
    if (answer !== STOP_WAITING) throw new Error("it gave up waiting for rank 0");
    this.#socket.write(Buffer.concat([Buffer.of(Query.get), text(key)]));
    const bytes = Number((await this.#take(8)).readBigUInt64LE());
    return (await this.#take(bytes)).toString();
  }

  close(): void {
    this.#socket.end();
  }

  async #take(bytes: number): Promise<Buffer> {
    while (this.#have.length < bytes) {
      if (this.#isClosed) throw new Error("the connection was closed");
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const taken = this.#have.subarray(0, bytes);
    this.#have = this.#have.subarray(bytes);
    return taken;
  }
}

function length(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

const text = (value: string) => Buffer.concat([length(Buffer.byteLength(value)), Buffer.from(value)]);
