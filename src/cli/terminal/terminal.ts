// Standard error as commands use it: notes, errors, and a status line that is redrawn.

import { displayWidth, escapeText, fitParts, type LinePart, messageText, shorten, wrap } from "./text.ts";

/** Where the text goes. */
export interface Screen {
  write(text: string): void;
  isTerminal: boolean;
  /** Of a terminal, now: windows change. */
  columns(): number;
}

/** Without a terminal a drawn line becomes a plain one, no sooner after the last. */
const PLAIN_MILLISECONDS = 5000;
const ERASE = "\r\x1b[2K";

export class Terminal {
  readonly #screen: Screen;
  readonly #now: () => number;
  #quiet = false;
  /** Before errors: which of a run's ranks writes. */
  #prefix = "";
  #drawn = false;
  /** When the oldest line not yet shown was drawn; null: none is waiting. */
  #unseen: number | null = null;

  constructor(screen: Screen, now: () => number = () => performance.now()) {
    this.#screen = screen;
    this.#now = now;
  }

  setQuiet(quiet: boolean): void {
    this.#quiet ||= quiet;
  }

  /** A rank beside the first says nothing but its errors, with its number before them. */
  setRank(rank: number): void {
    if (rank === 0) return;
    this.#quiet = true;
    this.#prefix = `rank ${rank}: `;
  }

  get live(): boolean {
    return this.#screen.isTerminal && !this.#quiet;
  }

  note(text: string): void {
    if (this.#quiet) return;
    this.clear();
    this.#say(messageText(text));
  }

  draw(line: string | readonly LinePart[]): void {
    if (this.#quiet) return;
    if (!this.#screen.isTerminal) {
      this.#drawPlainly(line);
      return;
    }
    const width = this.#screen.columns() - 1;
    const text = typeof line === "string" ? shorten(line, width) : fitParts(line, width);
    if (text === "") {
      this.clear();
      return;
    }
    this.#screen.write(`${ERASE}${escapeText(text)}`);
    this.#drawn = true;
  }

  #drawPlainly(line: string | readonly LinePart[]): void {
    const text = typeof line === "string" ? line : fitParts(line, Number.POSITIVE_INFINITY);
    const now = this.#now();
    if (text === "") this.#unseen = null;
    else if (this.#unseen === null) this.#unseen = now;
    else if (now - this.#unseen >= PLAIN_MILLISECONDS) {
      this.#unseen = now;
      this.#say(messageText(text));
    }
  }

  /** Takes a drawn line away, so that the next text starts on a line of its own. */
  clear(): void {
    if (this.#drawn) this.#screen.write(ERASE);
    this.#drawn = false;
  }

  fail(message: string): void {
    this.clear();
    this.#say(`${this.#prefix}error: ${messageText(message.trim().replaceAll(/\s*\n\s*/g, " "))}`);
  }

  /** A line, on a terminal broken between words; what goes to a file or program stays one line. */
  #say(line: string): void {
    const { isTerminal, columns, write } = this.#screen;
    const isWide = isTerminal && displayWidth(line) > columns();
    write(`${isWide ? wrap(line, columns() - 2).join("\n  ") : line}\n`);
  }
}
