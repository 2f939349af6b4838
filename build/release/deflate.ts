// Compression (RFC 1951, 1952) in which a large file that goes into several archives is compressed once: its part of a
// stream ends at a whole byte and refers to nothing before it, so the same bytes fit into any.

import { constants, crc32, deflateRawSync } from "node:zlib";

const LARGE = 1 << 20;
const LAST_BLOCK = Buffer.from([3, 0]); // an empty one
const GZIP_HEADER = Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 3]); // no name, no time; compressed most, by Unix

const compressed = new WeakMap<Uint8Array, Buffer>();

/** The blocks of a stream that hold `bytes`, none of them its last. */
function part(bytes: Uint8Array): Buffer {
  const known = compressed.get(bytes);
  if (known !== undefined) return known;
  const made = deflateRawSync(bytes, { level: 9, finishFlush: constants.Z_FULL_FLUSH });
  if (bytes.length >= LARGE) compressed.set(bytes, made);
  return made;
}

/** A deflate stream of `bytes`. */
export const deflated = (bytes: Uint8Array): Buffer =>
  bytes.length >= LARGE ? Buffer.concat([part(bytes), LAST_BLOCK]) : deflateRawSync(bytes, { level: 9 });

/** A gzip file of the pieces behind one another. Below 4 GiB. */
export function gzipped(pieces: readonly Uint8Array[]): Buffer {
  const parts: Buffer[] = [GZIP_HEADER];
  let small: Uint8Array[] = []; // neighbors are compressed together
  const flush = () => {
    if (small.length > 0) parts.push(part(Buffer.concat(small)));
    small = [];
  };
  for (const piece of pieces) {
    if (piece.length < LARGE) small.push(piece);
    else {
      flush();
      parts.push(part(piece));
    }
  }
  flush();
  const trailer = Buffer.alloc(8);
  trailer.writeUInt32LE(
    pieces.reduce((sum, piece) => crc32(piece, sum), 0),
    0,
  );
  trailer.writeUInt32LE(
    pieces.reduce((sum, { length }) => sum + length, 0),
    4,
  );
  return Buffer.concat([...parts, LAST_BLOCK, trailer]);
}
