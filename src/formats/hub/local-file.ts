// A file that is uploaded: read piece by piece, and still the same at the end.

import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { join } from "node:path";
import { NeftuneError } from "../../errors.ts";
import { ioError } from "../io.ts";
import type { StreamedBody } from "./client.ts";

const READ_BYTES = 4 * 2 ** 20;
/** Small enough that a slow connection takes a few within the time that silence may last. */
const SENT_BYTES = 256 * 2 ** 10;
/** As much as the Hub wants to see, to tell text from binary files. */
const SAMPLE_BYTES = 512;

export class LocalFile {
  /** Its path in the repository. */
  readonly name: string;
  readonly path: string;
  readonly bytes: number;
  readonly #fd: number;
  /** As they were when it was opened. */
  readonly #size: number;
  readonly #changed: number;
  /** What is uploaded in place of what it holds. */
  readonly #text: Uint8Array | null;
  #sha256: string | null = null;
  #isClosed = false;

  /** Opens the file until close(); `text` goes up in place of what it holds. Throws NeftuneError ("io"). */
  constructor(folder: string, name: string, text?: string) {
    this.name = name;
    this.path = join(folder, name);
    try {
      this.#fd = openSync(this.path, "r");
      const { size, mtimeMs } = fstatSync(this.#fd);
      this.#text = text === undefined ? null : Buffer.from(text);
      this.bytes = this.#text?.length ?? size;
      this.#size = size;
      this.#changed = mtimeMs;
    } catch (error) {
      throw ioError(this.path, "read", error);
    }
  }

  close(): void {
    this.#isClosed = true;
    closeSync(this.#fd);
  }

  /** Throws NeftuneError where something has written to the file since it was opened. */
  expectUnchanged(): void {
    const { size, mtimeMs } = fstatSync(this.#fd);
    if (size === this.#size && mtimeMs === this.#changed) return;
    throw new NeftuneError(
      "changed",
      `${this.path} changed while it was being uploaded; wait until nothing writes to it, then run the same command again`,
    );
  }

  sample(): Uint8Array {
    return this.#read(0, Math.min(SAMPLE_BYTES, this.bytes));
  }

  /** All of it; for small files. */
  whole(): Uint8Array {
    return this.#read(0, this.bytes);
  }

  /** As git names its contents. For small files. */
  gitHash(): string {
    return new Bun.CryptoHasher("sha1").update(`blob ${this.bytes}\0`).update(this.whole()).digest("hex");
  }

  /** As LFS names its contents; read once. `onRead` is told of the bytes read so far. Incomplete once `signal` aborts. */
  async sha256(signal: AbortSignal, onRead: (bytes: number) => void): Promise<string> {
    if (this.#sha256 !== null) return this.#sha256;
    const hasher = new Bun.CryptoHasher("sha256");
    for (let at = 0; at < this.bytes && !signal.aborted; at += READ_BYTES) {
      hasher.update(this.#read(at, Math.min(READ_BYTES, this.bytes - at)));
      onRead(Math.min(this.bytes, at + READ_BYTES));
      // Others go on meanwhile.
      await Bun.sleep(0);
    }
    const digest = hasher.digest("hex");
    if (!signal.aborted) this.#sha256 = digest;
    return digest;
  }

  /** Bytes `start` to `end` as a body; `onSent` is told how many of them were handed to the connection. */
  part(start: number, end: number, onSent: (bytes: number) => void): StreamedBody {
    return {
      bytes: end - start,
      open: (onChunk) => {
        let at = start;
        onSent(0);
        const pull = (controller: ReadableStreamDefaultController<Uint8Array>) => {
          if (at >= end) return controller.close();
          const chunk = this.#read(at, Math.min(SENT_BYTES, end - at));
          at += chunk.length;
          controller.enqueue(chunk);
          onChunk(chunk.length);
          onSent(at - start);
        };
        return new ReadableStream({ pull });
      },
    };
  }

  #read(at: number, bytes: number): Uint8Array {
    // A connection that was ended may still ask for more, and the descriptor may be another file's by then.
    if (this.#isClosed) throw new NeftuneError("io", `${this.path} is closed`);
    if (this.#text !== null) return this.#text.slice(at, at + bytes);
    const buffer = new Uint8Array(bytes);
    try {
      for (let held = 0; held < bytes; ) {
        const count = readSync(this.#fd, buffer, held, bytes - held, at + held);
        if (count === 0) this.expectUnchanged();
        if (count === 0) throw new NeftuneError("io", `${this.path} ends before its ${this.bytes} bytes`);
        held += count;
      }
    } catch (error) {
      throw ioError(this.path, "read", error);
    }
    return buffer;
  }
}
