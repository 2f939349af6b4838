// Thrift's compact protocol, as far as it takes to check what Parquet writes in it: integers by field, everything else
// passed over. Every step moves on, and what a few bytes claim is never believed, so that no bytes make it run long.

/** The fields of a struct: integers, structs; null for any other value. */
export type ThriftFields = ReadonlyMap<number, number | ThriftStruct | null>;
export interface ThriftStruct {
  fields: ThriftFields;
}

const [TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, STRUCT] = [
  1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12,
] as const;
const MOST_VARINT_BYTES = 10;
const MOST_DEPTH = 32;

/** Reads a struct at the start of `bytes`, and where it ends. Throws where there is none, or not all of it. */
export function readThrift(bytes: Uint8Array): ThriftStruct & { end: number } {
  const reader = new Reader(bytes);
  return { ...reader.struct(0), end: reader.at };
}

class Reader {
  readonly #bytes: Uint8Array;
  at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  struct(depth: number): ThriftStruct {
    if (depth > MOST_DEPTH) throw new Error("structs are nested too deep");
    const fields = new Map<number, number | ThriftStruct | null>();
    for (let field = 0; ; ) {
      const head = this.#byte();
      if (head === 0) return { fields };
      field = head >> 4 === 0 ? this.#integer() : field + (head >> 4);
      fields.set(field, this.#value(head & 0x0f, depth));
    }
  }

  #value(type: number, depth: number): number | ThriftStruct | null {
    switch (type) {
      case TRUE:
        return 1;
      case FALSE:
        return 0;
      case BYTE:
        return this.#byte();
      case I16:
      case I32:
      case I64:
        return this.#integer();
      case DOUBLE:
        return this.#skip(8);
      case BINARY:
        return this.#skip(this.#unsigned());
      case LIST:
      case SET:
        return this.#list(depth);
      case STRUCT:
        return this.struct(depth + 1);
      default:
        throw new Error(`no value has the type ${type}`);
    }
  }

  #list(depth: number): null {
    const head = this.#byte();
    const type = head & 0x0f;
    const size = head >> 4 === 15 ? this.#unsigned() : head >> 4;
    // every element takes a byte at least
    if (size > this.#bytes.length - this.at) throw new Error(`a list of ${size} ends past the last byte`);
    for (let i = 0; i < size; i++) this.#value(type === TRUE || type === FALSE ? BYTE : type, depth + 1);
    return null;
  }

  #byte(): number {
    const byte = this.#bytes[this.at++];
    if (byte === undefined) throw new Error("it ends past the last byte");
    return byte;
  }

  #skip(length: number): null {
    if (length > this.#bytes.length - this.at) throw new Error(`${length} bytes end past the last one`);
    this.at += length;
    return null;
  }

  #unsigned(): number {
    let value = 0;
    for (let i = 0; i < MOST_VARINT_BYTES; i++) {
      const byte = this.#byte();
      value += (byte & 0x7f) * 2 ** (7 * i);
      if (byte < 0x80) return value;
    }
    throw new Error(`an integer is longer than ${MOST_VARINT_BYTES} bytes`);
  }

  #integer(): number {
    const zigzag = this.#unsigned();
    return zigzag % 2 === 0 ? zigzag / 2 : -(zigzag + 1) / 2;
  }
}
