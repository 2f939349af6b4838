// The day that the template of chat and serve writes: the option's, the run's or today's, and that it is said once.

import { expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { ServedModel, type ServedModelOptions } from "../../src/cli/inputs/served-model.ts";
import { today } from "../../src/data/template-date.ts";
import { scratchFolder } from "../scratch.ts";
import { openDevice } from "../train/tiny-run.ts";
import { makeTinyModel } from "./tiny-served.ts";

const root = scratchFolder();
const dir = makeTinyModel(join(root, "model"));
const template = join(root, "dated.jinja");
writeFileSync(
  template,
  "{% if messages | length > 1 %}{{ strftime_now('%F') }} {% endif %}{% for message in messages %}{{ message['content'] }}{% endfor %}",
);

/** What three conversations are rendered to, the first one without a date, and what was noted after each. */
function served(own: Partial<ServedModelOptions>) {
  const notes: string[] = [];
  const device = openDevice();
  const options = {
    ...({ quantization: "none", "double-quantization": true, "quantized-cache": undefined } as const),
    ...({ dtype: "f32", "context-length": 128, slots: 1, adapter: undefined } as const),
    "prompt-template": template,
    ...own,
  };
  const model = ServedModel.open(device, { path: dir }, options, { note: (text) => void notes.push(text) });
  try {
    const said = (content: string) => ({ role: "user", content }) as const;
    return [[said("a")], [said("a"), said("b")], [said("c"), said("d")]].map((messages) => ({
      text: model.tokenizer.decode(model.promptOf(messages), { skipSpecial: true }),
      notes: notes.length,
      note: notes[0],
    }));
  } finally {
    model.close();
    device.close();
  }
}

test("--template-date; the first prompt with it is noted", () => {
  const note = "prompts with the date in the template's own text";
  expect(served({ "template-date": "2024-07-26" })).toEqual([
    { text: "a", notes: 0, note: undefined },
    { text: "2024-07-26 ab", notes: 1, note },
    { text: "2024-07-26 cd", notes: 1, note },
  ]);
});

test("today, and which option keeps it; among several models, the one's name", () => {
  const [, dated] = served({ name: "base" });
  expect(dated!.text).toBe(`${today()} ab`);
  expect(dated!.note).toBe(
    `base: prompts with the date in the template's own text; --template-date ${today()} gives the same tokens on another day`,
  );
});

test("a run's day, unless the option gives another", () => {
  const record = { neftune_version: "1", "template-date": "2023-01-02" };
  writeFileSync(join(dir, "run.json"), JSON.stringify(record));
  expect(served({})[1]).toMatchObject({
    text: "2023-01-02 ab",
    note: "prompts with the date in the template's own text",
  });
  expect(served({ "template-date": "2024-07-26" })[1]!.text).toBe("2024-07-26 ab");
});
