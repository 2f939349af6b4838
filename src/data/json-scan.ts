// Where a JSON text goes wrong, and where its rows begin. JSON.parse says neither, so this strict scan runs after it
// has failed or a row was found bad, never on the fast path.

export interface JsonScan {
  /** Offsets of the rows: elements of the outermost array, or of the arrays that are members of the outermost object. */
  rows: number[];
  /** Offset and reason of the first violation of RFC 8259, or null. */
  error: { at: number; reason: string } | null;
  /** The first key that an object has a second time, and where. */
  twice: { at: number; key: string } | null;
}

type Expect = "value" | "value or ]" | "key" | "key or }" | "colon" | "comma or end" | "end of text";

const SPACE = /[ \t\n\r]*/y;
const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y;
const WORD = /true|false|null/y;

export function scanJson(text: string): JsonScan {
  const rows: number[] = [];
  let twice: JsonScan["twice"] = null;
  const open: ("[" | "{")[] = [];
  /** Of every open object. */
  const keys: Set<string>[] = [];
  let expect: Expect = "value";
  let at = 0;
  const fail = (reason: string, where = at): JsonScan => ({ rows, error: { at: where, reason }, twice });
  const match = (pattern: RegExp): number => {
    pattern.lastIndex = at;
    return pattern.test(text) ? pattern.lastIndex : at;
  };

  for (;;) {
    at = match(SPACE);
    const character = text[at];
    if (character === undefined) {
      return expect === "end of text"
        ? { rows, error: null, twice }
        : fail(`the text ends where ${described(expect)} was expected`);
    }
    if (expect === "end of text") return fail(`${shown(character)} after the end of the value`);

    if (expect === "colon") {
      if (character !== ":") return fail(`expected ":" after a key, got ${shown(character)}`);
      at++;
      expect = "value";
    } else if (expect === "comma or end") {
      const inside = open.at(-1);
      if (character === ",") expect = inside === "[" ? "value" : "key";
      else if (character === (inside === "[" ? "]" : "}")) {
        if (open.pop() === "{") keys.pop();
        expect = open.length === 0 ? "end of text" : "comma or end";
      } else return fail(`expected "," or "${inside === "[" ? "]" : "}"}", got ${shown(character)}`);
      at++;
    } else if (
      (expect === "value or ]" && character === "]") ||
      (expect === "key or }" && character === "}")
    ) {
      if (open.pop() === "{") keys.pop();
      at++;
      expect = open.length === 0 ? "end of text" : "comma or end";
    } else if (expect === "key" || expect === "key or }") {
      if (character !== '"') return fail(`expected a key in double quotes, got ${shown(character)}`);
      const end = stringEnd(text, at);
      if (end.reason !== null) return fail(end.reason, end.at);
      const key = JSON.parse(text.slice(at, end.at)) as string;
      if (keys.at(-1)!.has(key)) twice ??= { at, key };
      else keys.at(-1)!.add(key);
      at = end.at;
      expect = "colon";
    } else {
      const isRow = open.at(-1) === "[" && (open.length === 1 || (open.length === 2 && open[0] === "{"));
      if (isRow) rows.push(at);
      if (character === "[" || character === "{") {
        open.push(character);
        if (character === "{") keys.push(new Set());
        at++;
        expect = character === "[" ? "value or ]" : "key or }";
        continue;
      }
      if (character === '"') {
        const end = stringEnd(text, at);
        if (end.reason !== null) return fail(end.reason, end.at);
        at = end.at;
      } else {
        const end = Math.max(match(NUMBER), match(WORD));
        if (end === at) return fail(`expected ${described(expect)}, got ${shown(character)}`);
        at = end;
      }
      expect = open.length === 0 ? "end of text" : "comma or end";
    }
  }
}

/** The line of an offset, from 1. */
export function lineOf(text: string, offset: number): number {
  let line = 1;
  for (let i = text.indexOf("\n"); i >= 0 && i < offset; i = text.indexOf("\n", i + 1)) line++;
  return line;
}

function stringEnd(text: string, begin: number): { at: number; reason: string | null } {
  for (let at = begin + 1; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === 0x22) return { at: at + 1, reason: null };
    if (code < 0x20) return { at, reason: `${shown(text[at]!)} inside a string has to be escaped` };
    if (code !== 0x5c) continue;
    const letter = text[++at] ?? "";
    if (letter === "u" && /^[0-9a-fA-F]{4}$/.test(text.slice(at + 1, at + 5))) at += 4;
    else if (letter === "u" || !'"\\/bfnrt'.includes(letter)) {
      return { at: at - 1, reason: "a backslash begins no escape of JSON's" };
    }
  }
  return { at: begin, reason: "a string has no end" };
}

function described(expect: Expect): string {
  return expect === "colon" ? '":"' : expect === "comma or end" ? '"," or the end of a list' : `a ${expect}`;
}

function shown(character: string): string {
  return JSON.stringify(character);
}
