// Texts as words and n-grams: what every measure counts.

/** White space as Python's str.split() has it, so that figures agree with those of Python programs. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: Python separates words at U+001C to U+001F too
const SPACE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/;

/** The words of a text: what white space separates. */
export function wordsOf(text: string): string[] {
  return text.split(SPACE).filter((word) => word !== "");
}

/** A text without white space at its end. */
export function trimmedEnd(text: string): string {
  return text.replace(new RegExp(`${SPACE.source}$`), "");
}

/** How often each n-gram occurs. No word holds the line feed that joins them. */
export function countNgrams(words: readonly string[], n: number): Map<string, number> {
  const counts = new Map<string, number>();
  for (let i = 0; i + n <= words.length; i++) {
    const ngram = words.slice(i, i + n).join("\n");
    counts.set(ngram, (counts.get(ngram) ?? 0) + 1);
  }
  return counts;
}

/** The mean of some numbers, or null of none. */
export function mean(values: readonly number[]): number | null {
  return values.length === 0 ? null : values.reduce((sum, value) => sum + value, 0) / values.length;
}
