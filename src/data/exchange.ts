// Prompts with their answers as one text, as they are: no chat template. EOS ends each answer.

import type { Answer, LossOn, Script } from "./script.ts";
import type { Section, Tokenizer } from "./tokenizer.ts";

export interface Exchange {
  prompt: string;
  /** Null for the answer that is asked for. */
  answer: string | null;
}

/** A text of prompts and answers in turn; the script's own EOS ends the last answer. */
export function exchangeScript(
  exchanges: readonly Exchange[],
  tokenizer: Tokenizer,
  { parseSpecial, lossOn }: { parseSpecial: boolean; lossOn: LossOn },
): Script {
  const sections: Section[] = [];
  const answers: Answer[] = [];
  let text = "";
  exchanges.forEach(({ prompt, answer }, i) => {
    const exchange = prompt + (answer ?? "");
    for (const section of tokenizer.sections(exchange, parseSpecial)) {
      sections.push({ ...section, begin: text.length + section.begin });
    }
    const begin = text.length + prompt.length;
    text += exchange;
    if (answer === null) return;
    const end = text.length;
    if (i < exchanges.length - 1 && tokenizer.eosId !== null) {
      sections.push({ text: tokenizer.eosToken, begin: end, id: tokenizer.eosId });
      text += tokenizer.eosToken;
    }
    answers.push({ begin, end, stop: text.length, isEmpty: answer.trim() === "" });
  });
  const hasEos = exchanges.at(-1)?.answer !== null;
  const learned = lossOn === "last-answer" ? answers.slice(-1) : answers;
  return { text, sections, answers: learned, excepted: [], hasEos, remarks: [] };
}
