// Llama 2's chat template: what is trained, and what the model is asked with.

import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Encoder, type EncoderOptions } from "../../src/data/encode.ts";
import { promptTemplate } from "../../src/data/templates.ts";
import { Tokenizer } from "../../src/data/tokenizer.ts";
import { llamaFolder } from "./tiny-tokenizer.ts";

const SHARED = join(import.meta.dir, "../../../shared");
const REFERENCE = join(SHARED, "reference/chat.json");
const tiny = Tokenizer.load(llamaFolder());

function encoder(tokenizer: Tokenizer, template: EncoderOptions["template"]): Encoder {
  return new Encoder(tokenizer, { template, maxLength: null, parseSpecial: false, vocabSize: null });
}

type Message = { role: "system" | "user" | "assistant"; content: string };
const system: Message = { role: "system", content: "Be brief.\nBe kind." };
const user = (content: string): Message => ({ role: "user", content });
const assistant = (content: string): Message => ({ role: "assistant", content });

describe("--prompt-template llama2", () => {
  const llama2 = encoder(tiny, promptTemplate("llama2"));

  test("several turns behind a system message, trimmed; each answer and its EOS is trained", () => {
    const messages = [system, user(" hello "), assistant(" world\n"), user("the cat?"), assistant("sat")];
    const { text, ids, labels } = llama2.encode({ messages });
    expect(text).toBe(
      "<s>[INST] <<SYS>>\nBe brief.\nBe kind.\n<</SYS>>\n\n hello [/INST] world </s><s>[INST] the cat? [/INST] sat </s>",
    );
    expect(tiny.decode(labels.filter((label) => label !== -100))).toBe("world </s> sat </s>");
    expect(Array.from(ids).filter((id) => id === tiny.bosId).length).toBe(2);
  });

  test("a prompt ends behind the last [/INST]: the first tokens of what is trained", () => {
    const asked = [system, user("hello"), assistant("world"), user("the cat?")];
    const whole = llama2.encode({ messages: [...asked, assistant("sat")] });
    for (const messages of [asked, [...asked, assistant("sat")]]) {
      const { text, ids } = llama2.encodePrompt({ messages });
      expect(text).toEndWith(" world </s><s>[INST] the cat? [/INST]");
      expect(Array.from(ids)).toEqual(Array.from(whole.ids.slice(0, ids.length)));
      expect(whole.labels[ids.length - 1]).toBe(-100);
      expect(whole.labels[ids.length]).toBe(whole.ids[ids.length]!);
    }
  });

  test("rows of other formats are asked as one question", () => {
    expect(llama2.encodePrompt({ prompt: "hello" }).text).toBe("<s>[INST] hello [/INST]");
    const row = { instruction: "the cat", input: "the mat", output: "sat" };
    expect(llama2.encode(row).text).toBe("<s>[INST] the cat\n\nthe mat [/INST] sat </s>");
  });

  test("what the model was not trained on is refused", () => {
    const rows = [
      [assistant("a"), user("b")],
      [user("a"), user("b"), assistant("c")],
      [user("a"), assistant("b"), system, assistant("c")],
      [user("a"), system],
    ];
    for (const messages of rows) {
      expect(() => llama2.encode({ messages })).toThrow(/user and assistant have to take turns/);
    }
  });
});

describe.skipIf(!existsSync(REFERENCE))("against Transformers (skipped where ../shared is absent)", () => {
  const reference = existsSync(REFERENCE)
    ? (JSON.parse(readFileSync(REFERENCE, "utf8")) as {
        tokenizer: string;
        template: string;
        conversations: { messages: Message[]; text: string; ids: number[]; labels: number[] }[];
      })
    : { tokenizer: "", template: "", conversations: [] };
  const load = () => Tokenizer.load(join(SHARED, reference.tokenizer));
  const templates: [string, EncoderOptions["template"]][] = [
    ["the template of its tokenizer", { kind: "file", path: "chat", source: reference.template }],
    ["llama2", { kind: "llama2" }],
  ];

  for (const [name, template] of templates) {
    test(`${name}: text, ids and labels of training, and prompts for generation`, () => {
      const llama2 = encoder(load(), template);
      expect(reference.conversations.length).toBe(5);
      for (const { messages, text, ids, labels } of reference.conversations) {
        const sample = llama2.encode({ messages });
        expect(sample.text).toBe(text);
        expect(Array.from(sample.ids)).toEqual(ids);
        expect(Array.from(sample.labels)).toEqual(labels);
        // every turn as it would be asked, the turns before it answered
        let answered = 0;
        messages.forEach(({ role }, k) => {
          if (role !== "assistant") return;
          const begin = labels.findIndex((label, i) => i >= answered && label !== -100);
          const prompt = llama2.encodePrompt({ messages: messages.slice(0, k + 1) });
          expect(Array.from(prompt.ids)).toEqual(ids.slice(0, begin));
          expect(text.startsWith(prompt.text)).toBe(true);
          answered = labels.indexOf(-100, begin);
        });
      }
    });
  }
});
