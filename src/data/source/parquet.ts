// Parquet, one row group at a time, of the columns that a row can use. Runs in a thread of its own (parquet-worker.ts).

import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { type AsyncBuffer, type FileMetaData, parquetMetadataAsync, parquetReadObjects } from "hyparquet";
import { compressors } from "hyparquet-compressors";
import { FormatError, NeftuneError } from "../../errors.ts";
import { ioError } from "../../formats/io.ts";
import { BlockBuilder, type RowBlock } from "./blocks.ts";
import { checkFooter, checkPages } from "./parquet-pages.ts";

/** Footer length and the closing magic. */
const TAIL_BYTES = 8;

/** The file as hyparquet reads it. The caller closes it. */
class OpenFile implements AsyncBuffer {
  readonly byteLength: number;
  readonly #fd: number;
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
    try {
      this.#fd = openSync(path, "r");
      this.byteLength = fstatSync(this.#fd).size;
    } catch (error) {
      throw ioError(path, "read", error);
    }
  }

  slice(begin: number, end = this.byteLength): ArrayBuffer {
    return this.bytes(begin, end).buffer;
  }

  bytes(begin: number, end: number): Uint8Array<ArrayBuffer> {
    if (!(begin >= 0 && end >= begin && end <= this.byteLength)) {
      throw new Error(`its footer names bytes ${begin} to ${end} of a file of ${this.byteLength}`);
    }
    const bytes = new Uint8Array(end - begin);
    try {
      for (let at = 0; at < bytes.length; ) {
        const read = readSync(this.#fd, bytes, at, Math.min(bytes.length - at, 1 << 30), begin + at);
        if (read === 0) throw new Error("the file became shorter while it was read");
        at += read;
      }
    } catch (error) {
      throw ioError(this.#path, "read", error);
    }
    return bytes;
  }

  close(): void {
    closeSync(this.#fd);
  }
}

/** Strings are UTF-8 or the file is damaged: replacement characters must not reach a model. */
const parsers = {
  stringFromBytes(bytes: Uint8Array): string {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  },
};

/**
 * The rows of a Parquet file, nested lists and structs as arrays and objects. Reads the columns in `wanted`, or
 * all columns if the file has none of those. Throws FormatError where the file is damaged.
 */
export async function* readParquet(
  path: string,
  wanted: ReadonlySet<string>,
): AsyncGenerator<RowBlock, void, void> {
  const file = new OpenFile(path);
  try {
    const metadata = await readFooter(path, file);
    const columns = topColumns(metadata);
    const known = columns.filter((name) => wanted.has(name));
    const unread = known.length > 0 ? columns.filter((name) => !wanted.has(name)) : [];
    const builder = new BlockBuilder();
    let begin = 0;
    for (const [i, group] of metadata.row_groups.entries()) {
      const rowEnd = begin + Number(group.num_rows);
      const bytes = Number(group.total_byte_size) / Math.max(1, Number(group.num_rows));
      let rows: Record<string, unknown>[];
      try {
        const isRead = (column: string) => known.length === 0 || wanted.has(column);
        checkPages(group, isRead, file.byteLength, (from, to) => file.bytes(from, to));
        rows = (await parquetReadObjects({
          file,
          metadata,
          rowStart: begin,
          rowEnd,
          ...(known.length > 0 ? { columns: known } : {}),
          compressors,
          parsers,
        })) as Record<string, unknown>[];
      } catch (error) {
        throw damaged(path, `row group ${i + 1} of ${metadata.row_groups.length}`, error);
      }
      if (rows.length !== rowEnd - begin) {
        const reason = `expected ${rowEnd - begin} rows, got ${rows.length}`;
        throw damaged(path, `row group ${i + 1} of ${metadata.row_groups.length}`, new Error(reason));
      }
      for (const row of rows) if (builder.add(plain(row), null, bytes)) yield { ...builder.take(), unread };
      begin = rowEnd;
    }
    if (!builder.isEmpty) yield { ...builder.take(), unread };
  } finally {
    file.close();
  }
}

async function readFooter(path: string, file: OpenFile): Promise<FileMetaData> {
  const tail =
    file.byteLength < TAIL_BYTES + 4 ? "" : Buffer.from(file.slice(file.byteLength - 4)).toString("latin1");
  if (tail !== "PAR1") {
    throw new FormatError(
      path,
      `is no whole Parquet file: expected PAR1 as its last bytes (${file.byteLength} bytes; is the download cut short?)`,
    );
  }
  try {
    const end = file.byteLength - TAIL_BYTES;
    const length = Buffer.from(file.slice(end)).readUInt32LE();
    if (length <= end) checkFooter(file.bytes(end - length, end));
    const metadata = await parquetMetadataAsync(file);
    checkCounts(metadata);
    return metadata;
  } catch (error) {
    throw damaged(path, "its footer", error);
  }
}

/** What a damaged footer may say that would be believed below. */
function checkCounts({ num_rows, row_groups, schema }: FileMetaData): void {
  if (!Array.isArray(row_groups) || !Array.isArray(schema) || schema.length === 0) {
    throw new Error("it has no schema");
  }
  let rows = 0n;
  for (const { num_rows: count } of row_groups) {
    if (typeof count !== "bigint" || count < 0n) throw new Error("a row group has no number of rows");
    rows += count;
  }
  if (rows !== num_rows) throw new Error(`it says ${num_rows} rows, its row groups have ${rows}`);
  if (rows > BigInt(Number.MAX_SAFE_INTEGER)) throw new Error(`it says ${num_rows} rows`);
}

function topColumns({ schema }: FileMetaData): string[] {
  const names: string[] = [];
  // The schema is the tree's nodes in depth-first order; those right below the root are the columns.
  for (let at = 1; at < schema.length; ) {
    names.push(schema[at]!.name);
    at = afterNode(schema, at);
  }
  return names;
}

function afterNode(schema: FileMetaData["schema"], at: number): number {
  let next = at + 1;
  for (let left = schema[at]?.num_children ?? 0; left > 0 && next < schema.length; left--) {
    next = afterNode(schema, next);
  }
  return next;
}

/** A value as JSON would have it: 64-bit integers as numbers, absent values as null. */
function plain(value: unknown): unknown {
  if (value === undefined) return null;
  if (typeof value === "bigint") return Number(value);
  if (ArrayBuffer.isView(value) && !(value instanceof DataView)) return Array.from(value as never, plain);
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null || value instanceof Date) return value;
  return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, plain(member)]));
}

function damaged(path: string, part: string, error: unknown): unknown {
  if (error instanceof NeftuneError) return error;
  // The library does not check every field it reads; what its code trips over tells a user nothing. Errors of a text
  // decoder, which are TypeErrors too, have a code.
  const stumbled = error instanceof RangeError || (error instanceof TypeError && !("code" in error));
  const message = (error instanceof Error ? error.message : String(error)).split("\n")[0];
  const reason = stumbled ? "a value is missing or not of the type expected there" : message;
  return new FormatError(path, `is damaged, or of a kind of Parquet that is not read: ${part}: ${reason}`, {
    cause: error,
  });
}
