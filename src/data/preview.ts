// Rows of a file as they would be trained on or generated from, without a data set being kept: for `preview` and
// `generate`.

import { Encoder, type EncoderOptions, type Prompt } from "./encode.ts";
import { RowProblem } from "./formats.ts";
import { IGNORE } from "./sample.ts";
import { parseSource, RowError, readDataFile } from "./source.ts";
import { promptTemplate } from "./templates.ts";
import { Tokenizer } from "./tokenizer.ts";

export interface RowsOptions {
  path: string;
  tokenizerDir: string;
  template?: string | undefined;
  maxLength: number | null;
  skipBadRows?: boolean | undefined;
  parseSpecial?: boolean | undefined;
  vocabSize?: number | undefined;
  /** How many rows, from the first; 0 is all. */
  limit?: number | undefined;
}

/** A row as `preview --json` prints it. */
export interface Preview {
  text: string;
  input_ids: number[];
  labels: number[];
  truncated: boolean;
}

/** A stretch of a sample's tokens, all trained or none. */
export interface PreviewPart {
  text: string;
  trained: boolean;
}

/** Encodes one row as training would. Throws RowProblem. */
export function previewRow(encoder: Encoder, value: unknown): Preview {
  const { ids, labels, truncated, text } = encoder.encode(value);
  return { text, input_ids: Array.from(ids), labels: Array.from(labels), truncated };
}

/** A sample's text, special tokens shown, cut where training begins and ends. The first token is never trained. */
export function previewParts(
  tokenizer: Tokenizer,
  preview: Pick<Preview, "input_ids" | "labels">,
): PreviewPart[] {
  const { input_ids: ids, labels } = preview;
  const isTrained = (i: number): boolean => i > 0 && labels[i] !== IGNORE;
  const parts: PreviewPart[] = [];
  let shown = "";
  for (let begin = 0; begin < ids.length; ) {
    let end = begin + 1;
    while (end < ids.length && isTrained(end) === isTrained(begin)) end++;
    // as a continuation: a token may be written otherwise at the start of a text than inside it
    const text = tokenizer.decode(ids.slice(0, end));
    parts.push({ text: text.slice(shown.length), trained: isTrained(begin) });
    shown = text;
    begin = end;
  }
  return parts;
}

/** The first rows of a file, as training would see them. Errors are `loadDataset`'s. */
export function previewFile(options: RowsOptions): {
  previews: Preview[];
  tokenizer: Tokenizer;
  skipped: number;
} {
  const { results, tokenizer, skipped } = mapRows(options, previewRow);
  return { previews: results, tokenizer, skipped };
}

/** The prompts of a file's rows, without what the rows would teach. Errors are `loadDataset`'s. */
export function loadPrompts(options: RowsOptions): {
  prompts: Prompt[];
  tokenizer: Tokenizer;
  skipped: number;
} {
  const { results, tokenizer, skipped } = mapRows(options, (encoder, row) => encoder.encodePrompt(row));
  return { prompts: results, tokenizer, skipped };
}

function mapRows<T>(
  options: RowsOptions,
  map: (encoder: Encoder, row: unknown) => T,
): { results: T[]; tokenizer: Tokenizer; skipped: number } {
  const source = parseSource(options.path, readDataFile(options.path));
  const tokenizer = Tokenizer.load(options.tokenizerDir);
  const encoding: EncoderOptions = {
    template: promptTemplate(options.template),
    maxLength: options.maxLength,
    parseSpecial: options.parseSpecial === true,
    vocabSize: options.vocabSize ?? null,
  };
  const encoder = new Encoder(tokenizer, encoding);
  const limit = options.limit === undefined || options.limit === 0 ? source.rows.length : options.limit;
  const results: T[] = [];
  let skipped = 0;
  for (let row = 0; row < source.rows.length && results.length < limit; row++) {
    try {
      const broken = source.broken.get(row);
      if (broken !== undefined) throw new RowProblem(broken);
      results.push(map(encoder, source.rows[row]));
    } catch (error) {
      if (!(error instanceof RowProblem)) throw error;
      if (options.skipBadRows !== true) {
        throw new RowError(source.where(row), error.message, { cause: error });
      }
      skipped++;
    }
  }
  return { results, tokenizer, skipped };
}
