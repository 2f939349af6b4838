// The demo's data: plain text for a base model, and instructions for its fine-tuning. Every instruction is a family, a
// phrasing and arguments; the held-out rows are combinations that the training rows do not contain, so a low held-out
// loss means that something was learned beyond the rows themselves.

import { alpacaPrompt } from "../../data/alpaca.ts";
import { shuffle } from "../../data/philox.ts";
import { kinds, numbers, opposites, people, places, plural, verbs, withArticle } from "./world.ts";

export interface InstructionRow {
  instruction: string;
  input: string;
  output: string;
  /** Which task it is; training does not see it. */
  family: string;
}

export interface DemoData {
  /** Plain texts, some of them instructions with their answers, so that the base knows how those look. */
  base: { text: string }[];
  train: InstructionRow[];
  heldOut: InstructionRow[];
}

/** Rows of a family that go into fine-tuning and are held out. */
const TRAIN_SHARE = 0.75;
const ROWS_A_FAMILY = 120;

/** Families of which the base sees some rows; the others are new to it. */
const shownToBase = new Set(["opposite", "plural", "first", "repeat", "person"]);

const things = Object.entries(kinds).flatMap(([kind, members]) => members.map((name) => ({ name, kind })));
const nouns = things.filter(({ kind }) => kind !== "color").map(({ name }) => name);

function* pairs<A, B>(left: readonly A[], right: readonly B[]): Generator<[A, B]> {
  for (const a of left) for (const b of right) yield [a, b];
}

/** Three different nouns for every start and stride. */
function* triples(): Generator<[string, string, string]> {
  for (const [start, stride] of pairs([...nouns.keys()], [1, 3, 7])) {
    const at = (step: number) => nouns[(start + step * stride) % nouns.length]!;
    yield [at(0), at(1), at(2)];
  }
}

type Row = readonly [instruction: string, input: string, output: string];

/** The task families: each yields all its rows. */
const families: Record<string, () => Generator<Row>> = {
  *opposite() {
    const phrasings = [
      (word: string) => `What is the opposite of ${word}?`,
      (word: string) => `Give the opposite of the word ${word}.`,
      (word: string) => `Name a word that means the opposite of ${word}.`,
    ];
    const both = opposites.flatMap(([a, b]) => [[a, b] as const, [b, a] as const]);
    for (const [ask, [a, b]] of pairs(phrasings, both)) yield [ask(a), "", `The opposite of ${a} is ${b}.`];
  },
  *kind() {
    const phrasings = [
      (name: string) => `What kind of thing is ${withArticle(name)}?`,
      (name: string) => `Tell me what ${withArticle(name)} is.`,
      (name: string) => `Is ${withArticle(name)} an animal, a fruit or a tool?`,
    ];
    for (const [ask, { name, kind }] of pairs(phrasings, things)) {
      if (kind !== "color") {
        yield [ask(name), "", `${withArticle(name)} is ${withArticle(kind)}.`.replace(/^a/, "A")];
      }
    }
  },
  *plural() {
    const phrasings = ["Give the plural of the word.", "Write the word for more than one."];
    for (const [ask, noun] of pairs(phrasings, nouns)) yield [ask, noun, plural(noun)];
  },
  *person() {
    for (const { name, village, job, pet, color } of people) {
      yield [`Where does ${name} live?`, "", `${name} lives in ${village}.`];
      yield [`In which village is the home of ${name}?`, "", `${name} lives in ${village}.`];
      yield [`What is the work of ${name}?`, "", `${name} is a ${job}.`];
      yield [`Which pet does ${name} have?`, "", `${name} has a ${pet}.`];
      yield [`What is the color of ${name}'s house?`, "", `The house of ${name} is ${color}.`];
    }
  },
  *describe() {
    for (const { name, village, job, pet, color } of people) {
      yield [
        `Describe ${name}.`,
        "",
        `${name} is a ${job} who lives in ${village}. The house of ${name} is ${color}, and ${name} has a ${pet}.`,
      ];
      yield [
        `Write two sentences about ${name}.`,
        "",
        `${name} lives in ${village}. ${name} is a ${job} and has a ${pet}.`,
      ];
    }
  },
  *past() {
    for (const [[present, past], { name }] of pairs(verbs, people)) {
      const place = places[(name.length + present.length) % places.length]!;
      yield ["Put the sentence into the past.", `${name} ${present} ${place}.`, `${name} ${past} ${place}.`];
    }
  },
  *add() {
    for (const [a, b] of pairs([...numbers.keys()].slice(0, 10), [...numbers.keys()].slice(0, 9))) {
      yield [
        "Add the numbers.",
        `${numbers[a]} and ${numbers[b]}`,
        `${numbers[a]} plus ${numbers[b]} is ${numbers[a + b]}.`,
      ];
    }
  },
  *first() {
    for (const [a, b, c] of triples())
      yield ["Name the first thing in the list.", `${a}, ${b}, ${c}`, `The first is ${a}.`];
  },
  *last() {
    for (const [a, b, c] of triples())
      yield ["Name the last thing in the list.", `${a}, ${b}, ${c}`, `The last is ${c}.`];
  },
  *reverse() {
    for (const [a, b, c] of triples())
      yield ["Write the list backwards.", `${a}, ${b}, ${c}`, `${c}, ${b}, ${a}`];
  },
  *repeat() {
    for (const [a, b] of pairs(nouns, ["twice", "three times"])) {
      yield [`Say the word ${b}.`, a, b === "twice" ? `${a} ${a}` : `${a} ${a} ${a}`];
    }
  },
  *swap() {
    for (const [a, b] of triples()) {
      yield [
        "Change the order of the two things.",
        `${withArticle(a)} and ${withArticle(b)}`,
        `${withArticle(b)} and ${withArticle(a)}`,
      ];
    }
  },
};

