// Regular expressions of a tokenizer.json, which Oniguruma reads (in Ruby's syntax), as JavaScript's. Classes mean what
// they mean there: Unicode 16, white space with U+0085 and without U+FEFF. What has no counterpart here is refused.

import { NEWER_THAN_16, WHITE_SPACE, without } from "./unicode.ts";

const WORD_IN_CLASS = without("\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}", NEWER_THAN_16);
/** Outside classes, Oniguruma's \w has six Latin-1 characters more: ² ³ ¹ ¼ ½ ¾. */
const WORD_INSIDE = `[${WORD_IN_CLASS}]\\xb2\\xb3\\xb9\\xbc-\\xbe`;
const CLASSES: Record<string, string> = {
  d: `[${without("\\p{Nd}", NEWER_THAN_16)}]`,
  h: "[0-9a-fA-F]",
  s: `[${WHITE_SPACE}]`,
  w: `[${WORD_INSIDE}]`,
};
const CONTROLS: Record<string, string> = {
  t: "\t",
  n: "\n",
  r: "\r",
  f: "\f",
  v: "\v",
  a: "\x07",
  e: "\x1b",
};
const ANCHORS: Record<string, string> = {
  A: "^",
  z: "$",
  Z: "(?=\\n?$)",
  b: `(?:(?<=[${WORD_INSIDE}])(?![${WORD_INSIDE}])|(?<![${WORD_INSIDE}])(?=[${WORD_INSIDE}]))`,
  B: `(?:(?<=[${WORD_INSIDE}])(?=[${WORD_INSIDE}])|(?<![${WORD_INSIDE}])(?![${WORD_INSIDE}]))`,
  R: "(?:\\r\\n|[\\n-\\r\\x85\\u2028\\u2029])",
};

/** A global expression for an Oniguruma pattern. Throws an Error that names what in it is not supported. */
export function oniguruma(pattern: string): RegExp {
  const source = new Translator(pattern).whole();
  try {
    return new RegExp(source, "gv");
  } catch (error) {
    // the error is about the translated expression, which the user has not seen
    throw new Error(`the regular expression ${quoted(pattern)} is not valid`, { cause: error });
  }
}

/** A global expression for a text as it is. */
export function literal(text: string): RegExp {
  return new RegExp(Array.from(text, escaped).join(""), "gv");
}

function escaped(character: string): string {
  return /^[A-Za-z0-9\u00a0-\u{10ffff}]$/u.test(character)
    ? character
    : `\\u{${character.codePointAt(0)!.toString(16)}}`;
}

class Translator {
  private readonly pattern: string[]; // characters
  private at = 0;
  private groups = 0; // that stand for atomic ones
  private dotAll = false;

  constructor(pattern: string) {
    this.pattern = Array.from(pattern);
  }

  whole(): string {
    const source = this.alternatives();
    if (this.at < this.pattern.length) throw this.unsupported("an unmatched )");
    return source;
  }

  private alternatives(): string {
    const dotAll = this.dotAll;
    let source = "";
    while (this.at < this.pattern.length && this.peek() !== ")") {
      if (this.take("|")) source += "|";
      else source += this.repeated();
    }
    this.dotAll = dotAll;
    return source;
  }

