// The float types of weights and activations: their sizes, their names elsewhere, and their values as float32.

/** `bytes` of an element; `code`: nt_dtype of kernels/neftune.h; `safetensors` and `torch`: what those call it. */
export const floatTypes = {
  f32: { bytes: 4, code: 0, safetensors: "F32", torch: "float32" },
  bf16: { bytes: 2, code: 1, safetensors: "BF16", torch: "bfloat16" },
  f16: { bytes: 2, code: 2, safetensors: "F16", torch: "float16" },
} as const;

/** A float type that checkpoints store. */
export type FloatDType = keyof typeof floatTypes;

/** What is computed in. */
export type ActivationDType = "f32" | "bf16";

export const floatDTypes = Object.keys(floatTypes) as readonly FloatDType[];

/** The float type that safetensors or PyTorch calls `name`; null where there is none. */
export function floatTypeNamed(format: "safetensors" | "torch", name: unknown): FloatDType | null {
  return floatDTypes.find((dtype) => floatTypes[dtype][format] === name) ?? null;
}

/** Little-endian values as float32. The bytes may have any alignment. */
export function decodeFloats(dtype: FloatDType, bytes: Uint8Array): Float32Array<ArrayBuffer> {
  const aligned = bytes.slice().buffer;
  if (dtype === "f32") return new Float32Array(aligned);
  if (dtype === "f16") return new Float32Array(new Float16Array(aligned));
  const halves = new Uint16Array(aligned);
  const words = new Uint32Array(halves.length);
  for (let i = 0; i < halves.length; i++) words[i] = halves[i]! << 16;
  return new Float32Array(words.buffer);
}

/** Float32 values as little-endian bytes, rounded to nearest even; NaN stays NaN. For f32 a view of the values. */
export function encodeFloats(values: Float32Array<ArrayBuffer>, dtype: FloatDType): Uint8Array {
  if (dtype === "f32") return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  if (dtype === "f16") return new Uint8Array(new Float16Array(values).buffer);
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const halves = new Uint16Array(bits.length);
  for (let i = 0; i < bits.length; i++) {
    const word = bits[i]!;
    const odd = (word & 0x7fffffff) > 0x7f800000;
    halves[i] = odd ? (word >>> 16) | 0x40 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
  return new Uint8Array(halves.buffer);
}
