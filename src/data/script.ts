// A text with its answers marked, on the way from a row to tokens and labels.

import type { Remark } from "./encoding-notes.ts";
import { RowProblem } from "./fields.ts";
import { IGNORE } from "./sample.ts";
import { type AnswerSpan, firstAnswerToken, holdsAny, targetLabels } from "./targets.ts";
import type { Section, Tokenizer } from "./tokenizer.ts";

/** `--loss-on`: which tokens are targets. */
export const lossTargets = ["answers", "last-answer", "all"] as const;
export type LossOn = (typeof lossTargets)[number];

export interface Answer extends AnswerSpan {
  isEmpty: boolean;
}

export interface Script {
  text: string;
  /** The text, cut at special tokens. */
  sections: readonly Section[];
  /** What is learned of it, `loss-on` considered, in order. */
  answers: readonly Answer[];
  /** With `loss-on` all, what is not learned all the same: turns of weight 0. */
  excepted: readonly AnswerSpan[];
  /** EOS follows the text, and ends the last answer. */
  hasEos: boolean;
  remarks: readonly Remark[];
}

export interface Encoded {
  ids: Int32Array; // [tokens]
  labels: Int32Array; // [tokens], IGNORE where nothing is learned
  text: string;
  /** The first token of an answer, not of its end; Infinity where there is none. */
  firstAnswer: number;
  remarks: readonly Remark[];
}

/** Characters (UTF-16 units) that one row's text may have: tokenizing takes up to a hundred bytes for each. */
const MOST_CHARACTERS = 2 ** 24;

/**
 * The script's ids and labels, with BOS in front where the tokenizer begins texts with it and the script does not.
 * Throws RowProblem where the text is too long.
 */
export function encodeScript(script: Script, tokenizer: Tokenizer, lossOn: LossOn): Encoded {
  const { text, answers, excepted } = script;
  if (text.length > MOST_CHARACTERS) {
    throw new RowProblem(
      `its text has ${text.length} characters, and a row's may have ${MOST_CHARACTERS} at most; divide it into several rows`,
    );
  }
  const encoding = tokenizer.encodeSections(script.sections);
  const learnsAll = lossOn === "all";
  const labels = learnsAll
    ? encoding.ids.map((id, i) =>
        excepted.some(({ begin, stop }) => holdsAny(encoding, i, begin, stop)) ? IGNORE : id,
      )
    : targetLabels(encoding, answers);
  const { bosId } = tokenizer;
  const bos = tokenizer.addsBos && bosId !== null && encoding.ids[0] !== bosId ? bosId : null;
  const eos = script.hasEos ? tokenizer.eosId : null;
  const learnsEnd = learnsAll || answers.at(-1)?.stop === text.length;
  // nothing predicts a sample's first token, so an answer that lies in it is not learned
  const firstAnswer =
    bos === null ? firstAnswerToken(encoding, answers, 1) : 1 + firstAnswerToken(encoding, answers);
  return {
    ids: between(bos, encoding.ids, eos),
    labels: between(
      bos === null || learnsAll ? bos : IGNORE,
      labels,
      eos === null || learnsEnd ? eos : IGNORE,
    ),
    text,
    firstAnswer: learnsAll ? 0 : firstAnswer,
    remarks: remarksOn(script, eos !== null),
  };
}

/** The values with one in front and one behind, where there is such a one. */
function between(first: number | null, values: Int32Array, last: number | null): Int32Array {
  const offset = first === null ? 0 : 1;
  const all = new Int32Array(offset + values.length + (last === null ? 0 : 1));
  if (first !== null) all[0] = first;
  all.set(values, offset);
  if (last !== null) all[all.length - 1] = last;
  return all;
}

function remarksOn({ text, answers, remarks }: Script, endsInEos: boolean): Remark[] {
  const all = [...remarks];
  if (answers.some(({ isEmpty }) => isEmpty)) all.push("empty-answer");
  const isStopped = ({ end, stop }: Answer): boolean => stop > end || (endsInEos && stop === text.length);
  if (answers.length > 0 && !answers.every(isStopped)) all.push("no-stop");
  return all;
}
