// A set of outputs, measured: what `neftune analyze` shows of a file.

import { Bleu } from "./bleu.ts";
import { logDiversity, repetitionRate } from "./repetition.ts";
import { rougeL } from "./rouge.ts";
import { mean, wordsOf } from "./words.ts";

/** A model's answer, and what it is compared with. */
export interface Output {
  text: string;
  /** Empty where there is nothing to compare with. */
  references: readonly string[];
}

/** Means over outputs; null where no output counts. */
export interface Measures {
  outputs: number;
  empty: number;
  /** Length: white-space separated words, and characters (Unicode code points). */
  words: number | null;
  characters: number | null;
  /** Outputs long enough for log-diversity: four words, or as many as are measured. */
  measured: number;
  /** Share of 2-grams that repeat an earlier one of the same output. */
  repetition_2: number | null;
  log_diversity: number | null;
  /** Outputs with references. */
  compared: number;
  /** ROUGE-L F1, from 0 to 1, the mean over outputs. */
  rouge_l: number | null;
  /** BLEU of all outputs together, from 0 to 100. */
  bleu: number | null;
}

/**
 * Measures outputs. With `cut`, repetition and diversity are measured on the first `cut` words of outputs at least that
 * long: longer texts repeat more, so only texts of equal length compare (NEFTune, section 5.2).
 */
export function measureOutputs(outputs: readonly Output[], cut: number | null): Measures {
  const words = outputs.map(({ text }) => wordsOf(text));
  const measured =
    cut === null ? words : words.filter(({ length }) => length >= cut).map((all) => all.slice(0, cut));
  const known = <T>(values: readonly (T | null)[]) => values.filter((value) => value !== null);
  const diversities = known(measured.map(logDiversity));
  const compared = outputs.filter(({ references }) => references.length > 0);
  const bleu = new Bleu();
  for (const { text, references } of compared) bleu.add(text, references);
  return {
    outputs: outputs.length,
    empty: words.filter(({ length }) => length === 0).length,
    words: mean(words.map(({ length }) => length)),
    characters: mean(outputs.map(({ text }) => [...text].length)),
    measured: diversities.length,
    repetition_2: mean(known(measured.map((some) => repetitionRate(some, 2)))),
    log_diversity: mean(diversities),
    compared: compared.length,
    rouge_l: mean(compared.map(({ text, references }) => rougeL(text, references))),
    bleu: compared.length === 0 ? null : bleu.score(),
  };
}
