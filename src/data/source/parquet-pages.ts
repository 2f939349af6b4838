// The headers of a Parquet file, checked before its decoder believes them: it takes sizes and counts as they are, and
// may run for minutes on a few wrong bytes.

import type { ColumnChunk, RowGroup } from "hyparquet";
import { readThrift, type ThriftFields } from "./thrift.ts";

/** Bytes of the file from `begin` to `end`. */
export type Slice = (begin: number, end: number) => Uint8Array;

/** Page headers may hold statistics of any length; most have some 100 bytes. */
const HEADER_BYTES = 1 << 12;
/** Values of one column in one row group: more do not fit into memory once they are decoded. */
const MOST_VALUES = 2 ** 28;
const [DATA_PAGE, INDEX_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2] = [0, 1, 2, 3];

/** Throws where the footer is no Thrift struct. */
export function checkFooter(bytes: Uint8Array): void {
  readThrift(bytes);
}

/** Walks the pages of a row group's columns that are read. Throws where a header cannot be meant. */
export function checkPages(
  group: RowGroup,
  isRead: (column: string) => boolean,
  fileBytes: number,
  slice: Slice,
): void {
  for (const { meta_data: column } of group.columns) {
    if (column === undefined || !isRead(column.path_in_schema[0] ?? "")) continue;
    const name = column.path_in_schema.join(".");
    const values = walkPages(column, name, fileBytes, slice);
    // a row has a value in every column, be it null or of an empty list
    if (values < Number(group.num_rows)) {
      throw new Error(`column ${name}: expected ${group.num_rows} values at least, its pages have ${values}`);
    }
  }
}

/** The values that the pages of a column claim. */
function walkPages(
  column: NonNullable<ColumnChunk["meta_data"]>,
  name: string,
  fileBytes: number,
  slice: Slice,
): number {
  const begin = Number(column.dictionary_page_offset || column.data_page_offset);
  const end = begin + Number(column.total_compressed_size);
  if (!(begin >= 0 && end >= begin && end <= fileBytes)) {
    throw new Error(
      `column ${name}: its pages are said to be bytes ${begin} to ${end} of a file of ${fileBytes}`,
    );
  }
  let values = 0;
  // the decoder, too, takes a last byte for padding
  for (let at = begin; at < end - 1; ) {
    const { fields, bytes } = pageHeader(name, at, end, slice);
    const fail = (reason: string) => new Error(`column ${name}: the page at byte ${at} ${reason}`);
    const [type, unpacked, packed] = [1, 2, 3].map((field) => numberAt(fields, field));
    if (type === undefined || type < DATA_PAGE! || type > DATA_PAGE_V2!) throw fail("is of no known type");
    if (packed === undefined || packed < 0 || unpacked === undefined || unpacked < 0)
      throw fail("has no size");
    if (at + bytes + packed > end) throw fail(`ends past its column, which ends at byte ${end}`);
    if (type !== INDEX_PAGE) {
      const count = pageValues(type, fields, Math.min(packed, unpacked));
      if (count === null) throw fail("has counts or sizes that cannot be");
      if (type !== DICTIONARY_PAGE) values += count;
      else if (count > 8 * unpacked) throw fail(`has ${count} values in ${unpacked} bytes`);
    }
    if (values > MOST_VALUES || values > Number(column.num_values)) {
      throw fail(`brings the column to ${values} values, expected ${column.num_values} at most`);
    }
    at += bytes + packed;
  }
  return values;
}

function pageHeader(
  name: string,
  at: number,
  end: number,
  slice: Slice,
): { fields: ThriftFields; bytes: number } {
  for (let size = HEADER_BYTES; ; size *= 16) {
    const last = Math.min(at + size, end);
    try {
      const { fields, end: bytes } = readThrift(slice(at, last));
      return { fields, bytes };
    } catch (error) {
      if (last < end) continue;
      throw new Error(
        `column ${name}: the page at byte ${at} has no whole header: ${(error as Error).message}`,
      );
    }
  }
}

/** How many values a page claims, or null where its own header is missing or wrong. `bytes` is the less of its sizes. */
function pageValues(type: number, fields: ThriftFields, bytes: number): number | null {
  const field = type === DATA_PAGE ? 5 : type === DICTIONARY_PAGE ? 7 : 8;
  const own = fields.get(field);
  if (own === null || typeof own !== "object") return null;
  const count = numberAt(own.fields, 1);
  if (count === undefined || count < 0) return null;
  if (type !== DATA_PAGE_V2) return count;
  const [nulls = -1, definitions = -1, repetitions = -1] = [2, 5, 6].map((n) => numberAt(own.fields, n));
  const isRight = nulls >= 0 && nulls <= count && definitions >= 0 && repetitions >= 0;
  return isRight && definitions + repetitions <= bytes ? count : null;
}

function numberAt(fields: ThriftFields, field: number): number | undefined {
  const value = fields.get(field);
  return typeof value === "number" ? value : undefined;
}
