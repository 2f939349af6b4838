// Output folders: made and emptied only where they are our own, never through links.

import { describe, expect, test } from "bun:test";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { expectNewFolder, makeFolder } from "../../src/cli/outputs/new-folder.ts";
import { writeTextAtomically } from "../../src/formats/io.ts";
import { LOCK_FILE } from "../../src/train/run-lock.ts";
import { scratchFolder } from "../scratch.ts";

const root = scratchFolder();
let places = 0;
function newPlace(): string {
  const place = join(root, `place-${places++}`);
  mkdirSync(place);
  return place;
}

/** A folder of someone else's, with a file that must stay. */
function victimIn(place: string): string {
  const victim = join(place, "victim");
  mkdirSync(victim);
  writeFileSync(join(victim, "precious"), "mine");
  return victim;
}
const expectUntouched = (victim: string) => {
  expect(readdirSync(victim)).toEqual(["precious"]);
  expect(readFileSync(join(victim, "precious"), "utf8")).toBe("mine");
};

const never = { signal: new AbortController().signal };
/** Makes the folder of two files; `between` comes between them. */
const make = (path: string, between = () => {}) =>
  makeFolder(path, "test", never, function* (dir) {
    writeTextAtomically(join(dir, "one"), "1");
    yield;
    between();
    yield;
    writeTextAtomically(join(dir, "two"), "2");
  });

/** A lock as a process that is gone has left it. */
const staleLock = JSON.stringify({ pid: 2 ** 22 + 5, host: hostname(), start: "1" });

test("the folder appears whole, its parents too; nothing else stays", async () => {
  const place = newPlace();
  await make(join(place, "a/b/q"));
  expect(readdirSync(join(place, "a/b/q")).sort()).toEqual(["one", "two"]);
  expect(readdirSync(join(place, "a/b"))).toEqual(["q"]);
});

describe("what has the partial folder's name already", () => {
  test.each<[string, (partial: string, victim: string) => void, string]>([
    ["a link to a folder", (partial, victim) => symlinkSync(victim, partial), "is a link"],
    ["a link to nothing", (partial) => symlinkSync("nowhere", partial), "is a link"],
    ["a file", (partial) => writeFileSync(partial, "x"), "is a file"],
    ["a folder of someone else's", (partial, victim) => renameSync(victim, partial), "are not neftune's"],
    [
      "one with a lock that is none",
      (partial, victim) => {
        renameSync(victim, partial);
        writeFileSync(join(partial, LOCK_FILE), "{}");
      },
      "are not neftune's",
    ],
    [
      "one with a lock that is a link",
      (partial, victim) => {
        renameSync(victim, partial);
        writeFileSync(`${partial}.lock`, staleLock);
        symlinkSync(`${partial}.lock`, join(partial, LOCK_FILE));
      },
      "are not neftune's",
    ],
  ])("%s is left alone and named", async (_, prepare, message) => {
    const place = newPlace();
    const victim = victimIn(place);
    const partial = join(place, ".q.partial");
    prepare(partial, victim);
    await expect(make(join(place, "q"))).rejects.toThrow(`${partial} `);
    await expect(make(join(place, "q"))).rejects.toThrow(message);
    expect(existsSync(join(place, "q"))).toBe(false);
    const kept = existsSync(victim) ? victim : partial;
    expect(readFileSync(join(kept, "precious"), "utf8")).toBe("mine");
  });

  test("what a killed process left goes; a link in it goes without what it names", async () => {
    const place = newPlace();
    const victim = victimIn(place);
    const partial = join(place, ".q.partial");
    mkdirSync(join(partial, "sub"), { recursive: true });
    writeFileSync(join(partial, LOCK_FILE), staleLock);
    symlinkSync(victim, join(partial, "link"));
    await make(join(place, "q"));
    expect(readdirSync(join(place, "q")).sort()).toEqual(["one", "two"]);
    expectUntouched(victim);
  });

  test.each([
    ["while it took the lock", { ".neftune.lock.77.new": "" }],
    ["while it removed another's stale lock", { ".neftune.lock.77.partial": staleLock, precious: "x" }],
  ])("what a process killed %s left goes", async (_, files) => {
    const place = newPlace();
    const partial = join(place, ".q.partial");
    mkdirSync(partial);
    for (const [name, text] of Object.entries(files)) writeFileSync(join(partial, name), text);
    await make(join(place, "q"));
    expect(readdirSync(join(place, "q")).sort()).toEqual(["one", "two"]);
    expect(readdirSync(place)).toEqual(["q"]);
  });

  test("an empty folder, left by a process killed before it had a lock, is taken over", async () => {
    const place = newPlace();
    mkdirSync(join(place, ".q.partial"));
    await make(join(place, "q"));
    expect(readdirSync(place)).toEqual(["q"]);
  });
});

describe("a folder that is taken away while it is written", () => {
  test.each<[string, (partial: string, victim: string) => void]>([
    ["removed", (partial) => rmSync(partial, { recursive: true })],
    ["moved", (partial) => renameSync(partial, `${partial}.old`)],
    [
      "moved, and a link put in its place",
      (partial, victim) => {
        renameSync(partial, `${partial}.old`);
        symlinkSync(victim, partial);
      },
    ],
    [
      "moved, and a folder with a copy of the lock in its place",
      (partial) => {
        renameSync(partial, `${partial}.old`);
        mkdirSync(partial);
        writeFileSync(join(partial, LOCK_FILE), readFileSync(join(`${partial}.old`, LOCK_FILE)));
      },
    ],
  ])("%s: it ends in a sentence, and nothing is written there", async (_, take) => {
    const place = newPlace();
    const victim = victimIn(place);
    const partial = join(place, ".q.partial");
    await expect(make(join(place, "q"), () => take(partial, victim))).rejects.toThrow(
      `${partial} was moved, removed or replaced while this process was writing to it`,
    );
    expectUntouched(victim);
    expect(existsSync(join(place, "q"))).toBe(false);
  });
});

test("an --output that is a link", async () => {
  const place = newPlace();
  const path = join(place, "q");
  symlinkSync("nowhere", path);
  for (const attempt of [() => make(path), async () => expectNewFolder(path)])
    await expect(attempt()).rejects.toThrow(`--output ${path} is a link to nowhere, which does not exist`);
  rmSync(path);
  mkdirSync(join(place, "empty"));
  symlinkSync("empty", path);
  await make(path);
  expect(lstatSync(path).isSymbolicLink()).toBe(true);
  expect(readdirSync(join(place, "empty")).sort()).toEqual(["one", "two"]);
  expect(readdirSync(place).sort()).toEqual(["empty", "q"]);
});

test("a file is written beside its place through no link", () => {
  const place = newPlace();
  const victim = join(place, "victim");
  writeFileSync(victim, "mine");
  symlinkSync(victim, join(place, `.f.${process.pid}.partial`));
  symlinkSync(victim, join(place, "f"));
  writeTextAtomically(join(place, "f"), "new");
  expect(readFileSync(victim, "utf8")).toBe("mine");
  expect(lstatSync(join(place, "f")).isFile()).toBe(true);
});
