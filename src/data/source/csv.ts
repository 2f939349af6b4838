// CSV and TSV (RFC 4180): the first record names the columns, every other is a row of strings.

import { pipeline, Readable } from "node:stream";
import { CsvError, type Info, parse } from "csv-parse";
import { FormatError } from "../../errors.ts";
import { BlockBuilder, LONG_ROW, MOST_ROW_BYTES, type RowBlock } from "./blocks.ts";

interface CsvRecord {
  record: string[];
  info: Info;
}

/** Codes of csv-parse, in words that name what to mend. */
const REASONS: Readonly<Record<string, string>> = {
  CSV_QUOTE_NOT_CLOSED: 'a field that begins with " has no closing "',
  CSV_INVALID_CLOSING_QUOTE: 'a " ends a field, and more text follows it; a " inside a field is written ""',
  INVALID_OPENING_QUOTE: 'a " stands inside a field that does not begin with one; put the field in quotes',
  CSV_MAX_RECORD_SIZE: `${LONG_ROW}; is a closing " missing?`,
};

/**
 * The rows of a CSV file, as objects of strings by column. A record with more or fewer fields than the header is a
 * broken row. Throws FormatError where quotes or bytes are wrong, since no later record can then be trusted.
 */
export async function* csvBlocks(
  path: string,
  chunks: AsyncGenerator<Buffer, void, void>,
  delimiter: "," | "\t",
): AsyncGenerator<RowBlock, void, void> {
  const parser = parse({
    delimiter,
    record_delimiter: ["\r\n", "\n"],
    // Tab-separated text is mostly written without quoting; in CSV a stray quote is a mistake that moves columns.
    relax_quotes: delimiter === "\t",
    bom: true,
    info: true,
    relax_column_count: true,
    skip_empty_lines: true,
    max_record_size: MOST_ROW_BYTES,
  });
  const texts = Readable.from(decodedTexts(path, chunks), { objectMode: true });
  // Its errors reach the loop below through `parser`, which pipeline destroys with them.
  pipeline(texts, parser, () => {});
  const builder = new BlockBuilder();
  let header: string[] | null = null;
  let lastLine = 0;
  let emptyBefore = 0;
  try {
    for await (const item of parser) {
      const { record, info } = item as CsvRecord;
      const line = lastLine + 1 + (info.empty_lines - emptyBefore);
      emptyBefore = info.empty_lines;
      lastLine = info.lines;
      if (header === null) {
        header = checkedHeader(path, record, delimiter);
        continue;
      }
      const names: string[] = header;
      const problem =
        record.length === names.length
          ? null
          : `expected ${names.length} fields as in the header, got ${record.length}`;
      const row =
        problem === null ? Object.fromEntries(names.map((name, i) => [name, record[i]])) : undefined;
      const bytes = record.reduce((sum, field) => sum + field.length, 0);
      if (builder.add(row, line, bytes, problem)) yield builder.take();
    }
  } catch (error) {
    if (!(error instanceof CsvError)) throw error;
    const reason = REASONS[error.code] ?? error.message;
    const line = typeof error.lines === "number" ? error.lines : lastLine + 1;
    throw new FormatError(`${path}:${line}`, `is not valid CSV: ${reason}`, { cause: error });
  } finally {
    texts.destroy();
    parser.destroy();
    await chunks.return();
  }
  if (header === null) throw new FormatError(path, "is empty; expected a line of column names, then rows");
  if (!builder.isEmpty) yield builder.take();
}

function checkedHeader(path: string, names: readonly string[], delimiter: string): string[] {
  const trimmed = names.map((name) => name.trim());
  const twice = trimmed.find((name, i) => trimmed.indexOf(name) !== i);
  if (twice !== undefined) {
    throw new FormatError(`${path}:1`, `two columns have the name ${JSON.stringify(twice)}`);
  }
  const other = [";", "\t", ","].find((mark) => mark !== delimiter && names[0]!.includes(mark));
  if (names.length === 1 && other !== undefined) {
    const expected = delimiter === "," ? "commas (.csv)" : "tabs (.tsv)";
    throw new FormatError(
      `${path}:1`,
      `expected columns separated by ${expected}, got one named ${JSON.stringify(names[0]!.slice(0, 60))}`,
    );
  }
  return trimmed;
}

/** The chunks as text. */
async function* decodedTexts(
  path: string,
  chunks: AsyncGenerator<Buffer, void, void>,
): AsyncGenerator<string, void, void> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let lines = 1;
  let last: Buffer | undefined;
  const fail = (error: unknown): FormatError =>
    new FormatError(path, `is not valid UTF-8 (near line ${lines}); save it as UTF-8`, { cause: error });
  for await (const chunk of chunks) {
    if (
      last === undefined &&
      ((chunk[0] === 0xff && chunk[1] === 0xfe) || (chunk[0] === 0xfe && chunk[1] === 0xff))
    ) {
      throw new FormatError(path, "is UTF-16; expected UTF-8");
    }
    last = chunk;
    let text: string;
    try {
      text = decoder.decode(chunk, { stream: true });
    } catch (error) {
      throw fail(error);
    }
    for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) lines++;
    if (text !== "") yield text;
  }
  try {
    decoder.decode();
  } catch (error) {
    throw fail(error);
  }
}
