// Whether a zstd file is whole (RFC 8878, section 3.1): the decompressor at hand takes a file that was cut short for
// one that ends there, and rows would be lost unheard. Reads the headers of frames and blocks alone.

import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { FormatError } from "../../errors.ts";

const MAGIC = 0xfd2fb528;
/** Frames that carry no data: 0x184d2a50 to 0x184d2a5f. */
const SKIPPABLE = 0x184d2a5;
const DICTIONARY_BYTES = [0, 1, 2, 4] as const;
const SIZE_BYTES = [0, 2, 4, 8] as const;
const RLE_BLOCK = 1;
const RESERVED_BLOCK = 3;
const CHECKSUM_BYTES = 4;
/** Read at a time: headers may lie close together. */
const WINDOW_BYTES = 1 << 12;

/** Throws FormatError where the file does not end with the end of a frame. */
export function expectWholeZstd(path: string): void {
  const fd = openSync(path, "r");
  try {
    const { size } = fstatSync(fd);
    const window = Buffer.alloc(WINDOW_BYTES);
    let [begin, end] = [0, 0];
    const number = (at: number, bytes: number): number => {
      if (at < begin || at + bytes > end) {
        begin = at;
        end = at + (at < size ? readSync(fd, window, 0, WINDOW_BYTES, at) : 0);
      }
      if (at + bytes > end) throw cutShort(path, size);
      return window.readUIntLE(at - begin, bytes);
    };
    let at = 0;
    while (at < size) {
      const magic = number(at, 4);
      if (magic >>> 4 === SKIPPABLE) at += 8 + number(at + 4, 4);
      else if (magic === MAGIC) at = frameEnd(at + 4, number, path);
      else
        throw new FormatError(
          path,
          `its zstd data is damaged: no frame begins at byte ${at}; fetch or pack it again`,
        );
    }
    if (at > size) throw cutShort(path, size);
  } finally {
    closeSync(fd);
  }
}

/** Where the frame ends whose header begins at `begin`. */
function frameEnd(begin: number, number: (at: number, bytes: number) => number, path: string): number {
  const descriptor = number(begin, 1);
  const isSingle = (descriptor & 0x20) !== 0;
  const sizeFlag = descriptor >> 6;
  const sizeBytes = sizeFlag === 0 && isSingle ? 1 : SIZE_BYTES[sizeFlag]!;
  let at = begin + 1 + (isSingle ? 0 : 1) + DICTIONARY_BYTES[descriptor & 3]! + sizeBytes;
  for (let isLast = false; !isLast; ) {
    const header = number(at, 3);
    const kind = (header >> 1) & 3;
    if (kind === RESERVED_BLOCK) {
      throw new FormatError(path, `its zstd data is damaged at byte ${at}; fetch or pack it again`);
    }
    at += 3 + (kind === RLE_BLOCK ? 1 : header >> 3);
    isLast = (header & 1) === 1;
  }
  return at + ((descriptor & 4) === 0 ? 0 : CHECKSUM_BYTES);
}

function cutShort(path: string, size: number): FormatError {
  return new FormatError(
    path,
    `its zstd data is cut short: ${size} bytes end inside a frame; fetch or pack it again`,
  );
}
