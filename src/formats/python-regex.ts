// Python's regular expressions in JavaScript, as far as JavaScript has the same: named groups, flags in front, anchors.

/** Escapes by a letter that mean the same in both. */
const SAME = "dDwWsSbBnrtfvxu0123456789";

/**
 * A RegExp that matches what Python's re.fullmatch does, for texts of one line in ASCII. Throws SyntaxError for an
 * expression that Python refuses or JavaScript has nothing like.
 */
export function pythonFullMatch(expression: string): RegExp {
  const { source, flags } = translate(expression);
  return new RegExp(`^(?:${source})$`, flags);
}

/** The same for re.match, which need not reach the end. */
export function pythonMatch(expression: string): RegExp {
  const { source, flags } = translate(expression);
  return new RegExp(`^(?:${source})`, flags);
}

function translate(expression: string): { source: string; flags: string } {
  const inFront = /^\(\?([aiLmsux]+)\)/.exec(expression);
  const flags = inFront?.[1] ?? "";
  if (flags.includes("L")) throw new SyntaxError("the flag L is for bytes");
  const isVerbose = flags.includes("x");
  let at = inFront?.[0].length ?? 0;
  let source = "";
  const refuse = (what: string): never => {
    throw new SyntaxError(`${what} at character ${at}`);
  };
  const take = (pattern: RegExp): string | null => {
    const sticky = new RegExp(pattern, "y");
    sticky.lastIndex = at;
    const found = sticky.exec(expression)?.[0] ?? null;
    if (found !== null) at += found.length;
    return found;
  };

  const escaped = (): string => {
    const letter = expression[at + 1];
    if (letter === undefined) return refuse("a lone backslash");
    if (letter === "U") {
      const code = take(/\\U[0-9a-fA-F]{8}/);
      return code === null ? refuse("an incomplete \\U") : hex(Number.parseInt(code.slice(2), 16));
    }
    at += 2;
    if (letter === "A") return "(?<![^])";
    if (letter === "Z") return "(?![^])";
    if (letter === "a") return "\\x07";
    if (/[a-zA-Z]/.test(letter) && !SAME.includes(letter)) refuse(`the escape \\${letter}`);
    return /[\w.*+?^${}()|[\]\\/-]/.test(letter) ? `\\${letter}` : letter;
  };

  const characters = (): string => {
    at++;
    let text = "[";
    if (take(/\^/) !== null) text += "^";
    // A bracket that comes first is one of the characters.
    if (take(/\]/) !== null) text += "\\]";
    for (;;) {
      const letter = expression[at];
      if (letter === undefined) return refuse("an open [");
      if (letter === "\\") {
        text += escaped();
        continue;
      }
      at++;
      text += letter === "[" ? "\\[" : letter;
      if (letter === "]") return text;
    }
  };

  const group = (): string => {
    if (take(/\(\?#[^)]*\)/) !== null) return "";
    const named = take(/\(\?P<[A-Za-z_]\w*>/);
    if (named !== null) return named.replace("?P", "?");
    const again = take(/\(\?P=[A-Za-z_]\w*\)/);
    if (again !== null) return `\\k<${again.slice(4, -1)}>`;
    const kind = take(/\(\?(?:[:=!]|<[=!]|[ims]*(?:-[ims]+)?:)/) ?? take(/\((?!\?)/);
    return kind ?? refuse("a group that JavaScript does not have");
  };

  while (at < expression.length) {
    const letter = expression[at]!;
    const quantifier = take(/(?:[*+?]|\{\d+(?:,\d*)?\}|\{,\d+\})\??/);
    if (quantifier !== null) {
      if (expression[at] === "+") refuse("a possessive quantifier");
      source += quantifier.replace("{,", "{0,");
    } else if (letter === "\\") source += escaped();
    else if (letter === "[") source += characters();
    else if (letter === "(") source += group();
    else if (isVerbose && take(/\s+|#.*/) !== null) continue;
    else {
      source += letter === "{" || letter === "}" ? `\\${letter}` : letter;
      at++;
    }
  }
  return { source, flags: ["i", "m", "s"].filter((flag) => flags.includes(flag)).join("") };
}

const hex = (code: number) => (code > 0xffff ? refuseWide() : `\\u${code.toString(16).padStart(4, "0")}`);

function refuseWide(): never {
  throw new SyntaxError("a character beyond U+FFFF");
}
