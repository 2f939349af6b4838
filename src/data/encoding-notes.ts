// What there is to say of a data set's rows beside their tokens: which templates made them text, columns that nothing
// read, and remarks on rows that train something other than their author may expect. Plain data: threads send it, the
// cache keeps it.

/** What a row may be remarked on for. */
export const remarks = [
  /** An answer without text. */
  "empty-answer",
  /** Of the answers only what ends them is a target. */
  "end-alone",
  /** The template leaves out or changes part of an answer. */
  "changed-answer",
  /** The generation prompt is not what stands before the answer in training. */
  "other-prompt",
  /** After the answers stands no special token, so that no stop is trained. */
  "no-stop",
  /** The template asked for the date. */
  "dated",
] as const;
export type Remark = (typeof remarks)[number];

/** `Place` is where a row is: its number in a block, later `:line: row n` behind the file's path. */
export interface EncodingNotes<Place = string> {
  /** How many rows a remark is about, and the first of them. */
  remarks: Partial<Record<Remark, { rows: number; first: Place }>>;
  /** Names of columns that nothing read, the first few. */
  unused: string[];
  /** Names of the templates that rows were rendered with. */
  templates: string[];
}

/** What one row has for the notes. */
export interface RowNotes {
  remarks: readonly Remark[];
  /** Columns that nothing read. */
  unused: readonly string[];
  /** Null for a row that is a text or tokens already. */
  template: string | null;
}

/** How many unused columns are kept by name. */
const MOST_COLUMNS = 20;

export function noNotes<Place>(): EncodingNotes<Place> {
  return { remarks: {}, unused: [], templates: [] };
}

export function noteRow<Place>(notes: EncodingNotes<Place>, place: Place, row: RowNotes): void {
  for (const remark of row.remarks) {
    const known = notes.remarks[remark];
    if (known === undefined) notes.remarks[remark] = { rows: 1, first: place };
    else known.rows++;
  }
  addNames(notes.unused, row.unused, MOST_COLUMNS);
  if (row.template !== null) addNames(notes.templates, [row.template], Number.POSITIVE_INFINITY);
}

/** Adds one block's notes to those of the rows before it. `placed` says where a row is. */
export function addNotes<From, To>(
  to: EncodingNotes<To>,
  from: EncodingNotes<From>,
  placed: (place: From) => To,
): void {
  for (const remark of remarks) {
    const more = from.remarks[remark];
    if (more === undefined) continue;
    const known = to.remarks[remark];
    if (known === undefined) to.remarks[remark] = { rows: more.rows, first: placed(more.first) };
    else known.rows += more.rows;
  }
  addNames(to.unused, from.unused, MOST_COLUMNS);
  addNames(to.templates, from.templates, Number.POSITIVE_INFINITY);
}

/** Adds columns that were not even read. */
export function noteUnused(notes: EncodingNotes<unknown>, columns: readonly string[]): void {
  addNames(notes.unused, columns, MOST_COLUMNS);
}

function addNames(to: string[], from: readonly string[], most: number): void {
  for (const name of from) if (to.length < most && !to.includes(name)) to.push(name);
}
