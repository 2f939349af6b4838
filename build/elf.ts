// Takes out of a finished library what only debuggers read.

const SECTION_HEADER = 64;
const SYMTAB = 2;

/**
 * A 64-bit little-endian ELF file without its symbol table (.symtab, .strtab); loading needs only .dynsym. Throws where
 * these are not the sections before the last one, which has the sections' names, at the file's end.
 */
export function withoutSymbols(bytes: Buffer): Buffer {
  const headersAt = Number(bytes.readBigUInt64LE(0x28));
  const count = bytes.readUInt16LE(0x3c);
  const header = (index: number) => {
    const at = headersAt + index * SECTION_HEADER;
    return Buffer.from(bytes.subarray(at, at + SECTION_HEADER));
  };
  const offsetOf = (section: Buffer) => Number(section.readBigUInt64LE(24));
  const [symbols, strings, names] = [header(count - 3), header(count - 2), header(count - 1)];
  const isLast = bytes.readUInt16LE(0x3e) === count - 1 && headersAt >= offsetOf(names);
  const inOrder = offsetOf(symbols) < offsetOf(strings) && offsetOf(strings) < offsetOf(names);
  if (symbols.readUInt32LE(4) !== SYMTAB || !isLast || !inOrder)
    throw new Error(
      "expected .symtab, .strtab and .shstrtab as the last sections of the file, in this order",
    );
  const start = offsetOf(symbols);
  const text = bytes.subarray(offsetOf(names), offsetOf(names) + Number(names.readBigUInt64LE(32)));
  names.writeBigUInt64LE(BigInt(start), 24);
  const padding = Buffer.alloc((8 - ((start + text.length) % 8)) % 8);
  const head = Buffer.from(bytes.subarray(0, start));
  head.writeBigUInt64LE(BigInt(start + text.length + padding.length), 0x28);
  head.writeUInt16LE(count - 2, 0x3c);
  head.writeUInt16LE(count - 3, 0x3e);
  const kept = Array.from({ length: count - 3 }, (_, index) => header(index));
  return Buffer.concat([head, text, padding, ...kept, names]);
}
