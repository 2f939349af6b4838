// ROUGE-L (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3.1) as Google's rouge-score
// computes it: lower case, words of a-z and 0-9, no stemming, F1 of the longest common subsequence.

/**
 * ROUGE-L of a text against its references, the best of them: with LCS the longest common subsequence of words,
 * P = LCS / words of the text, R = LCS / words of the reference, F = 2PR / (P + R). From 0 to 1.
 */
export function rougeL(text: string, references: readonly string[]): number {
  const words = rougeWords(text);
  return references.reduce((best, reference) => Math.max(best, lcsF1(words, rougeWords(reference))), 0);
}

function rougeWords(text: string): string[] {
  return text.toLowerCase().match(/[a-z0-9]+/g) ?? [];
}

function lcsF1(text: readonly string[], reference: readonly string[]): number {
  if (text.length === 0 || reference.length === 0) return 0;
  const common = longestCommonSubsequence(text, reference);
  return (2 * common) / (text.length + reference.length);
}

/** The length of the longest common subsequence: the table's rows one after the other, two at a time. */
function longestCommonSubsequence(a: readonly string[], b: readonly string[]): number {
  const ids = new Map<string, number>();
  const numbered = (words: readonly string[]) =>
    Int32Array.from(words, (word) => {
      const id = ids.get(word) ?? ids.size;
      ids.set(word, id);
      return id;
    });
  const [rows, columns] = [numbered(a), numbered(b)];
  let above = new Int32Array(columns.length + 1);
  let row = new Int32Array(columns.length + 1);
  for (const word of rows) {
    for (let j = 0; j < columns.length; j++) {
      row[j + 1] = columns[j] === word ? above[j]! + 1 : Math.max(above[j + 1]!, row[j]!);
    }
    [above, row] = [row, above];
  }
  return above[columns.length]!;
}
