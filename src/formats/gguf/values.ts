// Values of GGUF's metadata, as they stand in the file: little-endian, arrays and texts behind their length (ggml,
// docs/gguf.md).

/** A value with the number that GGUF has for its type. */
export interface GgufValue {
  readonly type: number;
  readonly bytes: Uint8Array;
}

export type GgufField = readonly [key: string, value: GgufValue];

const types = { u32: 4, i32: 5, f32: 6, bool: 7, text: 8, array: 9 } as const;

export const u32Bytes = (value: number) => new Uint8Array(Uint32Array.of(value).buffer);
export const u64Bytes = (value: number) => new Uint8Array(BigUint64Array.of(BigInt(value)).buffer);

/** A text as UTF-8 behind its length in bytes. */
export function textBytes(text: string): Uint8Array {
  const utf8 = new TextEncoder().encode(text);
  return Buffer.concat([u64Bytes(utf8.length), utf8]);
}

export const u32 = (value: number): GgufValue => ({ type: types.u32, bytes: u32Bytes(value) });
export const f32 = (value: number): GgufValue => ({
  type: types.f32,
  bytes: new Uint8Array(Float32Array.of(value).buffer),
});
export const i32 = (value: number): GgufValue => ({
  type: types.i32,
  bytes: new Uint8Array(Int32Array.of(value).buffer),
});
export const bool = (value: boolean): GgufValue => ({
  type: types.bool,
  bytes: Uint8Array.of(value ? 1 : 0),
});
export const text = (value: string): GgufValue => ({ type: types.text, bytes: textBytes(value) });

const array = (type: number, count: number, items: Uint8Array): GgufValue => ({
  type: types.array,
  bytes: Buffer.concat([u32Bytes(type), u64Bytes(count), items]),
});
export const i32s = (values: readonly number[]) =>
  array(types.i32, values.length, new Uint8Array(Int32Array.from(values).buffer));
export const f32s = (values: readonly number[]) =>
  array(types.f32, values.length, new Uint8Array(Float32Array.from(values).buffer));
export const texts = (values: readonly string[]) =>
  array(types.text, values.length, Buffer.concat(values.map(textBytes)));
