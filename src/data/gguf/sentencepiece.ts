// The pieces of SentencePiece's tokenizer.model: a message of protocol buffers (sentencepiece_model.proto).

import { readFileSync } from "node:fs";
import { FormatError } from "../../errors.ts";
import { ioError } from "../../formats/io.ts";

export interface Piece {
  text: string;
  score: number;
  /** As GGUF numbers them, too: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte. */
  type: number;
}

/** Reads the pieces, in order of their ids. Throws FormatError, NeftuneError ("io"). */
export function readPieces(path: string): Piece[] {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw ioError(path, "read", error);
  }
  const pieces: Piece[] = [];
  for (const { field, value } of fieldsOf(bytes, path))
    if (field === 1 && value instanceof Uint8Array) pieces.push(pieceOf(value, path));
  if (pieces.length === 0) throw new FormatError(path, "holds no pieces; expected SentencePiece's model");
  return pieces;
}

/** A piece may be the byte order mark itself. */
const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });

function pieceOf(bytes: Uint8Array, path: string): Piece {
  const piece = { text: "", score: 0, type: 1 };
  for (const { field, value } of fieldsOf(bytes, path)) {
    if (field === 1 && value instanceof Uint8Array) piece.text = utf8.decode(value);
    else if (field === 2 && value instanceof Uint8Array)
      piece.score = new DataView(value.buffer, value.byteOffset).getFloat32(0, true);
    else if (field === 3 && typeof value === "number") piece.type = value;
  }
  return piece;
}

/** Of lengths and numbers that are not whole, the bytes; of others, the number. */
function* fieldsOf(
  bytes: Uint8Array,
  path: string,
): Generator<{ field: number; value: number | Uint8Array }> {
  let at = 0;
  const damaged = () => new FormatError(path, "is damaged or not SentencePiece's model");
  const varint = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      const byte = bytes[at++];
      if (byte === undefined || factor > 2 ** 63) throw damaged();
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = varint();
    const wire = key % 8;
    if (wire === 0) {
      yield { field: Math.floor(key / 8), value: varint() };
      continue;
    }
    const length = wire === 1 ? 8 : wire === 2 ? varint() : wire === 5 ? 4 : Number.NaN;
    if (!(at + length <= bytes.length)) throw damaged();
    yield { field: Math.floor(key / 8), value: bytes.subarray(at, at + length) };
    at += length;
  }
}
