// Text as a terminal shows it: what comes from files is made harmless, measured in columns, shortened and wrapped.

/** C0 but for tab and line feed, DEL, C1, marks that turn the direction of text, line and paragraph separators. */
const UNSAFE = String.raw`\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069`;
const unsafe = new RegExp(`[${UNSAFE}]`, "g");
const unsafeInLine = new RegExp(`[${UNSAFE}\\t\\n]`, "g");

const named: Readonly<Record<string, string>> = { "\t": "\\t", "\n": "\\n", "\r": "\\r" };

function escaped(character: string): string {
  const code = character.charCodeAt(0);
  const hex = (digits: number) => code.toString(16).padStart(digits, "0");
  return named[character] ?? (code < 0x100 ? `\\x${hex(2)}` : `\\u${hex(4)}`);
}

/** The text with characters that steer a terminal written out (`\x1b`, `\u202e`); line feeds and tabs stay. */
export function escapeText(text: string): string {
  return text.replace(unsafe, escaped);
}

/** The same for a text that has to stay on one line, such as a name. */
export function escapeLine(text: string): string {
  return text.replace(unsafeInLine, escaped);
}

/** JSON with what escapeText writes out as \u escapes, which read back as the same text. */
export function escapeJson(json: string): string {
  return json.replace(unsafe, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** Columns that a terminal gives the text: 2 for a wide character or emoji, 0 for a combining mark. */
export function displayWidth(text: string): number {
  return Bun.stringWidth(text, { countAnsiEscapeCodes: true });
}

let segmenter: Intl.Segmenter | undefined;

/** What a reader takes for one character each. */
export function graphemes(text: string): string[] {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: ASCII needs no segmenter
  if (/^[\x00-\x7f]*$/.test(text)) return [...text];
  segmenter ??= new Intl.Segmenter("en", { granularity: "grapheme" });
  return Array.from(segmenter.segment(text), ({ segment }) => segment);
}

/** As many of `characters` as fit into `width` columns. */
function fitting(characters: Iterable<string>, width: number): string[] {
  const taken: string[] = [];
  let left = width;
  for (const character of characters) {
    left -= displayWidth(character);
    if (left < 0) break;
    taken.push(character);
  }
  return taken;
}

/** The text, its middle replaced by "…" where it is wider than `width` columns. */
export function shorten(text: string, width: number): string {
  // A text of at most half as many letters as columns fits; of a very long one the ends are enough.
  if (2 * text.length <= width) return text;
  const most = 16 * width;
  const isHuge = text.length > 2 * most;
  if (!isHuge && displayWidth(text) <= width) return text;
  const [start, end] = isHuge ? [text.slice(0, most), text.slice(-most)] : [text, text];
  const half = Math.max(0, width - 1) / 2;
  const head = fitting(graphemes(start), Math.ceil(half));
  const tail = fitting(graphemes(end).reverse(), Math.floor(half));
  return `${head.join("")}…${tail.reverse().join("")}`;
}

/** A name or value from outside, for a message: on one line, at most `width` columns of it. */
export function shown(text: string, width = 80): string {
  return shorten(escapeLine(text), width);
}

/** `shown` in quotes, as JSON writes a string. */
export function quoted(text: string, width = 80): string {
  return `"${shorten(escapeJson(JSON.stringify(text)).slice(1, -1), width)}"`;
}

/** Columns of a word (a path, a key) in a message; longer ones lose their middle. */
const MOST_OF_WORD = 240;
const MOST_OF_MESSAGE = 4000;

/** A message that may hold whatever a file holds, for the terminal: one line. */
export function messageText(message: string): string {
  const words = escapeLine(message).replace(/\S{200,}/g, (word) => shorten(word, MOST_OF_WORD));
  return shorten(words, MOST_OF_MESSAGE);
}

/** A part of a line. Where a line is too narrow, parts of the highest rank go first; those of rank 0 stay. */
export interface LinePart {
  text: string;
  rank: number;
}

/** The parts side by side, as many as `width` columns take. */
export function fitParts(parts: readonly LinePart[], width: number): string {
  let kept = parts;
  for (;;) {
    const line = kept.map(({ text }) => text).join("  ");
    const lowest = kept.reduce((most, { rank }) => Math.max(most, rank), 0);
    if (displayWidth(line) <= width || lowest === 0) return shorten(line, width);
    kept = kept.filter(({ rank }) => rank < lowest);
  }
}

/** Pieces of a word that is wider than a line, cut behind `|`, `,`, `/` and `=` where it can be. */
function piecesOf(word: string, width: number): string[] {
  if (displayWidth(word) <= width) return [word];
  const pieces: string[] = [];
  let line = "";
  for (const part of word.split(/(?<=[|,/=])/)) {
    if (displayWidth(line + part) <= width) {
      line += part;
      continue;
    }
    if (line !== "") pieces.push(line);
    let rest = graphemes(part);
    while (displayWidth(rest.join("")) > width) {
      const taken = fitting(rest, width);
      const count = Math.max(1, taken.length);
      pieces.push(rest.slice(0, count).join(""));
      rest = rest.slice(count);
    }
    line = rest.join("");
  }
  return [...pieces, line];
}

/** Breaks `text` at spaces into lines of at most `width` columns; all but the last end with `joint`. */
export function wrap(text: string, width: number, joint = ""): string[] {
  const lines: string[] = [];
  let line: string | null = null;
  for (const word of text.split(" ")) {
    const pieces = piecesOf(word, width);
    if (line !== null && displayWidth(`${line} ${pieces[0]}${joint}`) <= width) {
      line += ` ${pieces.shift()}`;
      if (pieces.length === 0) continue;
    }
    if (line !== null) lines.push(line);
    line = pieces.pop()!;
    lines.push(...pieces);
  }
  const all = [...lines, line ?? ""];
  return all.map((text, i) => (i < all.length - 1 ? text + joint : text));
}

/**
 * A sentence on a terminal of `columns` (undefined: any), broken between words, what follows the first line indented. A word
 * wider than a line (a path, to be copied) stays whole.
 */
export function folded(text: string, columns: number | undefined): string {
  if (columns === undefined || displayWidth(text) <= columns) return text;
  const lines: string[] = [];
  let line: string | null = null;
  for (const word of text.split(" ")) {
    const longer: string = line === null ? word : `${line} ${word}`;
    if (line === null || displayWidth(longer) <= columns) {
      line = longer;
      continue;
    }
    lines.push(line);
    line = `  ${word}`;
  }
  return [...lines, line ?? ""].join("\n");
}

/** Columns for text that is not redrawn: COLUMNS, else the terminal's, else 80; lines of over 100 are hard to read. */
export function pageWidth(columns: string | undefined, terminal: number | undefined): number {
  const asked = /^[1-9]\d{0,4}$/.test(columns ?? "") ? Number(columns) : terminal || 80;
  return Math.min(100, Math.max(30, asked));
}
