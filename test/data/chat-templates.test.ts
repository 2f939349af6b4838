// Conversations against Transformers: test/golden/chat-templates/make.py says how the cases were made.

import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Encoder, type EncoderOptions } from "../../src/data/encode.ts";
import { promptTemplate } from "../../src/data/templates.ts";
import { Tokenizer } from "../../src/data/tokenizer.ts";
import { folderOf } from "./tiny-tokenizer.ts";

interface Case {
  template: string;
  conversation: string;
  messages: object[];
  tools?: object[] | null;
  text: string;
  ids: number[];
  labels: number[];
  prompt?: string;
}

const GOLDEN = join(import.meta.dir, "../golden/chat-templates");
const cases = JSON.parse(readFileSync(join(GOLDEN, "cases.json"), "utf8")) as Case[];
const tokenizer = Tokenizer.load(
  folderOf({
    "tokenizer.json": readFileSync(join(GOLDEN, "tokenizer.json")),
    "tokenizer_config.json": { bos_token: "<s>", eos_token: "</s>", add_bos_token: false },
  }),
);

function encoder(template: string, options: Partial<EncoderOptions> = {}): Encoder {
  const option = template.endsWith(".jinja") ? join(GOLDEN, template) : template;
  const defaults = { maxLength: null, parseSpecial: false, vocabSize: null } as const;
  return new Encoder(tokenizer, { ...defaults, template: promptTemplate(option), ...options });
}
function find(template: string, conversation: string): Case {
  return cases.find((one) => one.template === template && one.conversation === conversation)!;
}

describe("text, ids and labels are Transformers'", () => {
  test.each(cases.map((one) => [one.template, one.conversation, one] as const))(
    "%s: %s",
    (template, _, expected) => {
      const { messages, tools = null } = expected;
      const { text, ids, labels } = encoder(template).encode({ messages, tools });
      expect(text).toBe(expected.text);
      expect(Array.from(ids)).toEqual(expected.ids);
      expect(Array.from(labels)).toEqual(expected.labels);
      const prompt = encoder(template).encodePrompt({ messages, tools });
      if (expected.prompt !== undefined) expect(prompt.text).toBe(expected.prompt);
      else expect(Array.from(ids.slice(0, prompt.ids.length))).toEqual(Array.from(prompt.ids));
    },
  );
});

test("what a template does to answers is remarked", () => {
  const remarks = (template: string, conversation: string) =>
    encoder(template).encode(find(template, conversation)).notes.remarks;
  expect(remarks("forgets-reasoning.jinja", "reasoning")).toEqual(["other-prompt", "changed-answer"]);
  expect(remarks("forgets-reasoning.jinja", "one turn")).toEqual(["other-prompt"]);
  expect(remarks("reasoning-tools.jinja", "reasoning")).toEqual([]);
  // of the first answer the reasoning is gone once there is a second question
  expect(remarks("reasoning-tools.jinja", "reasoning twice")).toEqual(["changed-answer"]);
  for (const conversation of ["one turn", "system", "tools", "tools, text", "reasoning field"]) {
    expect(remarks("reasoning-tools.jinja", conversation)).toEqual([]);
  }
  for (const template of ["llama3", "chatml", "mistral"]) expect(remarks(template, "system")).toEqual([]);
});

test("generation stops with what ends the template's answers", () => {
  const stop = (template: string) => {
    const one = encoder(template);
    one.encodePrompt({ messages: [{ role: "user", content: "a" }] });
    const id = one.endOfTurnId();
    return id === null ? null : tokenizer.decode([id]);
  };
  expect(
    ["llama3", "chatml", "mistral", "reasoning-tools.jinja", "forgets-reasoning.jinja"].map(stop),
  ).toEqual(["<|eot_id|>", "<|im_end|>", "</s>", "<|im_end|>", "</s>"]);
  expect(encoder("alpaca").endOfTurnId()).toBeNull();
});

test("turns that the named templates have no place for are refused", () => {
  const user = { role: "user", content: "a" };
  const answer = { role: "assistant", content: "b" };
  const tool = { role: "tool", content: "3" };
  const system = { role: "system", content: "s" };
  for (const template of ["llama3", "chatml"]) {
    expect(() => encoder(template).encode({ messages: [user, tool, answer] })).toThrow(
      /system, user and assistant/,
    );
    expect(encoder(template).encode({ messages: [user, answer], system: "s" }).text).toContain("system");
  }
  for (const messages of [
    [answer, user],
    [user, user, answer],
    [user, tool, answer],
    [user, answer, system, answer],
  ]) {
    expect(() => encoder("mistral").encode({ messages })).toThrow(/have to take turns/);
  }
});
