// How far a command is with the files of a model's folder.

import { expect, spyOn, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { fitParts, type LinePart } from "../../src/cli/terminal/text.ts";
import { withWritingProgress } from "../../src/cli/terminal/writing-progress.ts";
import type { Steps } from "../../src/steps.ts";
import { scratchFolder } from "../scratch.ts";

test("never more than the whole, with a tokenizer beside the weights", () => {
  const path = scratchFolder();
  const drawn: string[] = [];
  const draw = (parts: string | readonly LinePart[]) => {
    drawn.push(typeof parts === "string" ? parts : fitParts(parts, 79));
  };
  let now = 0;
  const clock = spyOn(performance, "now").mockImplementation(() => (now += 1000));
  function* writes(): Steps<void> {
    yield 2048;
    writeFileSync(join(path, "model.safetensors"), Buffer.alloc(1024));
    yield;
    writeFileSync(join(path, "model.safetensors"), Buffer.alloc(2048));
    writeFileSync(join(path, "tokenizer.json"), Buffer.alloc(512));
    yield;
  }
  try {
    for (const _ of withWritingProgress(writes(), { name: "q", path }, { draw }));
  } finally {
    clock.mockRestore();
  }
  expect(drawn.map((line) => /\S+ \S+ of .* KiB/.exec(line)?.[0] ?? line)).toEqual([
    ...["0 B of 2.0 KiB", "1.0 KiB of 2.0 KiB", "2.0 KiB of 2.0 KiB", ""],
  ]);
});