  private repeated(): string {
    let source = this.atom();
    // a look-around or an anchor cannot be repeated as it is, nor what is repeated already
    let whole = !/^(?:\(\?<?[=!]|[$^]?$)/.test(source);
    for (;;) {
      const count = this.quantifier();
      if (count === null) return source;
      const repeated = `${whole ? source : `(?:${source})`}${count.text}`;
      source = count.possessive ? this.atomic(repeated) : repeated;
      whole = false;
    }
  }

  private quantifier(): { text: string; possessive: boolean } | null {
    const sign = this.peek();
    if (sign === "*" || sign === "+" || sign === "?") {
      this.at++;
      if (this.take("+")) return { text: sign, possessive: true };
      return { text: this.take("?") ? `${sign}?` : sign, possessive: false };
    }
    if (sign !== "{") return null;
    const rest = this.pattern.slice(this.at, this.at + 24).join("");
    const match = /^\{(?:(\d+)(,(\d*))?|,(\d+))\}/.exec(rest);
    if (match === null) return null;
    this.at += match[0].length;
    const [, least, comma, most, atMost] = match;
    const text =
      atMost !== undefined ? `{0,${atMost}}` : `{${least}${comma === undefined ? "" : `,${most}`}}`;
    // in Ruby, {n}? is an optional {n}; only a range can be lazy
    const lazy = (comma !== undefined || atMost !== undefined) && this.take("?");
    return { text: lazy ? `${text}?` : text, possessive: false };
  }

  private atom(): string {
    const character = this.next();
    if (character === "(") return this.group();
    if (character === "[") return this.charClass();
    if (character === "\\") return this.escape(false);
    if (character === ".") return this.dotAll ? "[^]" : "[^\\n]";
    if (character === "^") return "(?:^|(?<=\\n)(?!$))";
    if (character === "$") return "(?=\\n|$)";
    if ("*+?".includes(character)) throw this.unsupported(`${character} with nothing to repeat`);
    return escaped(character);
  }

  private group(): string {
    if (!this.take("?")) return this.closed("(?:");
    for (const kind of [":", "=", "!", "<=", "<!"]) {
      if (this.takeAll(kind)) return this.closed(`(?${kind}`);
    }
    if (this.take(">")) return this.atomic(this.closed("(?:"));
    if (this.take("#")) {
      while (this.next() !== ")");
      return "";
    }
    if (this.take("<") || this.take("'")) {
      while (!">'".includes(this.next()));
      return this.closed("(?:");
    }
    return this.options();
  }

  /** `(?i:…)`, or `(?i)` for the rest of the group around it; m is JavaScript's s. */
  private options(): string {
    let on = "";
    let off = "";
    let minus = false;
    const dotAll = this.dotAll;
    for (;;) {
      const letter = this.next();
      if (letter === "-") minus = true;
      else if (letter === "i" && minus) off = "i";
      else if (letter === "i") on = "i";
      else if (letter === "m") this.dotAll = !minus;
      else if ((letter === ":" || letter === ")") && letter !== undefined) {
        const flags = `(?${on}${off === "" ? "" : `-${off}`}:`;
        if (letter === ")") return `${flags}${this.alternatives()})`;
        const source = this.closed(flags);
        this.dotAll = dotAll;
        return source;
      } else throw this.unsupported(`(?${letter}`);
    }
  }

  private closed(open: string): string {
    const inside = this.alternatives();
    if (!this.take(")")) throw this.unsupported("a group without end");
    return `${open}${inside})`;
  }

  /** Without turning back into it: JavaScript has that only in a look ahead. */
  private atomic(source: string): string {
    const name = `a${this.groups++}`;
    return `(?:(?=(?<${name}>${source}))\\k<${name}>)`;
  }

  /** What follows a backslash; in a class, of which it is a part, or alone. */
  private escape(inClass: boolean): string {
    const letter = this.next();
    const lower = letter.toLowerCase();
    const set = lower === "w" && inClass ? `[${WORD_IN_CLASS}]` : CLASSES[lower];
    if (set !== undefined) return letter === lower ? set : `[^${set}]`;
    if (lower === "p") return this.property(letter === "P");
    if (CONTROLS[letter] !== undefined) return escaped(CONTROLS[letter]);
    if (letter === "x" || letter === "u") return this.codePoint(letter);
    if (letter === "b" && inClass) return "\\x08";
    if (ANCHORS[letter] !== undefined && !inClass) return ANCHORS[letter];
    if (letter === "0" && !/^[0-7]$/.test(this.peek() ?? "")) return "\\0";
    if (/^[A-Za-z0-9]$/.test(letter)) throw this.unsupported(`\\${letter}`);
    return escaped(letter);
  }

  private property(negated: boolean): string {
    if (!this.take("{")) throw this.unsupported("\\p without braces");
    let not = negated;
    if (this.take("^")) not = !not;
    let name = "";
    for (let letter = this.next(); letter !== "}"; letter = this.next()) name += letter;
    const inside = this.propertyInside(name);
    return not ? `[^[${inside}]]` : `[${inside}]`;
  }

  private propertyInside(name: string): string {
    const plain = name.replace(/[\s_-]/g, "").toLowerCase();
    const category = GENERAL_CATEGORIES.get(plain);
    if (category !== undefined) {
      if (category === "C" || category === "Cn") return `\\p{${category}}${NEWER_THAN_16}`;
      // the one letter whose category has changed since
      if (category === "Ll") return `${without("\\p{Ll}\\u0295", NEWER_THAN_16)}`;
      if (category === "Lo") return `${without("\\p{Lo}", `${NEWER_THAN_16}\\u0295`)}`;
      return without(`\\p{${category}}`, NEWER_THAN_16);
    }
    for (const known of [`Script=${name}`, name]) {
      const title = known.replace(/(^|[=_])([a-z])/g, (_, before, letter) => before + letter.toUpperCase());
      for (const spelled of [known, title]) {
        try {
          new RegExp(`\\p{${spelled}}`, "v");
          return without(`\\p{${spelled}}`, NEWER_THAN_16);
        } catch {
          // not a name that JavaScript has
        }
      }
    }
    throw this.unsupported(`\\p{${name}}`);
  }

  private codePoint(letter: string): string {
    const rest = this.pattern.slice(this.at, this.at + 12).join("");
    const match = /^\{([0-9a-fA-F]{1,8})\}/.exec(rest);
    const digits = (match ?? (letter === "u" ? /^([0-9a-fA-F]{4})/ : /^([0-7][0-9a-fA-F]?)/).exec(rest))?.[1];
    const code = Number.parseInt(digits ?? "", 16);
    if (!(code <= 0x10ffff)) throw this.unsupported(`\\${letter}${rest}`);
    this.at += match === null ? digits!.length : match[0].length;
    return `\\u{${code.toString(16)}}`;
  }

  /** A class, with ranges, classes inside it and `&&`. */
  private charClass(): string {
    const not = this.take("^");
    const sets: string[] = [];
    let set = "";
    let first = true;
    for (;;) {
      if (this.at >= this.pattern.length) throw this.unsupported("a class without end");
      if (this.peek() === "]" && !first) break;
      first = false;
      if (this.takeAll("&&")) {
        sets.push(`[${set}]`);
        set = "";
        continue;
      }
      const begin = this.classItem();
      const [dash, after] = [this.peek(), this.pattern[this.at + 1]];
      if (begin.startsWith("[") || dash !== "-" || after === undefined || after === "]") {
        set += begin;
        continue;
      }
      this.at++;
      const end = this.classItem();
      set += end.startsWith("[") ? `${begin}\\-${end}` : `${begin}-${end}`;
    }
    this.at++;
    sets.push(`[${set}]`);
    const inside = sets.length === 1 ? set : sets.join("&&");
    return not ? `[^${sets.length === 1 ? inside : `[${inside}]`}]` : `[${inside}]`;
  }

  private classItem(): string {
    const character = this.next();
    if (character === "[") {
      if (this.peek() === ":") throw this.unsupported("a POSIX class");
      return this.charClass();
    }
    return character === "\\" ? this.escape(true) : escaped(character);
  }

  private peek(): string | undefined {
    return this.pattern[this.at];
  }

  private next(): string {
    const character = this.pattern[this.at++];
    if (character === undefined) throw this.unsupported("its end");
    return character;
  }

  private take(character: string): boolean {
    if (this.pattern[this.at] !== character) return false;
    this.at++;
    return true;
  }

  private takeAll(text: string): boolean {
    if (!Array.from(text).every((character, i) => this.pattern[this.at + i] === character)) return false;
    this.at += text.length;
    return true;
  }

  private unsupported(what: string): Error {
    return new Error(
      `the regular expression ${quoted(this.pattern.join(""))} has ${what}, which is not supported`,
    );
  }
}

function quoted(pattern: string): string {
  return JSON.stringify(pattern.length > 200 ? `${pattern.slice(0, 200)}…` : pattern);
}

const GENERAL_CATEGORIES = new Map<string, string>(
  [
    "C Cc Cf Cn Co Cs L LC Ll Lm Lo Lt Lu M Mc Me Mn N Nd Nl No P Pc Pd Pe Pf Pi Po Ps S Sc Sk Sm So Z Zl Zp Zs".split(
      " ",
    ),
    [
      ["Letter", "L"],
      ["Number", "N"],
      ["Mark", "M"],
      ["Punctuation", "P"],
      ["Symbol", "S"],
      ["Separator", "Z"],
      ["Other", "C"],
    ],
  ].flatMap((list) =>
    list.map((one) =>
      typeof one === "string" ? [one.toLowerCase(), one] : [one[0]!.toLowerCase(), one[1]!],
    ),
  ) as [string, string][],
);
