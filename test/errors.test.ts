// How messages are put together.

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Glob } from "bun";
import { about, FormatError } from "../src/errors.ts";

test("a reason that goes on a sentence follows without a colon", () => {
  expect(about("a.json", "is empty; expected rows")).toBe("a.json is empty; expected rows");
  expect(about("a.json:3", "has no known format")).toBe("a.json:3 has no known format");
  expect(about("a.json", "no such file")).toBe("a.json: no such file");
  expect(about("config.json", "has_bias must be true")).toBe("config.json: has_bias must be true");
  expect(new FormatError("a.json", "must be a JSON object").message).toBe("a.json must be a JSON object");
});

test("no message has a colon between what it is about and a verb", () => {
  const colon = /\}: (?:is|are|has|have|was|were|holds|lacks|ends|cannot|already|does|must) /;
  const src = join(import.meta.dir, "..", "src");
  const found = [...new Glob("**/*.ts").scanSync(src)].flatMap((name) =>
    readFileSync(join(src, name), "utf8")
      .split("\n")
      .filter((line) => colon.test(line))
      .map((line) => `${name}: ${line.trim()}`),
  );
  expect(found).toEqual([]);
});
