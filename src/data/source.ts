// Rows from a file, in blocks as they are read: JSON, JSON Lines, CSV and TSV, these also packed with gzip or zstd,
// and Parquet. No more than a block is held (of Parquet a row group). What a row means is formats.ts's.

import { about, FormatError, NeftuneError } from "../errors.ts";
import { GUARDED_FIELDS, ROW_FIELDS } from "./formats.ts";
import { placeOf, type RowBlock } from "./source/blocks.ts";
import { type FileKind, fileKind, readBytes } from "./source/bytes.ts";
import { halfSurrogate } from "./source/checked-json.ts";
import { csvBlocks } from "./source/csv.ts";
import { jsonBlocks } from "./source/json.ts";
import { parquetBlocks, parquetLimits } from "./source/parquet-thread.ts";

export { expectGoingOn, fileSha256, fileVersion } from "./source/bytes.ts";
export { placeOf, type RowBlock };

/** A row that cannot be used, or the one that stopped a run: `path:line` and what is wrong with it. */
export class RowError extends NeftuneError {
  constructor(where: string, reason: string, options?: ErrorOptions) {
    super("row", about(where, reason), options);
  }
}

export type SourceFormat = "json" | "lines" | "csv" | "tsv" | "parquet";

export interface Source {
  path: string;
  format: SourceFormat;
  /** About the bytes of its rows once they are unpacked. */
  bytes: number;
  /** Its rows, from the first, each time anew. Leaving the loop closes the file. */
  blocks(): AsyncGenerator<RowBlock, void, void>;
}

export interface SourceOptions {
  /** Columns that --columns renames: read from Parquet beside those that formats know. */
  columns?: readonly string[];
  /** Ends the reading with an InterruptedError. */
  signal?: AbortSignal | undefined;
}

/** How much larger rows are than their packed file, about. */
const UNPACKED = 3;

/** Finds out what a data file is, by its first bytes and then its name. Throws NeftuneError where it cannot be read. */
export function openSource(path: string, { columns = [], signal }: SourceOptions = {}): Source {
  const kind = fileKind(path);
  const format = formatOf(path, kind);
  const isPacked = kind.packing !== "none" || format === "parquet";
  return {
    path,
    format,
    bytes: isPacked ? UNPACKED * kind.bytes : kind.bytes,
    blocks: () => {
      if (format === "parquet") {
        return parquetBlocks(path, [...ROW_FIELDS, ...GUARDED_FIELDS, ...columns], parquetLimits(kind.bytes));
      }
      const bytes = readBytes(path, kind.packing, signal);
      if (format === "csv" || format === "tsv") return csvBlocks(path, bytes, format === "csv" ? "," : "\t");
      return jsonBlocks(path, bytes, format === "lines");
    },
  };
}

function formatOf(path: string, { parquet, packing, bytes }: FileKind): SourceFormat {
  const name = path.toLowerCase().replace(/\.(gz|gzip|zst|zstd)$/, "");
  if (parquet) return "parquet";
  if (name.endsWith(".parquet")) {
    const got = packing === "none" ? (bytes === 0 ? "an empty file" : "other bytes") : `${packing} data`;
    throw new FormatError(path, `is no Parquet file: expected PAR1 as its first bytes, got ${got}`);
  }
  if (name.endsWith(".csv")) return "csv";
  if (name.endsWith(".tsv")) return "tsv";
  return /\.(jsonl|ndjson)$/.test(name) ? "lines" : "json";
}

/** Rows that are in memory already, as a source. `path` is what errors call them. */
export function sourceOfRows(path: string, rows: readonly unknown[]): Source {
  return {
    path,
    format: "json",
    bytes: Buffer.byteLength(JSON.stringify(rows)),
    async *blocks() {
      const size = 1024;
      for (let first = 0; first < rows.length; first += size) {
        const block: RowBlock = {
          first,
          rows: rows.slice(first, first + size),
          broken: new Map(),
          lines: [],
        };
        for (const [i, row] of block.rows.entries()) {
          const half = halfSurrogate(row);
          if (half === null) continue;
          block.broken.set(i, `a string has half of a surrogate pair (${half}), which is no character`);
          block.rows[i] = undefined;
        }
        yield block;
      }
    },
  };
}

/** One row of a source after the other, the broken ones with their problem. */
export async function* rowsOf(
  source: Source,
): AsyncGenerator<{ row: unknown; problem: string | null; where: string }, void, void> {
  for await (const block of source.blocks()) {
    for (const [i, row] of block.rows.entries()) {
      yield { row, problem: block.broken.get(i) ?? null, where: `${source.path}${placeOf(block, i)}` };
    }
  }
}
