// Small tensors as float32, on the host.

/** Little-endian F32, F16 or BF16 values as float32. */
export function widen(dtype: string, bytes: Uint8Array): Float32Array<ArrayBuffer> {
  const aligned = bytes.slice().buffer;
  if (dtype === "F32") return new Float32Array(aligned);
  if (dtype === "F16") return Float32Array.from(new Float16Array(aligned));
  return new Float32Array(Uint32Array.from(new Uint16Array(aligned), (half) => (half << 16) >>> 0).buffer);
}
