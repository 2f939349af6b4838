// Damage to JSON that stays JSON, mostly: other types, extreme numbers, doubled, missing and renamed keys, deep nesting.

import { mutateBytes } from "./mutate-bytes.ts";
import { oddNumber, oddText, oddValue } from "./odd-values.ts";
import type { Random } from "./random.ts";

/** JSON in which a key may come twice, and a value may be any text. */
type Tree = { raw: string } | { list: Tree[] } | { entries: [key: string, value: Tree][] };

function treeOf(value: unknown): Tree {
  if (Array.isArray(value)) return { list: value.map(treeOf) };
  if (typeof value !== "object" || value === null) return { raw: JSON.stringify(value) };
  return { entries: Object.entries(value).map(([key, item]) => [JSON.stringify(key), treeOf(item)]) };
}

function textOf(tree: Tree): string {
  if ("raw" in tree) return tree.raw;
  if ("list" in tree) return `[${tree.list.map(textOf)}]`;
  return `{${tree.entries.map(([key, value]) => `${key}:${textOf(value)}`)}}`;
}

/** Where a value is: enough to replace it. */
interface Place {
  value: Tree;
  set(value: Tree): void;
}

function childrenOf(tree: Tree): Place[] {
  if ("raw" in tree) return [];
  if ("list" in tree) {
    return tree.list.map((value, i) => ({
      value,
      set(other) {
        tree.list[i] = other;
      },
    }));
  }
  return tree.entries.map((entry) => ({
    value: entry[1],
    set(other) {
      entry[1] = other;
    },
  }));
}

/** A place that is as likely near the root as deep below it, however many siblings it has. */
function somePlace(root: Place, random: Random): Place {
  let place = root;
  for (;;) {
    const children = childrenOf(place.value);
    if (children.length === 0 || random.once(4)) return place;
    place = random.pick(children);
  }
}

function changed(tree: Tree, random: Random): Tree {
  if ("raw" in tree) {
    if (random.once(3)) return { raw: oddValue(random) };
    return {
      raw: tree.raw.startsWith('"') ? changedText(tree.raw, random) : changedNumber(tree.raw, random),
    };
  }
  return "list" in tree ? changedList(tree.list, random) : changedEntries(tree.entries, random);
}

function changedText(raw: string, random: Random): string {
  const text = raw.slice(1, -1);
  const at = random.below(text.length + 1);
  const odd = oddText(random).slice(1, -1);
  switch (random.below(5)) {
    case 0:
      return oddText(random);
    case 1:
      return `"${text.slice(0, at)}${odd}${text.slice(at)}"`;
    case 2:
      return JSON.stringify(text.slice(0, at));
    case 3:
      return `"${text.repeat(random.pick([2, 1000]))}"`;
    default:
      return text === "" || Number.isNaN(Number(text)) ? oddNumber(random) : text;
  }
}

function changedNumber(raw: string, random: Random): string {
  const number = Number(raw);
  const near = [number + 1, number - 1, -number, number * 2, number / 2, number * 1000, number + 2 ** 32];
  return random.pick([`${random.pick(near)}`, `"${raw}"`, oddNumber(random), oddNumber(random), `[${raw}]`]);
}

function changedList(list: Tree[], random: Random): Tree {
  const at = random.below(list.length + 1);
  const piece = list.slice(at, at + 1 + random.below(3));
  switch (random.below(5)) {
    case 0:
      return { list: list.toSpliced(at, piece.length) };
    case 1:
      return { list: list.toSpliced(at, 0, { raw: oddValue(random) }) };
    case 2: {
      const times = random.pick([1, 2, 5000]);
      return { list: list.toSpliced(at, 0, ...Array.from({ length: times }, () => piece).flat()) };
    }
    case 3:
      return { list: list.toReversed() };
    default:
      return random.pick<Tree>([
        { entries: list.map((item, i) => [`"${i}"`, item]) },
        { raw: oddValue(random) },
      ]);
  }
}

function changedEntries(entries: [string, Tree][], random: Random): Tree {
  const at = random.below(Math.max(1, entries.length));
  const [key, value] = entries[at] ?? ['"a"', { raw: "0" }];
  switch (random.below(6)) {
    case 0:
    case 1:
      return { entries: entries.toSpliced(at, 1) };
    case 2:
      return { entries: entries.toSpliced(at, 0, [key, random.once(2) ? value : { raw: oddValue(random) }]) };
    case 3:
      return { entries: entries.toSpliced(at, 1, [oddText(random), value]) };
    case 4: {
      const other = random.pick(entries.length === 0 ? [[key, value] as const] : entries);
      return { entries: entries.toSpliced(at, 1, [key, other[1]]) };
    }
    default:
      return random.pick<Tree>([{ list: entries.map(([, item]) => item) }, { raw: oddValue(random) }]);
  }
}

/** One change of JSON text; of text that is not JSON (any more), or nested too deeply to walk, one of its bytes. */
export function mutateJson(text: string, random: Random): string {
  if (!random.once(12)) {
    try {
      return changedJson(text, random);
    } catch (error) {
      if (!(error instanceof SyntaxError || error instanceof RangeError)) throw error;
    }
  }
  return Buffer.from(mutateBytes(Buffer.from(text), random)).toString("latin1");
}

function changedJson(text: string, random: Random): string {
  const root: Place = {
    value: treeOf(JSON.parse(text)),
    set(other) {
      root.value = other;
    },
  };
  const place = somePlace(root, random);
  place.set(changed(place.value, random));
  return textOf(root.value);
}

/** One change in one line of JSON Lines, or of the lines. */
export function mutateJsonLines(text: string, random: Random): string {
  const lines = text.trimEnd().split("\n");
  const at = random.below(lines.length);
  const line = lines[at]!;
  if (!random.once(5)) return `${lines.with(at, mutateJson(line, random)).join("\n")}\n`;
  const others = [
    [],
    [line, line],
    [line.slice(0, line.length / 2)],
    ["", line],
    ["[", line],
    [`${line},`],
    ["\ufeff"],
  ];
  return lines.toSpliced(at, 1, ...random.pick(others)).join(random.pick(["\n", "\r\n", "\r", "\n\n", ""]));
}
