// What ranks say to each other beside tensors: JSON messages over TCP, each behind its length (32 bits, little-endian).

import type { Socket } from "node:net";

/** Rank 0 is the hub: all others talk to it alone. */
export type Message =
  /** A rank's first word. */
  | { kind: "hello"; magic: string; rank: number; size: number; host: string; process: number }
  /** All ranks are there. */
  | { kind: "joined" }
  | { kind: "alive" }
  /** A rank's text of a round of sharing, and then all ranks' texts in their order. */
  | { kind: "share"; round: number; text: string }
  | { kind: "shared"; round: number; texts: string[] }
  /** A rank failed: the whole sentence, and the exit status of all. */
  | { kind: "failed"; sentence: string; status: number }
  /** Nothing more will come, and that is right. */
  | { kind: "bye" };

export const MAGIC = "neftune ranks 1";
const LENGTH_BYTES = 4;
/** Fingerprints and options take kilobytes, generated texts more. */
const MOST_BYTES = 2 ** 28;

export function encodeMessage(message: Message): Buffer {
  const body = Buffer.from(JSON.stringify(message));
  const frame = Buffer.alloc(LENGTH_BYTES + body.length);
  frame.writeUInt32LE(body.length);
  body.copy(frame, LENGTH_BYTES);
  return frame;
}

/** Puts messages together from what arrives. Throws where something else than a rank is talking. */
export class MessageReader {
  #have: Buffer[] = [];
  #bytes = 0;

  /** The messages that `chunk` completes. */
  read(chunk: Buffer): Message[] {
    this.#have.push(chunk);
    this.#bytes += chunk.length;
    const messages: Message[] = [];
    for (let body = this.#next(); body !== null; body = this.#next()) {
      messages.push(JSON.parse(body.toString()) as Message);
    }
    return messages;
  }

  #next(): Buffer | null {
    if (this.#bytes < LENGTH_BYTES) return null;
    if (this.#have[0]!.length < LENGTH_BYTES) this.#have = [Buffer.concat(this.#have)];
    const length = this.#have[0]!.readUInt32LE();
    if (length > MOST_BYTES) throw new Error(`a message of ${length} bytes`);
    const end = LENGTH_BYTES + length;
    if (this.#bytes < end) return null;
    const all = Buffer.concat(this.#have);
    this.#have = [all.subarray(end)];
    this.#bytes -= end;
    return all.subarray(LENGTH_BYTES, end);
  }
}

/** Hands a socket's messages to `take`, and its end, whatever its reason, once to `end`. */
export function listenTo(socket: Socket, take: (message: Message) => void, end: () => void): void {
  const reader = new MessageReader();
  let hasEnded = false;
  const endOnce = () => {
    if (hasEnded) return;
    hasEnded = true;
    end();
  };
  socket.setNoDelay(true);
  socket.on("data", (chunk: Buffer) => {
    try {
      for (const message of reader.read(chunk)) take(message);
    } catch {
      socket.destroy();
    }
  });
  socket.on("error", () => socket.destroy());
  socket.on("end", endOnce);
  socket.on("close", endOnce);
}
