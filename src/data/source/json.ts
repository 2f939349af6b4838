// JSON and JSON Lines, row by row as the bytes come. Only an object that holds the rows is read whole.

import { FormatError } from "../../errors.ts";
import { isRowShaped } from "../formats.ts";
import { lineOf, scanJson } from "../json-scan.ts";
import { BlockBuilder, LONG_ROW, MOST_ROW_BYTES, type RowBlock } from "./blocks.ts";
import { jsonProblem, nestingProblem } from "./checked-json.ts";

const [LF, QUOTE, BACKSLASH, COMMA] = [0x0a, 0x22, 0x5c, 0x2c];
const [OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [0x5b, 0x5d, 0x7b, 0x7d];
/** A file that is one JSON object has to fit into a string. */
const MOST_WHOLE_BYTES = 1 << 29;
const NOTHING = Buffer.alloc(0);

type Chunks = AsyncGenerator<Buffer, void, void>;

/** Bytes that were read ahead, and what follows them. */
class Bytes {
  head: Buffer = NOTHING;
  readonly #rest: Chunks;

  constructor(rest: Chunks) {
    this.#rest = rest;
  }

  /** Puts what comes next behind `head`, the more the longer it is, since it is copied; false at the end. */
  async more(): Promise<boolean> {
    const parts: Buffer[] = this.head.length === 0 ? [] : [this.head];
    let added = 0;
    do {
      const { done, value } = await this.#rest.next();
      if (done === true) break;
      parts.push(value);
      added += value.length;
    } while (2 * added < this.head.length);
    if (parts.length > 0) this.head = parts.length === 1 ? parts[0]! : Buffer.concat(parts);
    return added > 0;
  }
}

/**
 * The rows of a JSON file: an array, an object that is a row or holds one array, or JSON Lines, which `namedLines`
 * says the name promises. `path` names the file in errors. Throws FormatError where the file as a whole is not
 * readable; a broken line of JSON Lines is a broken row.
 */
export async function* jsonBlocks(
  path: string,
  chunks: Chunks,
  namedLines: boolean,
): AsyncGenerator<RowBlock, void, void> {
  const bytes = new Bytes(chunks);
  try {
    const { line, opens } = await skipBlank(path, bytes);
    if (opens === OPEN_LIST && !(namedLines && (await firstLineIsAll(bytes)) === false)) {
      yield* arrayBlocks(path, bytes, line);
    } else if (opens === OPEN_OBJECT || namedLines) {
      if (namedLines || (await isLines(path, bytes))) yield* lineBlocks(path, bytes, line);
      else yield* wholeBlocks(path, bytes, line);
    } else {
      throw new FormatError(`${path}:${line}`, "expected a JSON array, a JSON object or JSON Lines");
    }
  } finally {
    await chunks.return();
  }
}

/** Passes over a byte order mark and white space: the line then reached, and the byte there. */
async function skipBlank(path: string, bytes: Bytes): Promise<{ line: number; opens: number }> {
  while (bytes.head.length < 3 && (await bytes.more()));
  const { head } = bytes;
  if ((head[0] === 0xff && head[1] === 0xfe) || (head[0] === 0xfe && head[1] === 0xff)) {
    throw new FormatError(path, "is UTF-16; expected UTF-8");
  }
  if (head[0] === 0xef && head[1] === 0xbb && head[2] === 0xbf) bytes.head = head.subarray(3);
  let line = 1;
  do {
    let at = 0;
    for (; at < bytes.head.length && isBlank(bytes.head[at]!); at++) if (bytes.head[at] === LF) line++;
    bytes.head = bytes.head.subarray(at);
    if (bytes.head.length > 0) return { line, opens: bytes.head[0]! };
  } while (await bytes.more());
  throw new FormatError(path, "is empty; expected rows");
}

function isBlank(byte: number): boolean {
  return byte === 0x20 || byte === 0x09 || byte === LF || byte === 0x0d;
}

/** Where the first line ends: the place of its line feed, or -1 where the file has no other line. */
async function firstLineEnd(path: string, bytes: Bytes): Promise<number> {
  for (let from = 0; ; ) {
    const feed = bytes.head.indexOf(LF, from);
    if (feed >= 0) return feed;
    from = bytes.head.length;
    if (from > MOST_ROW_BYTES) throw new FormatError(path, `${LONG_ROW}, or it is no JSON Lines file`);
    if (!(await bytes.more())) return -1;
  }
}

/** True where the first line is an object of its own and others follow it. */
async function isLines(path: string, bytes: Bytes): Promise<boolean> {
  const end = await firstLineEnd(path, bytes);
  if (end < 0 || !isJson(bytes.head.subarray(0, end))) return false;
  for (let at = end; ; ) {
    for (; at < bytes.head.length; at++) if (!isBlank(bytes.head[at]!)) return true;
    if (!(await bytes.more())) return false;
  }
}

/** False where the first line is JSON by itself, and so no array that goes on. */
async function firstLineIsAll(bytes: Bytes): Promise<boolean> {
  const end = await firstLineEnd("", bytes).catch((error: unknown) => {
    if (error instanceof FormatError) return -1;
    throw error;
  });
  return end < 0 || !isJson(bytes.head.subarray(0, end));
}

function isJson(bytes: Buffer): boolean {
  try {
    JSON.parse(bytes.toString("utf8"));
    return true;
  } catch {
    return false;
  }
}

async function* lineBlocks(path: string, bytes: Bytes, firstLine: number): AsyncGenerator<RowBlock> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  const builder = new BlockBuilder();
  let line = firstLine;
  for (let whole = false; !whole; ) {
    let begin = 0;
    for (;;) {
      const feed = bytes.head.indexOf(LF, begin);
      if (feed < 0) break;
      if (addLine(builder, decoder, bytes.head.subarray(begin, feed), line)) yield builder.take();
      begin = feed + 1;
      line++;
    }
    bytes.head = bytes.head.subarray(begin);
    if (bytes.head.length > MOST_ROW_BYTES) throw new FormatError(`${path}:${line}`, LONG_ROW);
    whole = !(await bytes.more());
  }
  addLine(builder, decoder, bytes.head, line);
  if (!builder.isEmpty) yield builder.take();
}

