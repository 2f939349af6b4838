// Rows from a file: JSON (an array, or an object that holds one) or JSON Lines. What a row means is formats.ts's.

import { readFileSync } from "node:fs";
import { extname } from "node:path";
import { FormatError, NeftuneError } from "../errors.ts";
import { isRowShaped } from "./formats.ts";
import { lineOf, scanJson } from "./json-scan.ts";

/** A row that cannot be used, or the one that stopped a run: `path:line` and what is wrong with it. */
export class RowError extends NeftuneError {
  constructor(where: string, reason: string, options?: ErrorOptions) {
    super("row", `${where}: ${reason}`, options);
  }
}

export interface Source {
  path: string;
  bytes: number;
  rows: unknown[];
  /** Rows of a JSON Lines file that are no JSON, by their place in `rows`, and why. */
  broken: ReadonlyMap<number, string>;
  /** `path:line: row n` of a row, counted from 0 here and from 1 in the text. */
  where(row: number): string;
}

/** Reads a data file's bytes. Throws NeftuneError where it is missing, or of a kind that is not read. */
export function readDataFile(path: string): Buffer {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    const reason =
      code === "ENOENT"
        ? "no such file"
        : code === "EISDIR"
          ? "is a folder, a file was expected"
          : String(error);
    throw new NeftuneError("dataset", `dataset ${path}: ${reason}`, { cause: error });
  }
  const extension = extname(path).toLowerCase();
  if (extension === ".parquet" || bytes.subarray(0, 4).toString("latin1") === "PAR1") {
    throw new FormatError(path, "Parquet is not read yet; write the rows as JSON Lines or a JSON array");
  }
  if (extension === ".csv" || extension === ".tsv") {
    throw new FormatError(path, "CSV is not read yet; write the rows as JSON Lines or a JSON array");
  }
  return bytes;
}

/** The rows of a file's bytes. `path` names it in errors, and its ending `.jsonl` or `.ndjson` says JSON Lines. */
export function parseSource(path: string, file: Buffer): Source {
  if ((file[0] === 0xff && file[1] === 0xfe) || (file[0] === 0xfe && file[1] === 0xff)) {
    throw new FormatError(path, "is UTF-16; expected UTF-8");
  }
  const body = file[0] === 0xef && file[1] === 0xbb && file[2] === 0xbf ? file.subarray(3) : file;
  const first = body.findIndex((byte) => byte !== 0x20 && byte !== 0x09 && byte !== 0x0a && byte !== 0x0d);
  if (first < 0) throw new FormatError(path, "is empty; expected rows as JSON or JSON Lines");

  const namedLines = /\.(jsonl|ndjson)$/i.test(path);
  const opens = body[first];
  if (opens === 0x5b || (opens === 0x7b && !namedLines)) {
    const whole = parseWhole(path, body, namedLines);
    if (whole !== null) return whole;
  } else if (opens !== 0x7b && !namedLines) {
    const line = lineOf(body.subarray(0, first).toString("latin1"), first);
    throw new FormatError(`${path}:${line}`, "expected a JSON array, a JSON object or JSON Lines");
  }
  return parseLines(path, body, file.length);
}

/** The file as one JSON value, or null where it is JSON Lines. */
function parseWhole(path: string, body: Buffer, namedLines: boolean): Source | null {
  let text: string;
  let value: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(body);
  } catch (error) {
    if (namedLines) return null;
    const line = firstBadLine(body);
    throw new FormatError(`${path}:${line}`, "is not valid UTF-8", { cause: error });
  }
  try {
    value = JSON.parse(text);
  } catch (error) {
    if (namedLines || isJsonObject(firstLine(text))) return null;
    const problem = scanJson(text).error;
    const reason = problem?.reason ?? (error as Error).message;
    throw new FormatError(`${path}:${lineOf(text, problem?.at ?? 0)}`, `is not valid JSON: ${reason}`, {
      cause: error,
    });
  }

  let offsets: number[] | undefined;
  const source = (rows: unknown[]): Source => ({
    path,
    bytes: body.length,
    rows,
    broken: new Map(),
    where: (row) => {
      offsets ??= Array.isArray(value) || rows !== single ? scanJson(text).rows : [text.search(/\S/)];
      return `${path}:${lineOf(text, offsets[row] ?? 0)}: row ${row + 1}`;
    },
  });
  const single = [value];
  if (Array.isArray(value)) return source(value);
  if (isRowShaped(value)) return source(single);
  const arrays = Object.values(value as object).filter((member) => Array.isArray(member));
  if (arrays.length !== 1) {
    const keys = Object.keys(value as object).slice(0, 8);
    throw new FormatError(
      path,
      `expected an array of rows, or an object with exactly one array; got an object with ${arrays.length} arrays (keys: ${keys.join(", ") || "none"})`,
    );
  }
  return source(arrays[0] as unknown[]);
}

function parseLines(path: string, body: Buffer, bytes: number): Source {
  const rows: unknown[] = [];
  const lines: number[] = [];
  const broken = new Map<number, string>();
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let line = 0;
  for (let begin = 0; begin < body.length; ) {
    const feed = body.indexOf(0x0a, begin);
    const end = feed < 0 ? body.length : feed;
    line++;
    let text = "";
    let value: unknown;
    let problem: string | null = null;
    try {
      text = decoder.decode(body.subarray(begin, end)).trim();
      if (text !== "") value = JSON.parse(text);
    } catch (error) {
      const found = text === "" ? null : scanJson(text).error;
      const reason = found === null ? (error as Error).message : `${found.reason} (column ${found.at + 1})`;
      problem = text === "" ? "is not valid UTF-8" : `is not valid JSON: ${reason}`;
    }
    begin = end + 1;
    if (text === "" && problem === null) continue;
    if (problem !== null) broken.set(rows.length, problem);
    rows.push(value);
    lines.push(line);
  }
  return { path, bytes, rows, broken, where: (row) => `${path}:${lines[row] ?? 1}: row ${row + 1}` };
}

function firstLine(text: string): string {
  return text.trimStart().split("\n", 1)[0] ?? "";
}

function isJsonObject(text: string): boolean {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value);
  } catch {
    return false;
  }
}

function firstBadLine(body: Buffer): number {
  let line = 1;
  for (let begin = 0; begin < body.length; line++) {
    const feed = body.indexOf(0x0a, begin);
    const end = feed < 0 ? body.length : feed;
    try {
      new TextDecoder("utf-8", { fatal: true }).decode(body.subarray(begin, end));
    } catch {
      return line;
    }
    begin = end + 1;
  }
  return line;
}
