// Breaks a text at words for a terminal while it comes, a few letters at a time. A word is held until its end is known;
// Markdown's blocks of code are passed on as they are.

import { displayWidth, graphemes } from "./text.ts";

const TAB = 8;

/** No line begins with these, even where characters need no space between them, as in Chinese. */
const closes = /^[\p{Pe}\p{Pf}\p{Po}\p{Lm}]/u;
/** No line ends with these. */
const opens = /^[\p{Ps}\p{Pi}]/u;

const MARK = String.raw`(?:[-*+]|\d+[.)])`;
const listMark = new RegExp(`^${MARK}$`);
/** A line that begins or ends a block of code: the quotes and lists that it is in, its marks, and what follows them. */
const fenceLine = new RegExp(`^((?:\\s*(?:>|${MARK}\\s))*)\\s*(\`{3,}(?!.*\`)|~{3,})(.*)$`);
/** How many quotes a line is in. */
const quotesOf = (line: string) => line.split(">").length - 1;
const codeIndent = /^(?: {4}| {0,3}\t)/;

export class WordWrap {
  readonly #columns: () => number;
  /** The last character that came: the next text may go on with it, as accents do. */
  #rest = "";
  /** What is held: a word whose end has not come, and the spaces before it. */
  #spaces = "";
  #word = "";
  /** The last character of the word, of which the beginning may have been written. */
  #last = "";
  /** The word is wider than a line: its beginning has been written. */
  #isLong = false;
  /** The line as it came, without what is held, and where the cursor stands. */
  #line = "";
  #column = 0;
  /** The block of code that this line is in: the marks that began it, and in how many quotes it is. */
  #fence: { marks: string; quotes: number } | null = null;
  /** This line is code because it is indented; that takes a blank line or more such code above it. */
  #isIndentedCode = false;
  #mayIndentCode = true;

  /** `columns` gives the width of the terminal, which may change. */
  constructor(columns: () => number) {
    this.#columns = columns;
  }

  /** What to write now that `text` has come. */
  push(text: string): string {
    const characters = graphemes(this.#rest + text);
    this.#rest = characters.pop() ?? "";
    return characters.map((character) => this.#take(character)).join("");
  }

  /** What is left to write when nothing more comes. */
  end(): string {
    const last = this.#rest === "" ? "" : this.#take(this.#rest);
    this.#rest = "";
    return last + this.#release();
  }

  #take(character: string): string {
    if (character === "\n") return this.#endLine();
    const isSpace = character === " " || character === "\t";
    if (!isSpace && character !== ">") this.#endQuotedCode();
    const written = this.#mayBreakBefore(character, isSpace) ? this.#release() : "";
    if (this.#fence !== null || this.#isIndentedCode) {
      this.#line += character;
      return written + character;
    }
    if (isSpace) {
      this.#spaces += character;
      return written;
    }
    this.#word += character;
    this.#last = character;
    if (!this.#isLong && displayWidth(this.#word) <= this.#columns()) return written;
    const part = this.#write();
    this.#isLong = true;
    return written + part;
  }

  /** Ends a block of code in a quote where the line turns out not to be in that quote. */
  #endQuotedCode(): void {
    if (this.#fence === null || !/^[\s>]*$/.test(this.#line)) return;
    if (quotesOf(this.#line) >= this.#fence.quotes) return;
    this.#fence = null;
    this.#column = displayWidth(this.#line);
  }

  #mayBreakBefore(character: string, isSpace: boolean): boolean {
    if (this.#last === "") return false;
    if (isSpace) return true;
    if (closes.test(character) || opens.test(this.#last)) return false;
    return displayWidth(this.#last) > 1 || displayWidth(character) > 1;
  }

  /** Ends the word. */
  #release(): string {
    const written = this.#write();
    this.#last = "";
    this.#isLong = false;
    return written;
  }

  /** Writes what is held, on a new line where this one has no room for it. */
  #write(): string {
    const [spaces, word] = [this.#spaces, this.#word];
    this.#spaces = "";
    this.#word = "";
    if (this.#line === "")
      this.#isIndentedCode = this.#mayIndentCode && codeIndent.test(spaces) && !listMark.test(word);
    this.#line += spaces + word;
    const columns = this.#columns();
    let before = spaces;
    let end = this.#column;
    for (const space of spaces) end += space === "\t" ? TAB - (end % TAB) : 1;
    end += displayWidth(word);
    if (end > columns && this.#column > 0 && !this.#isLong) {
      before = word === "" ? "" : "\n";
      end = word === "" ? this.#column : displayWidth(word);
    }
    // What is wider than a line the terminal breaks.
    this.#column = end === 0 ? 0 : ((end - 1) % columns) + 1;
    return before + word;
  }

  #endLine(): string {
    const written = this.#release();
    this.#endQuotedCode();
    const [, before = "", marks = "", rest = ""] = fenceLine.exec(this.#line) ?? [];
    const quotes = quotesOf(before);
    if (this.#fence === null) {
      if (marks !== "" && !this.#isIndentedCode) this.#fence = { marks, quotes };
    } else if (marks.startsWith(this.#fence.marks) && quotes === this.#fence.quotes && rest.trim() === "")
      this.#fence = null;
    this.#mayIndentCode = this.#isIndentedCode || this.#line.trim() === "";
    this.#isIndentedCode = false;
    this.#line = "";
    this.#column = 0;
    return `${written}\n`;
  }
}