/** Units of a text that is looked at before it is parsed. */
const LONG_TEXT = 1 << 20;

/** A line as a row, unless it is blank; true where the block is full. */
function addLine(builder: BlockBuilder, decoder: TextDecoder, bytes: Buffer, line: number): boolean {
  let text = "";
  try {
    text = decoder.decode(bytes).trim();
    if (text === "") return false;
    // JSON.parse takes some 80 bytes for each level, also of a text that turns out not to be whole.
    const nested = text.length > LONG_TEXT ? nestingProblem(text) : null;
    const row = nested === null ? (JSON.parse(text) as unknown) : undefined;
    const found = nested ?? jsonProblem(row, text);
    if (found === null) return builder.add(row, line, bytes.length);
    return builder.add(undefined, line, bytes.length, `${found.reason} (column ${found.at + 1})`);
  } catch (error) {
    const found = text === "" ? null : scanJson(text).error;
    const reason = found === null ? (error as Error).message : `${found.reason} (column ${found.at + 1})`;
    const problem = text === "" ? "is not valid UTF-8" : `is not valid JSON: ${reason}`;
    return builder.add(undefined, line, bytes.length, problem);
  }
}

/** A file that is one JSON object: a row, or what holds the array of rows. */
async function* wholeBlocks(path: string, bytes: Bytes, firstLine: number): AsyncGenerator<RowBlock> {
  const parts = [bytes.head];
  for (let size = bytes.head.length; ; ) {
    bytes.head = NOTHING;
    if (!(await bytes.more())) break;
    size += bytes.head.length;
    parts.push(bytes.head);
    if (size > MOST_WHOLE_BYTES) {
      throw new FormatError(
        path,
        `is one JSON object of more than ${MOST_WHOLE_BYTES >> 20} MiB; write its rows as JSON Lines or a JSON array`,
      );
    }
  }
  const body = Buffer.concat(parts);
  const text = decoded(path, body, firstLine);
  const value = parsed(path, text, firstLine);
  const rows = isRowShaped(value) ? [value] : soleArray(path, value as object);
  const offsets = isRowShaped(value) ? [0] : scanJson(text).rows;
  const problem = jsonProblem(value, text, isRowShaped(value) ? 0 : 2);
  const builder = new BlockBuilder();
  let [line, at, found] = [firstLine, 0, false];
  for (const [i, row] of rows.entries()) {
    const offset = offsets[i] ?? at;
    line += lineOf(text.slice(at, offset), offset - at) - 1;
    at = offset;
    const reason =
      problem === null ? null : (jsonProblem(row, text.slice(at, offsets[i + 1]))?.reason ?? null);
    found ||= reason !== null;
    if (builder.add(row, line, body.length / rows.length, reason)) yield builder.take();
  }
  // outside the rows: of an array that is there twice the first would be lost
  if (problem !== null && !found) {
    throw invalid(path, firstLine + lineOf(text, problem.at) - 1, problem.reason);
  }
  if (!builder.isEmpty) yield builder.take();
}

function soleArray(path: string, value: object): unknown[] {
  const arrays = Object.values(value).filter((member) => Array.isArray(member));
  if (arrays.length === 1) return arrays[0] as unknown[];
  const keys = Object.keys(value).slice(0, 8);
  throw new FormatError(
    path,
    `expected an array of rows, or an object with exactly one array; got an object with ${arrays.length} arrays (keys: ${keys.join(", ") || "none"})`,
  );
}

