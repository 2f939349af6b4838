// Tokens that a tokenizer.json adds beside its model's: `<s>`, `<|eot_id|>`. They are cut out of the text before the
// model sees it, the leftmost first and the longest of those, as Hugging Face's tokenizers does.

import * as v from "valibot";
import { FormatError } from "../errors.ts";

const AddedTokenSchema = v.object({
  id: v.pipe(v.number(), v.integer(), v.minValue(0)),
  content: v.pipe(v.string(), v.minLength(1)),
  special: v.optional(v.boolean(), false),
  normalized: v.optional(v.boolean(), false),
  single_word: v.optional(v.boolean(), false),
  lstrip: v.optional(v.boolean(), false),
  rstrip: v.optional(v.boolean(), false),
});

export type AddedToken = v.InferOutput<typeof AddedTokenSchema>;

/** A stretch of a text: an added token, or text between them (`id` null). */
export interface Section {
  text: string;
  begin: number; // UTF-16 units from the start of the text
  id: number | null;
}

export function parseAddedTokens(value: unknown, path: string): AddedToken[] {
  const parsed = v.safeParse(v.nullish(v.array(AddedTokenSchema)), value);
  if (!parsed.success) {
    const issue = parsed.issues[0];
    throw new FormatError(path, `added_tokens.${v.getDotPath(issue) ?? ""}: ${issue.message}`);
  }
  return parsed.output ?? [];
}

/** Finds a fixed set of strings in a text. */
export class TokenMatcher {
  private readonly byContent: Map<string, AddedToken>;
  private readonly pattern: RegExp | null;

  /** `contents[i]` is what token i looks like in the text (its normalised form, where that is matched). */
  constructor(tokens: readonly AddedToken[], contents: readonly string[]) {
    this.byContent = new Map(contents.map((content, i) => [content, tokens[i]!]));
    const longestFirst = [...this.byContent.keys()].sort((a, b) => b.length - a.length);
    const alternatives = longestFirst.map((content) => content.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"));
    this.pattern = alternatives.length === 0 ? null : new RegExp(alternatives.join("|"), "g");
  }

  split(text: string): Section[] {
    if (this.pattern === null) return text === "" ? [] : [{ text, begin: 0, id: null }];
    const sections: Section[] = [];
    let done = 0;
    const upTo = (end: number): void => {
      if (end > done) sections.push({ text: text.slice(done, end), begin: done, id: null });
    };
    for (const match of text.matchAll(this.pattern)) {
      const token = this.byContent.get(match[0])!;
      let begin = match.index;
      let end = begin + match[0].length;
      if (begin < done) continue;
      if (token.single_word && (/\w$/.test(text.slice(0, begin)) || /^\w/.test(text.slice(end)))) continue;
      if (token.lstrip) begin = Math.max(done, text.slice(0, begin).trimEnd().length);
      if (token.rstrip) end = text.length - text.slice(end).trimStart().length;
      upTo(begin);
      sections.push({ text: text.slice(begin, end), begin, id: token.id });
      done = end;
    }
    upTo(text.length);
    return sections;
  }

  /** True where one of the strings occurs. */
  occursIn(text: string): boolean {
    return this.pattern !== null && text.search(this.pattern) >= 0;
  }

  /** The text with `change` made to every occurrence. */
  replace(text: string, change: (content: string) => string): string {
    return this.pattern === null ? text : text.replace(this.pattern, change);
  }
}
