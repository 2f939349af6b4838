// The element types of GGUF tensors that neftune writes, to the bits of llama.cpp's converters (gguf-py's quants.py):
// plain floats, and blocks of 32 values that share a float16 scale.

/** A block of q8_0 and of q4_0: so many values in a row of a tensor have one scale. */
export const BLOCK_VALUES = 32;

interface GgufType {
  /** ggml's number for it. */
  id: number;
  /** Values that are stored together, and the bytes that they take. */
  values: number;
  bytes: number;
  /** Rounds values, a multiple of `values` of them, to their bytes. */
  encode(values: Float32Array): Uint8Array;
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array | Float16Array | Uint16Array) =>
  new Uint8Array(buffer, byteOffset, byteLength);

/** Rounds to nearest even. Values are finite. */
function encodeBf16(values: Float32Array): Uint8Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const rounded = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) {
    const word = bits[i]!;
    rounded[i] = (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
  return bytesOf(rounded);
}

const scale = new Float16Array(1);
const scaleBytes = new Uint8Array(scale.buffer);

/** A float32's reciprocal; of 0, 0. */
const reciprocal = (value: number) => (value === 0 ? 0 : Math.fround(1 / value));

/** Blocks of a scale d = max|x| / 127 and x / d, rounded half away from zero: 34 bytes. */
function encodeQ8(values: Float32Array): Uint8Array {
  const out = new Uint8Array((values.length / BLOCK_VALUES) * ggufTypes.q8_0.bytes);
  for (let begin = 0, to = 0; begin < values.length; begin += BLOCK_VALUES) {
    let most = 0;
    for (let i = begin; i < begin + BLOCK_VALUES; i++) {
      const size = Math.abs(values[i]!);
      if (size > most) most = size;
    }
    const d = Math.fround(most / 127);
    const inverse = reciprocal(d);
    scale[0] = d;
    out[to++] = scaleBytes[0]!;
    out[to++] = scaleBytes[1]!;
    for (let i = begin; i < begin + BLOCK_VALUES; i++) {
      const scaled = Math.fround(values[i]! * inverse);
      out[to++] = (scaled < 0 ? scaled - 0.5 : scaled + 0.5) | 0;
    }
  }
  return out;
}

/** 0 … 15 of a scaled value from −8 to 8, in float32. */
function level(scaled: number): number {
  return Math.min(15, Math.fround(Math.fround(scaled) + 8.5) | 0);
}

/** Blocks of a scale d = x / −8 of the x farthest from 0, and x / d + 8 in half a byte each: 18 bytes. */
function encodeQ4(values: Float32Array): Uint8Array {
  const out = new Uint8Array((values.length / BLOCK_VALUES) * ggufTypes.q4_0.bytes);
  for (let begin = 0, to = 0; begin < values.length; begin += BLOCK_VALUES) {
    let farthest = values[begin]!;
    for (let i = begin + 1; i < begin + BLOCK_VALUES; i++) {
      if (Math.abs(values[i]!) > Math.abs(farthest)) farthest = values[i]!;
    }
    const d = farthest / -8;
    const inverse = reciprocal(d);
    scale[0] = d;
    out[to++] = scaleBytes[0]!;
    out[to++] = scaleBytes[1]!;
    // The first half of the block lies in the low halves of the bytes.
    for (let i = begin; i < begin + BLOCK_VALUES / 2; i++)
      out[to++] = level(values[i]! * inverse) | (level(values[i + BLOCK_VALUES / 2]! * inverse) << 4);
  }
  return out;
}

export const ggufTypes = {
  f32: { id: 0, values: 1, bytes: 4, encode: bytesOf },
  f16: { id: 1, values: 1, bytes: 2, encode: (values) => bytesOf(new Float16Array(values)) },
  bf16: { id: 30, values: 1, bytes: 2, encode: encodeBf16 },
  q8_0: { id: 8, values: BLOCK_VALUES, bytes: 34, encode: encodeQ8 },
  q4_0: { id: 2, values: BLOCK_VALUES, bytes: 18, encode: encodeQ4 },
} as const satisfies Record<string, GgufType>;

export type GgufTypeName = keyof typeof ggufTypes;

/** The largest value of the types that have less of a range than float32. */
export const largest: Readonly<Record<GgufTypeName, number>> = {
  f32: Number.POSITIVE_INFINITY,
  f16: 65504,
  bf16: 3.3895313892515355e38,
  q8_0: 65504 * 127,
  q4_0: 65504 * 8,
};
