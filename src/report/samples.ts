// Answers side by side: each prompt, what was expected, and what each run said.

import { countOf } from "../numbers.ts";
import { escapeHtml, runLabel } from "./html.ts";
import type { Run } from "./run.ts";

/** Prompts that are shown; the files have all. */
const MOST_PROMPTS = 12;
/** Answers that are in sight; those to further prompts are folded. */
const MOST_OPEN = 12;
const MOST_CHARACTERS = 1200;
/** Of all prompts, references and answers together, so that the page stays small in any script. */
const MOST_BYTES = 90_000;
/** Of a run's earlier answers to a prompt, where few enough runs leave room for them. */
const MOST_EARLIER = 6;
const MOST_EARLIER_CHARACTERS = 300;
/** Of all earlier answers' texts together. */
const MOST_EARLIER_BYTES = 24_000;
const MOST_RUNS_WITH_EARLIER = 4;

export interface Sample {
  question: string;
  references: readonly string[];
  /** By run; null where it has no answer to this prompt. */
  outputs: readonly (string | null)[];
}

/** The prompts of all runs, in the order of the first that has them. */
export function samplesOf(runs: readonly Run[]): Sample[] {
  const questions = new Map<string, { references: readonly string[]; outputs: (string | null)[] }>();
  for (const [i, { answers }] of runs.entries()) {
    for (const { question, output, references } of answers.last) {
      const known = questions.get(question);
      const sample = known ?? { references, outputs: runs.map(() => null) };
      if (sample.references.length === 0) sample.references = references;
      sample.outputs[i] ??= output;
      if (known === undefined) questions.set(question, sample);
    }
  }
  return [...questions].map(([question, { references, outputs }]) => ({ question, references, outputs }));
}

/** True where an answer is, but for white space at its ends, a reference. */
export function isMatch(output: string, references: readonly string[]): boolean {
  return references.some((reference) => reference.trim() === output.trim());
}

/** How much of each text a page has room for. */
interface Room {
  characters: number;
  /** As it stands in the page: in UTF-8, with what HTML needs escaped. */
  bytes: number;
}

/** A text's beginning as HTML, with an ellipsis where that is not all of it. */
function shortHtml(text: string, { characters, bytes }: Room): string {
  let [end, used] = [0, 0];
  for (const character of text) {
    used += Buffer.byteLength(escapeHtml(character));
    if (used > bytes || end + character.length > characters) break;
    end += character.length;
  }
  return end === text.length ? escapeHtml(text) : `${escapeHtml(text.slice(0, end))}…`;
}

const outputHtml = (output: string, room: Room) =>
  output.trim() === "" ? "<em>empty</em>" : shortHtml(output.trim(), room);

/** What a run said to a prompt after earlier steps, in `bytes`: the first and others evenly between, folded. */
function earlierHtml({ answers }: Run, question: string, bytes: number): string {
  const samples = answers.earlier.filter((sample) => sample.question === question);
  if (samples.length === 0) return "";
  const count = Math.min(samples.length, MOST_EARLIER);
  const shown = Array.from({ length: count }, (_, i) => samples[Math.floor((i * samples.length) / count)]!);
  const room = { characters: MOST_EARLIER_CHARACTERS, bytes: bytes / count };
  const rows = shown.map(
    ({ step, output }) => `<dt>step ${step ?? 0}</dt><dd>${outputHtml(output, room)}</dd>`,
  );
  return `<details><summary>after earlier steps</summary><dl>${rows.join("")}</dl></details>`;
}

function answerHtml(
  run: Run,
  index: number,
  { references, outputs }: Sample,
  room: Room,
  earlier: string,
): string {
  const output = outputs[index] ?? null;
  if (output === null) return "";
  const mark = isMatch(output, references) ? '<span class="match">✓ as expected</span>' : "";
  return `<div class="answer"><div>${runLabel(run.name, index)}${mark}</div><p>${outputHtml(output, room)}</p>${earlier}</div>`;
}

/** Shorter beginnings that prompts share are left as they are. */
const LEAST_SHARED = 24;

/** What all prompts begin with, such as a template's first words, to the end of a line; it would hide what differs. */
export function sharedStart(texts: readonly string[]): string {
  if (texts.length < 2) return "";
  let length = 0;
  while (texts.every((text) => length < text.length && text[length] === texts[0]![length])) length++;
  const shared = texts[0]!.slice(0, length);
  const start = shared.slice(0, shared.lastIndexOf("\n") + 1);
  return start.length < LEAST_SHARED ? "" : start;
}

/** What all prompts end with, from the beginning of a line, such as a template's "### Response:". */
export function sharedEnd(texts: readonly string[]): string {
  if (texts.length < 2) return "";
  const last = texts[0]!;
  let length = 0;
  while (texts.every((text) => length < text.length && text.at(-1 - length) === last.at(-1 - length)))
    length++;
  const shared = last.slice(last.length - length);
  const line = shared.indexOf("\n");
  return line < 0 ? "" : shared.slice(line);
}

/** The section's inside, with `share` of its prompts and texts; the empty string where no run has answers. */
export function samplesHtml(runs: readonly Run[], share: number): string {
  const samples = samplesOf(runs);
  if (samples.length === 0) return "";
  const questions = samples.map(({ question }) => question);
  const [start, end] = [sharedStart(questions).length, sharedEnd(questions).length];
  const own = (question: string) =>
    question.length > start + end ? question.slice(start, question.length - end).trim() : question.trim();
  // Prompts that the runs answer differently tell more.
  const differing = (sample: Sample) => new Set(sample.outputs.map((output) => output?.trim())).size > 1;
  const chosen = [...samples.filter(differing), ...samples.filter((sample) => !differing(sample))].slice(
    0,
    Math.ceil(MOST_PROMPTS * share),
  );
  // The prompt, what is expected, and an answer of each run.
  const texts = chosen.length * (runs.length + 2);
  const room = { characters: MOST_CHARACTERS, bytes: (MOST_BYTES * share) / texts };
  const hasEarlier = runs.length <= MOST_RUNS_WITH_EARLIER;
  const earlierBytes = (MOST_EARLIER_BYTES * share) / (chosen.length * runs.length);
  const shown = chosen.map((sample) => {
    const { question, references } = sample;
    const expected =
      references.length === 0
        ? ""
        : `<div class="answer expected"><div>expected</div><p>${shortHtml(references[0]!.trim(), room)}</p></div>`;
    const answers = runs
      .map((run, i) =>
        answerHtml(run, i, sample, room, hasEarlier ? earlierHtml(run, question, earlierBytes) : ""),
      )
      .join("");
    return `<article><h3>${shortHtml(own(question), room)}</h3><div class="answers">${expected}${answers}</div></article>`;
  });
  const open = Math.max(2, Math.floor(MOST_OPEN / runs.length));
  const folded = shown.splice(open);
  if (folded.length > 0)
    shown.push(
      `<details><summary>${countOf(folded.length, "more prompt")}</summary>${folded.join("\n")}</details>`,
    );
  const rest = samples.length - chosen.length;
  const more =
    rest > 0 ? `<p class="note">${rest} more in the runs’ answers.jsonl or samples.jsonl.</p>` : "";
  return `${shown.join("\n")}${more}`;
}
