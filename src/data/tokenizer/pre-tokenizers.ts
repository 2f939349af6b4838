// Pre-tokenizers: where a tokenizer cuts a text before it looks for tokens. No token crosses a cut.

import type { AlignedText, Pieces } from "./aligned-text.ts";
import { alignedBytes } from "./byte-level.ts";
import { literal, oniguruma } from "./oniguruma.ts";
import { flagOf, flattened, type Part, partOf, patternOf, textOf, unsupported } from "./part.ts";
import { type Behavior, splitAt } from "./split.ts";
import { PUNCTUATION_SINCE_8, PUNCTUATION_UNTIL_8, RUST_WORDS, WHITE_SPACE } from "./unicode.ts";

/** A text, changed or not, and its pieces. */
export interface PreTokenized {
  text: AlignedText;
  pieces: Pieces;
}

export interface PreTokenizer {
  /** True where the pieces still have to be written as bytes (byte-level.ts): the model does that, once for each word. */
  readonly asBytes: boolean;
  run(text: AlignedText): PreTokenized;
}

type Step = (text: AlignedText, pieces: Pieces) => PreTokenized;

const GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const BEHAVIORS = ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"];

/** The pre-tokenizer of a tokenizer.json. Throws an Error that names what is not supported. */
export function preTokenizerOf(value: unknown): PreTokenizer {
  const parts = flattened(partOf(value, "pre-tokenizer"), "pretokenizers", "pre-tokenizer");
  const asBytes = parts.at(-1)?.type === "ByteLevel";
  const steps = parts.flatMap((part, i) => stepsOf(part, asBytes && i === parts.length - 1));
  return {
    asBytes,
    run: (text) =>
      steps.reduce<PreTokenized>((done, step) => step(done.text, done.pieces), {
        text,
        pieces: text.text === "" ? [] : [0, text.text.length],
      }),
  };
}

function stepsOf(part: Part, last: boolean): Step[] {
  switch (part.type) {
    case "ByteLevel":
      return byteLevel(part, last);
    case "Split":
      return [cut(patternOf(part), behaviorOf(part), flagOf(part, "invert", false))];
    case "Digits":
      return [cut(/\p{N}/gu, flagOf(part, "individual_digits", false) ? "Isolated" : "Contiguous")];
    case "Metaspace":
      return metaspace(part);
    case "Whitespace":
      return [cut(RUST_WORDS, "Removed", true)];
    case "WhitespaceSplit":
      return [cut(new RegExp(`[${WHITE_SPACE}]`, "gv"), "Removed")];
    case "Punctuation":
      return [cut(punctuation(), part.behavior === undefined ? "Isolated" : behaviorOf(part))];
    default:
      throw unsupported("pre-tokenizer", part);
  }
}

/** Cuts every piece at the matches of an expression. */
function cut(expression: RegExp, behavior: Behavior, invert = false): Step {
  return (text, pieces) => {
    const isWhole = pieces.length === 2 && pieces[0] === 0 && pieces[1] === text.text.length;
    if (isWhole) return { text, pieces: splitAt(expression, text.text, behavior, invert) };
    const cuts: Pieces = [];
    for (let k = 0; k < pieces.length; k += 2) {
      const begin = pieces[k]!;
      const parts = splitAt(expression, text.text.slice(begin, pieces[k + 1]!), behavior, invert);
      for (const place of parts) cuts.push(begin + place);
    }
    return { text, pieces: cuts };
  };
}

function byteLevel(part: Part, last: boolean): Step[] {
  const steps: Step[] = [];
  if (flagOf(part, "add_prefix_space", true)) {
    steps.push((text, pieces) =>
      text.rebuild(pieces, (piece) => (piece.text.startsWith(" ") ? piece : piece.prepend(" "))),
    );
  }
  if (flagOf(part, "use_regex", true)) steps.push(cut(oniguruma(GPT2), "Isolated"));
  if (!last) steps.push((text, pieces) => text.rebuild(pieces, alignedBytes));
  return steps;
}

function metaspace(part: Part): Step[] {
  const mark = textOf(part, "replacement");
  const addsSpace = flagOf(part, "add_prefix_space", true);
  const scheme = part.prepend_scheme ?? (addsSpace ? "always" : "never");
  if (scheme !== "always" && scheme !== "first" && scheme !== "never") {
    throw new Error(`Metaspace: prepend_scheme ${JSON.stringify(scheme).slice(0, 100)} is not supported`);
  }
  if (Array.from(mark).length !== 1) throw new Error("Metaspace: replacement is not one character");
  const space = literal(" ");
  const mend = (piece: AlignedText): AlignedText => {
    const marked =
      mark.length === 1
        ? piece.withText(piece.text.replaceAll(" ", mark))
        : piece.replace(spaces(piece.text), mark);
    const prepends = scheme === "always" || (scheme === "first" && marked.start(0) === 0);
    return prepends && !marked.text.startsWith(mark) ? marked.prepend(mark) : marked;
  };
  const spaces = (text: string): Pieces =>
    Array.from(text.matchAll(space), ({ index }) => [index, index + 1]).flat();
  const steps: Step[] = [(text, pieces) => text.rebuild(pieces, mend)];
  if (flagOf(part, "split", true)) steps.push(cut(literal(mark), "MergedWithNext"));
  return steps;
}

function behaviorOf(part: Part): Behavior {
  const behavior = part.behavior;
  if (typeof behavior !== "string" || !BEHAVIORS.includes(behavior)) {
    const got = JSON.stringify(behavior ?? null).slice(0, 100);
    throw new Error(`${String(part.type)}: behavior ${got} is not supported`);
  }
  return behavior as Behavior;
}

function punctuation(): RegExp {
  const ascii = "!-\\/:-@\\[-`\\{-~";
  return new RegExp(`[[[\\p{P}]--[${PUNCTUATION_SINCE_8}]]${PUNCTUATION_UNTIL_8}${ascii}]`, "gv");
}
