// TensorBoard's event files: TFRecord frames around protobuf Events with scalar summaries. The messages are event.proto
// and summary.proto of TensorFlow; a frame is length, its checksum, data, its checksum (masked CRC-32C).

import { closeSync, mkdirSync, openSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { ioError, writeAll } from "../formats/io.ts";

const table = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let k = 0; k < 8; k++) c = c & 1 ? 0x82f63b78 ^ (c >>> 1) : c >>> 1;
  return c >>> 0;
});

/** CRC-32C (Castagnoli). */
export function crc32c(bytes: Uint8Array): number {
  let c = 0xffffffff;
  for (const byte of bytes) c = table[(c ^ byte) & 255]! ^ (c >>> 8);
  return (c ^ 0xffffffff) >>> 0;
}

function maskedCrc(bytes: Uint8Array): number {
  const c = crc32c(bytes);
  return (((c >>> 15) | (c << 17)) + 0xa282ead8) >>> 0;
}

function varint(value: number): number[] {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  for (; rest >= 128n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128);
  return [...bytes, Number(rest)];
}

const VARINT = 0;
const DOUBLE = 1;
const BYTES = 2;
const FLOAT = 5;
const tag = (field: number, type: number) => varint(field * 8 + type);

const intField = (field: number, value: number) => Buffer.from([...tag(field, VARINT), ...varint(value)]);
const bytesField = (field: number, data: Uint8Array) =>
  Buffer.concat([Buffer.from([...tag(field, BYTES), ...varint(data.length)]), data]);
const textField = (field: number, text: string) => bytesField(field, Buffer.from(text));

function doubleField(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(9, field * 8 + DOUBLE);
  bytes.writeDoubleLE(value, 1);
  return bytes;
}

function floatField(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(5, field * 8 + FLOAT);
  bytes.writeFloatLE(value, 1);
  return bytes;
}

function frame(data: Uint8Array): Buffer {
  const head = Buffer.alloc(12);
  const tail = Buffer.alloc(4);
  head.writeBigUInt64LE(BigInt(data.length));
  head.writeUInt32LE(maskedCrc(head.subarray(0, 8)), 8);
  tail.writeUInt32LE(maskedCrc(data));
  return Buffer.concat([head, data, tail]);
}

/** An event file being written. Events reach the system at once. */
export class EventFile {
  readonly path: string;
  readonly #fd: number;

  /** Makes a new file in `folder`. Throws NeftuneError ("io"). */
  constructor(folder: string, now = Date.now() / 1000) {
    const name = `events.out.tfevents.${Math.floor(now).toString().padStart(10, "0")}.${hostname()}.${process.pid}.0`;
    this.path = join(folder, name);
    try {
      mkdirSync(folder, { recursive: true });
      this.#fd = openSync(this.path, "a");
    } catch (error) {
      throw ioError(this.path, "written", error);
    }
    this.#append(0, textField(3, "brain.Event:2"), now);
  }

  #append(step: number, payload: Uint8Array, now: number): void {
    try {
      writeAll(this.#fd, frame(Buffer.concat([doubleField(1, now), intField(2, step), payload])));
    } catch (error) {
      throw ioError(this.path, "written", error);
    }
  }

  /** Says that steps from `step` on come anew: what an earlier file has of them no longer counts. */
  restart(step: number, now = Date.now() / 1000): void {
    const START = 1;
    this.#append(step, bytesField(7, intField(1, START)), now);
  }

  scalars(step: number, values: Readonly<Record<string, number>>, now = Date.now() / 1000): void {
    const summary = Object.entries(values).map(([name, value]) =>
      bytesField(1, Buffer.concat([textField(1, name), floatField(2, value)])),
    );
    this.#append(step, bytesField(5, Buffer.concat(summary)), now);
  }

  /** A text in Markdown: a tensor of one string, marked for the text plugin. */
  text(name: string, markdown: string, now = Date.now() / 1000): void {
    const DT_STRING = 7;
    const shape = bytesField(2, intField(1, 1));
    const tensor = Buffer.concat([intField(1, DT_STRING), bytesField(2, shape), textField(8, markdown)]);
    const metadata = bytesField(1, textField(1, "text"));
    const value = Buffer.concat([
      textField(1, `${name}/text_summary`),
      bytesField(8, tensor),
      bytesField(9, metadata),
    ]);
    this.#append(0, bytesField(5, bytesField(1, value)), now);
  }

  close(): void {
    closeSync(this.#fd);
  }
}
