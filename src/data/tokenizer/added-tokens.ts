// Tokens that a tokenizer.json adds beside its model's: `<s>`, `<|eot_id|>`. They are cut out of the text before the
// model sees it, the leftmost first and the longest of those, as Hugging Face's tokenizers does.

import { FormatError } from "../../errors.ts";
import { StringSet } from "./string-set.ts";
import { spaceAfter, spaceBefore, wordEndsAt, wordStartsAt } from "./unicode.ts";

const FLAGS = ["special", "normalized", "single_word", "lstrip", "rstrip"] as const;

export type AddedToken = { id: number; content: string } & Record<(typeof FLAGS)[number], boolean>;

/** A stretch of a text: an added token, or text between them (`id` null). */
export interface Section {
  text: string;
  begin: number; // UTF-16 units from the start of the text
  id: number | null;
}

/**
 * The added tokens of a tokenizer.json with the ids that Hugging Face's tokenizers gives them: the vocabulary's, else
 * the next free one. They are the file's, but for files that it did not write itself.
 */
export function parseAddedTokens(
  value: unknown,
  vocab: ReadonlyMap<string, number>,
  path: string,
): AddedToken[] {
  if (value !== undefined && value !== null && !Array.isArray(value)) {
    throw new FormatError(path, "added_tokens: expected a list");
  }
  const byContent = new Map<string, AddedToken>();
  let next = vocab.size;
  (value ?? []).forEach((one: unknown, i: number) => {
    const token = addedToken(one, `added_tokens.${i}`, path);
    if (token.content === "") return;
    const known = vocab.get(token.content) ?? byContent.get(token.content)?.id;
    token.id = known ?? next;
    byContent.set(token.content, token);
    if (known === undefined) next++;
  });
  return [...byContent.values()];
}

/** Checked by hand instead of with a schema: there may be hundreds of thousands. */
function addedToken(value: unknown, where: string, path: string): AddedToken {
  const wrong = (field: string, expected: string): FormatError =>
    new FormatError(path, `${where}${field}: expected ${expected}`);
  if (typeof value !== "object" || value === null) throw wrong("", "an object");
  const fields = value as Record<string, unknown>;
  const { id, content } = fields;
  if (!Number.isInteger(id) || (id as number) < 0) throw wrong(".id", "a whole number of at least 0");
  if (typeof content !== "string") throw wrong(".content", "a string");
  const token = { id: id as number, content } as AddedToken;
  for (const flag of FLAGS) {
    const set = fields[flag] ?? false;
    if (typeof set !== "boolean") throw wrong(`.${flag}`, "true or false");
    token[flag] = set;
  }
  return token;
}

/** Finds added tokens in a text. */
export class TokenMatcher {
  private readonly byContent: Map<string, AddedToken>;
  private readonly contents: StringSet;

  /** `contents[i]` is what token i looks like in the text (its normalized form, where that is matched). */
  constructor(tokens: readonly AddedToken[], contents: readonly string[]) {
    this.byContent = new Map(contents.map((content, i) => [content, tokens[i]!]));
    this.contents = new StringSet(contents);
  }

  /** Without `parseSpecial`, the text of a special token stays text, and no other token is found inside it. */
  split(text: string, parseSpecial: boolean): Section[] {
    if (text === "") return [];
    const sections: Section[] = [];
    let done = 0;
    let from = 0;
    for (let match = this.contents.find(text, 0); match !== null; match = this.contents.find(text, from)) {
      const token = this.byContent.get(match.found)!;
      let { begin } = match;
      let end = begin + match.found.length;
      from = end;
      if (token.special && !parseSpecial) continue;
      if (token.single_word && (wordEndsAt(text, begin) || wordStartsAt(text, end))) continue;
      if (token.lstrip) begin = spaceBefore(text, begin, done);
      if (token.rstrip) end = spaceAfter(text, end);
      // a token before may have taken white space that this one begins with
      begin = Math.max(begin, done);
      end = Math.max(begin, end);
      if (done < begin) sections.push({ text: text.slice(done, begin), begin: done, id: null });
      sections.push({ text: text.slice(begin, end), begin, id: token.id });
      done = end;
    }
    if (done < text.length) sections.push({ text: text.slice(done), begin: done, id: null });
    return sections;
  }

  /** True where one of the strings occurs. */
  occursIn(text: string): boolean {
    return this.contents.find(text, 0) !== null;
  }

  /** The text with `change` made to every occurrence. */
  replace(text: string, change: (content: string) => string): string {
    let out = "";
    let done = 0;
    for (let match = this.contents.find(text, 0); match !== null; match = this.contents.find(text, done)) {
      out += text.slice(done, match.begin) + change(match.found);
      done = match.begin + match.found.length;
    }
    return out + text.slice(done);
  }
}