/** Text of bytes that begin in line `line`. */
function decoded(path: string, bytes: Buffer, line: number): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    throw new FormatError(`${path}:${line + firstBadLine(bytes)}`, "is not valid UTF-8", { cause: error });
  }
}

function parsed(path: string, text: string, line: number): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    const problem = scanJson(text).error;
    const reason = problem?.reason ?? (error as Error).message;
    throw invalid(path, line + lineOf(text, problem?.at ?? 0) - 1, reason, error);
  }
}

function invalid(path: string, line: number, reason: string, cause?: unknown): FormatError {
  return new FormatError(`${path}:${line}`, `is not valid JSON: ${reason}`, { cause });
}

/** Line feeds before the first line that is not UTF-8. */
function firstBadLine(bytes: Buffer): number {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  for (let [begin, line] = [0, 0]; begin < bytes.length; line++) {
    const feed = bytes.indexOf(LF, begin);
    const end = feed < 0 ? bytes.length : feed;
    try {
      decoder.decode(bytes.subarray(begin, end));
    } catch {
      return line;
    }
    begin = end + 1;
  }
  return 0;
}

/** What an array is between its elements. */
type Between = "element or end" | "element" | "comma or end" | "nothing more";

const EXPECTED: Readonly<Record<Between, string>> = {
  "element or end": "the text ends where a value or ] was expected",
  element: "the text ends where a value was expected",
  "comma or end": 'the text ends where "," or the end of a list was expected',
  "nothing more": "",
};

/**
 * The elements of an array, cut out by counting brackets outside strings, each then parsed by itself: what is wrong
 * inside one JSON.parse says.
 */
async function* arrayBlocks(path: string, bytes: Bytes, firstLine: number): AsyncGenerator<RowBlock> {
  const builder = new BlockBuilder();
  let between: Between = "element or end";
  let line = firstLine;
  let at = 1;
  for (;;) {
    while (at < bytes.head.length && isBlank(bytes.head[at]!)) if (bytes.head[at++] === LF) line++;
    if (at >= bytes.head.length) {
      bytes.head = NOTHING;
      at = 0;
      if (await bytes.more()) continue;
      if (between !== "nothing more") throw invalid(path, line, EXPECTED[between]);
      break;
    }
    const byte = bytes.head[at]!;
    const shown = JSON.stringify(String.fromCharCode(byte));
    if (between === "nothing more") throw invalid(path, line, `${shown} after the end of the value`);
    if (between === "comma or end") {
      if (byte !== COMMA && byte !== CLOSE_LIST) {
        throw invalid(path, line, `expected "," or "]", got ${shown}`);
      }
      between = byte === COMMA ? "element" : "nothing more";
      at++;
      continue;
    }
    if (byte === CLOSE_LIST && between === "element or end") {
      between = "nothing more";
      at++;
      continue;
    }
    bytes.head = bytes.head.subarray(at);
    const { end, feeds } = await elementEnd(path, bytes, line);
    const element = bytes.head.subarray(0, end);
    const text = decoded(path, element, line);
    const row = parsed(path, text, line);
    if (builder.add(row, line, end, jsonProblem(row, text)?.reason)) yield builder.take();
    line += feeds;
    at = end;
    between = "comma or end";
  }
  if (!builder.isEmpty) yield builder.take();
}

/** Where the value at the start of `bytes.head` ends, and how many line feeds it holds. Reads on as far as it takes. */
async function elementEnd(path: string, bytes: Bytes, line: number): Promise<{ end: number; feeds: number }> {
  let [depth, feeds, inString] = [0, 0, false];
  for (let at = 0; ; ) {
    const { head } = bytes;
    for (; at < head.length; at++) {
      const byte = head[at]!;
      if (byte === LF) feeds++;
      if (inString) {
        if (byte === BACKSLASH) {
          if (at + 1 >= head.length) break;
          at++;
        } else if (byte === QUOTE) {
          inString = false;
          if (depth === 0) return { end: at + 1, feeds };
        }
      } else if (byte === QUOTE) inString = true;
      else if (byte === OPEN_LIST || byte === OPEN_OBJECT) depth++;
      else if (byte === CLOSE_LIST || byte === CLOSE_OBJECT) {
        if (depth <= 1) return { end: depth === 1 ? at + 1 : Math.max(1, at), feeds };
        depth--;
      } else if (depth === 0 && (byte === COMMA || isBlank(byte))) {
        return { end: Math.max(1, at), feeds: byte === LF ? feeds - 1 : feeds };
      }
    }
    if (head.length > MOST_ROW_BYTES) throw new FormatError(`${path}:${line}`, LONG_ROW);
    // at the end of the file the value is cut short, or a comma is missing: its parser or the caller says so
    if (!(await bytes.more())) return { end: head.length, feeds };
  }
}
