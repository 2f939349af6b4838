// Measures of outputs: by hand, and against rouge-score and sacrebleu (test/golden/analysis/make.py).

import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Bleu, bleuTokens } from "../../src/analysis/bleu.ts";
import { measureOutputs } from "../../src/analysis/outputs.ts";
import { logDiversity, repetitionRate } from "../../src/analysis/repetition.ts";
import { rougeL } from "../../src/analysis/rouge.ts";
import { wordsOf } from "../../src/analysis/words.ts";

interface Golden {
  rows: {
    output: string;
    references: string[];
    words: number;
    characters: number;
    repetition: (number | null)[];
    log_diversity: number | null;
    rouge_l: number;
    bleu: number;
    bleu_tokens: string;
  }[];
  corpus_bleu: Record<"all" | "first ten" | "last ten", number>;
}
const golden = JSON.parse(
  readFileSync(join(import.meta.dir, "../golden/analysis/goldens.json"), "utf8"),
) as Golden;

function bleu(pairs: readonly { output: string; references: string[] }[]): number {
  const sums = new Bleu();
  for (const { output, references } of pairs) sums.add(output, references);
  return sums.score();
}

describe("by hand", () => {
  test("repetition: a b a b a has 2-grams ab ba ab ba, 3-grams aba bab aba, 4-grams abab baba", () => {
    const words = wordsOf(" a b\na  b a ");
    expect(words).toEqual(["a", "b", "a", "b", "a"]);
    expect(repetitionRate(words, 2)).toBe(1 / 2);
    expect(repetitionRate(words, 3)).toBeCloseTo(1 / 3, 15);
    expect(repetitionRate(words, 4)).toBe(0);
    // 1 − 1/2 · 2/3 · 1 = 2/3
    expect(logDiversity(words)).toBeCloseTo(Math.log(3 / 2), 14);
  });

  test("no repetition is a log-diversity of 20; all repetition nears 0; short texts have none", () => {
    expect(logDiversity(wordsOf("all words differ here"))).toBe(20);
    expect(logDiversity(Array<string>(1000).fill("again"))).toBeLessThan(1e-8);
    expect(repetitionRate(["one"], 2)).toBeNull();
    expect(logDiversity(wordsOf("only three words"))).toBeNull();
  });

  test("ROUGE-L: police killed the gunman / police kill the gunman share police the gunman", () => {
    // Lin 2004's example: LCS 3 of 4 and 4 words
    expect(rougeL("police kill the gunman", ["police killed the gunman"])).toBe(0.75);
    expect(rougeL("the gunman kill police", ["police killed the gunman"])).toBe(0.5);
    expect(rougeL("the gunman kill police", ["none", "The GUNMAN, police!"])).toBeCloseTo(6 / 7, 15);
    expect(rougeL("", ["a"])).toBe(0);
  });

  test("BLEU: Papineni's the the the …, clipped; brevity; the whole", () => {
    // 2 of 7 unigrams, then 0 of 6, 5, 4 bigrams and more, smoothed to 1/12, 1/20, 1/32
    const expected = 100 * (2 / 7 / 12 / 20 / 32) ** (1 / 4);
    const clipped = { output: "the the the the the the the", references: ["the cat is on the mat"] };
    expect(bleu([clipped])).toBeCloseTo(expected, 10);
    expect(bleu([{ output: "a b c d e", references: ["a b c d e"] }])).toBeCloseTo(100, 10);
    const half = { output: "a b c d e", references: ["a b c d e f g h i j"] };
    expect(bleu([half])).toBeCloseTo(100 * Math.exp(1 - 10 / 5), 10);
    expect(bleu([{ output: "a", references: ["b"] }])).toBe(0);
  });

  test("a set of outputs: means, and repetition at one length", () => {
    const outputs = [
      { text: "a b a b a", references: ["a b"] },
      { text: "é ü", references: [] },
      { text: "", references: [] },
    ];
    expect(measureOutputs(outputs, null)).toMatchObject({
      outputs: 3,
      empty: 1,
      words: 7 / 3,
      characters: 4,
      measured: 1,
      repetition_2: 1 / 4,
      compared: 1,
      rouge_l: 4 / 7,
    });
    expect(measureOutputs(outputs, 4)).toMatchObject({
      words: 7 / 3,
      measured: 1,
      repetition_2: 1 - 2 / 3,
      log_diversity: -Math.log(1 - 2 / 3),
    });
    expect(measureOutputs([], 4)).toMatchObject({ outputs: 0, words: null, rouge_l: null, bleu: null });
  });
});

describe("against Python", () => {
  test("35 texts: words, characters, repetition, log-diversity, ROUGE-L, BLEU and its tokens", () => {
    expect(golden.rows.length).toBe(35);
    for (const row of golden.rows) {
      const words = wordsOf(row.output);
      expect(words.length).toBe(row.words);
      expect([...row.output].length).toBe(row.characters);
      for (const [i, rate] of row.repetition.entries()) {
        if (rate === null) expect(repetitionRate(words, i + 2)).toBeNull();
        else expect(repetitionRate(words, i + 2)).toBeCloseTo(rate, 12);
      }
      if (row.log_diversity === null) expect(logDiversity(words)).toBeNull();
      else expect(logDiversity(words)!).toBeCloseTo(row.log_diversity, 10);
      expect({ output: row.output, tokens: bleuTokens(row.output).join(" ") }).toEqual({
        output: row.output,
        tokens: row.bleu_tokens,
      });
      expect(rougeL(row.output, row.references)).toBeCloseTo(row.rouge_l, 12);
      expect(bleu([row])).toBeCloseTo(row.bleu, 9);
    }
  });

  test("BLEU of many texts together", () => {
    expect(bleu(golden.rows)).toBeCloseTo(golden.corpus_bleu.all, 9);
    expect(bleu(golden.rows.slice(0, 10))).toBeCloseTo(golden.corpus_bleu["first ten"], 9);
    expect(bleu(golden.rows.slice(-10))).toBeCloseTo(golden.corpus_bleu["last ten"], 9);
  });
});