/** What people of the small world would write: the facts in other words than the instructions'. */
function* sentences(): Generator<string> {
  for (const { name, village, job, pet, color } of people) {
    yield `${name} lives in ${village}. ${name} is a ${job}. ${name} has a ${pet}. The house of ${name} is ${color}.`;
    yield `In ${village} there is a ${color} house. The house of ${name} is ${color}, and the ${job} ${name} has a ${pet}.`;
    yield `${name} the ${job} lives in ${village} with a ${pet}.`;
  }
  for (const [a, b] of opposites) {
    yield `The opposite of ${a} is ${b}. The opposite of ${b} is ${a}.`;
    yield `What is not ${a} may be ${b}, and what is not ${b} may be ${a}.`;
  }
  for (const { name, kind } of things) {
    if (kind === "color") continue;
    yield `${withArticle(name)} is ${withArticle(kind)}. One ${name}, two ${plural(name)}, many ${plural(name)}.`.replace(
      /^a/,
      "A",
    );
  }
  for (const [[present, past], { name }] of pairs(verbs, people)) {
    const place = places[(name.length * 3 + present.length) % places.length]!;
    yield `Today ${name} ${present} ${place}. Yesterday ${name} ${past} ${place}.`;
  }
  for (const [a, b] of pairs([...numbers.keys()].slice(0, 10), [...numbers.keys()].slice(0, 9))) {
    if ((a + b) % 2 === 0) yield `${numbers[a]} plus ${numbers[b]} is ${numbers[a + b]}.`;
  }
  for (const [a, b, c] of triples()) {
    yield `The list is ${a}, ${b}, ${c}. The first is ${a}. The last is ${c}. Backwards it is ${c}, ${b}, ${a}.`;
  }
}

/** The demo's data for a seed: the same on any machine. */
export function makeDemoData(seed: number): DemoData {
  const train: InstructionRow[] = [];
  const heldOut: InstructionRow[] = [];
  for (const [index, [family, make]] of Object.entries(families).entries()) {
    const all = [...make()].map(([instruction, input, output]) => ({ instruction, input, output, family }));
    const chosen = [...shuffle(all.length, seed, index)].slice(0, ROWS_A_FAMILY).map((i) => all[i]!);
    const border = Math.round(chosen.length * TRAIN_SHARE);
    train.push(...chosen.slice(0, border));
    heldOut.push(...chosen.slice(border));
  }
  const shown = train.filter(({ family }, i) => shownToBase.has(family) && i % 2 === 0);
  const texts = [
    ...sentences(),
    ...shown.map((row) => alpacaPrompt(row.instruction, row.input) + row.output),
  ];
  return { base: texts.map((text) => ({ text })), train, heldOut };
}
