// A strict JSON scanner (RFC 8259) for files from strangers. JSON.parse keeps the last of two equal keys and
// rounds numbers past 2^53 without a word; this one reports both. The caller drives it by the schema it
// expects, so that a wrong value is refused where it stands, and depth and memory are bounded by the schema.

/** What stands next in the text. */
export type JsonKind = "object" | "array" | "string" | "number" | "boolean" | "null";

/** A JSON value with objects as maps: keys such as `__proto__` are keys like any other. */
export type JsonValue = null | boolean | number | string | JsonValue[] | Map<string, JsonValue>;

/** Thrown by the scanner; callers turn it into a FormatError with the file's path. */
export class JsonError extends Error {}

// Python's json module and serde_json both stop in this region; no file we read nests deeper than 5.
const MAX_DEPTH = 64;
// Of what nobody reads; serde_json stops here, counting the objects around it.
const MAX_SKIPPED_DEPTH = 124;
const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y;
// The characters that can follow in something meant as a number, to quote it whole in the message.
const NUMBER_LIKE = /[-+.0-9a-zA-Z]+/y;
const WHITESPACE = /[ \t\n\r]*/y;
const PLAIN = /[^"\\]*/y;
const HEX4 = /^[0-9a-fA-F]{4}$/;
const ESCAPES = new Map([
  ['"', '"'],
  ["\\", "\\"],
  ["/", "/"],
  ["b", "\b"],
  ["f", "\f"],
  ["n", "\n"],
  ["r", "\r"],
  ["t", "\t"],
]);

/** A short quoted form of `text` for messages. */
export function quote(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 77)}...` : text);
}

export class JsonScanner {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  /** The error to throw for something wrong at the present position. */
  error(what: string): JsonError {
    return new JsonError(`not valid JSON: ${what} at character ${this.#at}`);
  }

  /** The kind of the next value, judged by its first character. */
  peek(): JsonKind {
    this.#skipWhitespace();
    const first = this.#text[this.#at];
    if (first === "{") return "object";
    if (first === "[") return "array";
    if (first === '"') return "string";
    if (first === "t" || first === "f") return "boolean";
    if (first === "n") return "null";
    if (first !== undefined && (first === "-" || (first >= "0" && first <= "9"))) return "number";
    throw this.error(`expected a value, found ${this.#found()}`);
  }

  /** Walks an object's keys; `onKey` must consume the value. Each key may come once. */
  object(onKey: (key: string) => void): void {
    const seen = new Set<string>();
    this.#sequence("{", "}", () => {
      const key = this.string();
      if (seen.has(key)) throw new JsonError(`duplicate key ${quote(key)}`);
      seen.add(key);
      this.#expect(":");
      onKey(key);
    });
  }

  /** Walks an array's elements; `onElement` must consume the value. */
  array(onElement: (index: number) => void): void {
    let index = 0;
    this.#sequence("[", "]", () => onElement(index++));
  }

  string(): string {
    this.#expect('"');
    const pieces: string[] = [];
    for (;;) {
      const piece = this.#match(PLAIN);
      for (let i = 0; i < piece.length; i++) {
        if (piece.charCodeAt(i) < 0x20)
          throw this.error("an unescaped control character in a string that ends");
      }
      pieces.push(piece);
      const stop = this.#text[this.#at];
      if (stop === undefined) throw this.error("a string without its closing quote");
      this.#at++;
      if (stop === '"') break;
      pieces.push(this.#escape());
    }
    const text = pieces.length === 1 ? pieces[0]! : pieces.join("");
    if (!text.isWellFormed()) throw this.error("a lone surrogate in a string that ends");
    return text;
  }

  /** The next number as it is written: only the caller knows which numbers it can take. */
  number(): string {
    this.#skipWhitespace();
    const start = this.#at;
    const number = this.#match(NUMBER);
    this.#at = start;
    const written = this.#match(NUMBER_LIKE);
    if (number.length === 0 || number !== written) {
      this.#at = start;
      throw this.error(`${quote(written)} is not a number,`);
    }
    return written;
  }

  /** Any value. Numbers become doubles; an integer that a double cannot hold is refused. */
  value(depth = 0): JsonValue {
    if (depth > MAX_DEPTH) throw this.error(`nested more than ${MAX_DEPTH} deep`);
    switch (this.peek()) {
      case "object": {
        const entries = new Map<string, JsonValue>();
        this.object((key) => entries.set(key, this.value(depth + 1)));
        return entries;
      }
      case "array": {
        const elements: JsonValue[] = [];
        this.array(() => elements.push(this.value(depth + 1)));
        return elements;
      }
      case "string":
        return this.string();
      case "number": {
        const written = this.number();
        const value = Number(written);
        if (!Number.isFinite(value) || (/^-?[0-9]+$/.test(written) && !Number.isSafeInteger(value))) {
          throw new JsonError(`the number ${written.slice(0, 40)} is too large`);
        }
        return value;
      }
      case "boolean":
        return this.#text[this.#at] === "t" ? this.#word("true", true) : this.#word("false", false);
      case "null":
        return this.#word("null", null);
    }
  }

  /** Walks over any value, whatever its numbers; each key may come once. */
  skip(depth = 0): void {
    if (depth > MAX_SKIPPED_DEPTH) throw this.error(`nested more than ${MAX_SKIPPED_DEPTH} deep`);
    switch (this.peek()) {
      case "object":
        this.object(() => this.skip(depth + 1));
        break;
      case "array":
        this.array(() => this.skip(depth + 1));
        break;
      case "number":
        this.number();
        break;
      default:
        this.value();
    }
  }

  /** Nothing but white space may follow. */
  end(): void {
    this.#skipWhitespace();
    if (this.#at < this.#text.length) throw this.error(`expected the end, found ${this.#found()}`);
  }

  #sequence(open: string, close: string, onItem: () => void): void {
    this.#expect(open);
    this.#skipWhitespace();
    if (this.#text[this.#at] === close) {
      this.#at++;
      return;
    }
    for (;;) {
      onItem();
      this.#skipWhitespace();
      const next = this.#text[this.#at];
      if (next !== "," && next !== close)
        throw this.error(`expected "," or "${close}", found ${this.#found()}`);
      this.#at++;
      if (next === close) return;
    }
  }

  #escape(): string {
    const letter = this.#text[this.#at++];
    if (letter === "u") {
      const digits = this.#text.slice(this.#at, this.#at + 4);
      if (!HEX4.test(digits)) throw this.error(`the escape ${quote(`\\u${digits}`)}`);
      this.#at += 4;
      return String.fromCharCode(Number.parseInt(digits, 16));
    }
    const character = letter === undefined ? undefined : ESCAPES.get(letter);
    if (character === undefined) throw this.error(`the escape ${quote(`\\${letter ?? ""}`)}`);
    return character;
  }

  #word<T>(word: string, value: T): T {
    if (!this.#text.startsWith(word, this.#at)) throw this.error(`expected a value, found ${this.#found()}`);
    this.#at += word.length;
    return value;
  }

  #expect(character: string): void {
    this.#skipWhitespace();
    if (this.#text[this.#at] !== character) {
      throw this.error(`expected ${JSON.stringify(character)}, found ${this.#found()}`);
    }
    this.#at++;
  }

  #skipWhitespace(): void {
    const code = this.#text.charCodeAt(this.#at);
    if (code === 0x20 || code === 0x0a || code === 0x0d || code === 0x09) this.#match(WHITESPACE);
  }

  #match(pattern: RegExp): string {
    pattern.lastIndex = this.#at;
    const text = pattern.exec(this.#text)?.[0] ?? "";
    this.#at += text.length;
    return text;
  }

  #found(): string {
    const code = this.#text.codePointAt(this.#at);
    return code === undefined ? "the end" : quote(String.fromCodePoint(code));
  }
}

/** Reads a whole JSON text. Throws JsonError for malformed text, duplicate keys and numbers past 2^53. */
export function parseJson(text: string): JsonValue {
  const scanner = new JsonScanner(text);
  const value = scanner.value();
  scanner.end();
  return value;
}
