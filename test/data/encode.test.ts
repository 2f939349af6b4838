import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { alpacaPrompt } from "../../src/data/alpaca.ts";
import type { EncoderOptions } from "../../src/data/encode.ts";
import { previewParts } from "../../src/data/preview.ts";
import { promptTemplate } from "../../src/data/templates.ts";
import { Tokenizer } from "../../src/data/tokenizer.ts";
import { encoder, jinja } from "./encoders.ts";
import { byteFolder, folderOf, llamaFolder } from "./tiny-tokenizer.ts";

const SHARED = join(import.meta.dir, "../../../shared/data");
const llama = Tokenizer.load(llamaFolder());
const bytes = Tokenizer.load(byteFolder());

function learned(tokenizer: Tokenizer, labels: Int32Array): string {
  return tokenizer.decode(labels.filter((label) => label !== -100));
}
/** The trained stretches of a row's text. */
function trained(tokenizer: Tokenizer, row: unknown, options: Partial<EncoderOptions> = {}): string[] {
  const sample = encoder(tokenizer, options).encode(row);
  const parts = previewParts(tokenizer, sample);
  expect(parts.map((part) => part.text).join("")).toBe(tokenizer.decode(sample.ids));
  return parts.filter((part) => part.trained).map((part) => part.text);
}
function talk(...contents: string[]): { messages: { role: string; content: string }[] } {
  return { messages: contents.map((content, i) => ({ role: i % 2 === 0 ? "user" : "assistant", content })) };
}

describe("prompt and completion", () => {
  test("one text with BOS and EOS; as many labels masked as the prompt alone has tokens", () => {
    const { ids, labels, text } = encoder(llama).encode({ prompt: "hello", completion: " world" });
    expect(text).toBe("hello world");
    expect(Array.from(ids)).toEqual([1, ...llama.encode("hello world"), 2]);
    const masked = 1 + llama.encode("hello").length;
    expect(Array.from(labels)).toEqual([...Array(masked).fill(-100), ...ids.slice(masked)]);
    expect(labels.at(-1)).toBe(2);
  });

  test("alpaca's prompt, with and without input", () => {
    const row = { instruction: "the cat", input: "the mat", output: "sat" };
    expect(encoder(llama).encode(row).text).toBe(`${alpacaPrompt("the cat", "the mat")}sat`);
    expect(alpacaPrompt("I", "X")).toEndWith(
      "request.\n\n### Instruction:\nI\n\n### Input:\nX\n\n### Response:",
    );
    expect(alpacaPrompt("I", "")).toBe(
      "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nI\n\n### Response:",
    );
    const prompt = encoder(llama).encodePrompt(row);
    expect(prompt.text).toBe(alpacaPrompt("the cat", "the mat"));
    expect(prompt.ids).toEqual(encoder(llama).encode(row).ids.slice(0, prompt.ids.length));
  });

  test("special text in data is text, unless it is to be parsed; BOS is never doubled", () => {
    const row = { prompt: "<s>a</s>", completion: "b" };
    const plain = encoder(llama).encode(row);
    expect(Array.from(plain.ids).filter((id) => id < 3)).toEqual([1, 2]);
    const parsed = encoder(llama, { parseSpecial: true }).encode(row);
    expect(Array.from(parsed.ids).filter((id) => id < 3)).toEqual([1, 2, 2]);
  });

  test("a text is all target; rows of tokens stay as they are", () => {
    const { ids, labels } = encoder(llama).encode({ text: "the cat" });
    expect(Array.from(ids)).toEqual([1, ...llama.encode("the cat"), 2]);
    expect(labels).toEqual(ids);
    const tokens = encoder(llama).encode({ input_ids: [7, 8, 9], labels: [-100, 5, 9] });
    expect([Array.from(tokens.ids), Array.from(tokens.labels)]).toEqual([
      [7, 8, 9],
      [-100, 5, 9],
    ]);
    expect(Array.from(encoder(llama).encode({ input_ids: [7, 8] }).labels)).toEqual([7, 8]);
    expect(Array.from(encoder(llama).encodePrompt({ input_ids: [7, 8] }).ids)).toEqual([7, 8]);
    expect(Array.from(encoder(llama).encodePrompt({ text: "the" }).ids)).toEqual([1, ...llama.encode("the")]);
  });

  test("longer samples are cut, and say so", () => {
    const whole = encoder(llama).encode({ text: "the cat sat on the mat" });
    const cut = encoder(llama, { maxLength: 4 }).encode({ text: "the cat sat on the mat" });
    expect([cut.ids, cut.labels, cut.truncated]).toEqual([
      whole.ids.slice(0, 4),
      whole.labels.slice(0, 4),
      true,
    ]);
    const exact = encoder(llama, { maxLength: whole.ids.length }).encode({ text: "the cat sat on the mat" });
    expect(exact.truncated).toBe(false);
    expect(() => encoder(llama, { maxLength: 0 })).toThrow(/max length: expected an integer of at least 1/);
  });

  test("a text of more than 2^24 characters is a bad row, as sample and as prompt", () => {
    const text = "a".repeat(2 ** 24 - 10);
    const reason = /text has 16777217 characters, and a row's may have 16777216 at most/;
    expect(() => encoder(llama).encode({ text: `${text}01234567890` })).toThrow(reason);
    expect(() => encoder(llama).encode({ prompt: text, completion: "01234567890" })).toThrow(reason);
    expect(() => encoder(llama).encodePrompt({ prompt: `${text}01234567890` })).toThrow(reason);
  });

  test("a model may have more ids than its tokenizer", () => {
    const row = { input_ids: [llama.vocabSize] };
    expect(() => encoder(llama).encode(row)).toThrow(/input_ids\[0\]/);
    expect(encoder(llama, { vocabSize: llama.vocabSize + 1 }).encode(row).ids.length).toBe(1);
  });
});

describe("conversations", () => {
  test("headers are no targets, answers and their end-of-turn tokens are", () => {
    const row = talk("hello", " world ", "the cat?", "sat 世👋");
    expect(trained(bytes, row)).toEqual(["world<|eot_id|>", "sat 世👋<|eot_id|>"]);
    const { ids, labels } = encoder(bytes).encode(row);
    expect(ids.filter((id) => id === bytes.bosId).length).toBe(1);
    expect(labels[0]).toBe(-100);
  });

  test("a line feed after the end-of-turn token belongs to nobody", () => {
    const chatml =
      "{% for m in messages %}{{ '<s>' + m['role'] + '\\n' + m['content'] + '</s>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}";
    expect(trained(llama, talk("hello", "world", "the", "cat"), { template: jinja(chatml) })).toEqual([
      "world</s>",
      "cat</s>",
    ]);
  });

  test("special text in messages is text, the template's own is special", () => {
    const nasty = "a <|eot_id|><|end_of_text|> b <|<|eot_id|>eot_id|>";
    const { ids, labels, text } = encoder(bytes).encode(talk(nasty, nasty));
    expect(text).toContain(nasty);
    expect(ids.filter((id) => id === bytes.encode("<|eot_id|>", { parseSpecial: true })[0]).length).toBe(2);
    expect(bytes.decode(ids)).toBe(text);
    expect(learned(bytes, labels)).toBe(`${nasty}<|eot_id|>`);
    const parsed = encoder(bytes, { parseSpecial: true }).encode(talk("a<|eot_id|>", "b"));
    expect(
      parsed.ids.filter((id) => id === bytes.encode("<|eot_id|>", { parseSpecial: true })[0]).length,
    ).toBe(3);
  });

  test("without a chat template: Vicuna's, the space before an answer being the answer's", () => {
    const { text, labels } = encoder(llama).encode(talk("hello", "world", "the", "cat"));
    expect(text).toStartWith("<s>A chat between a curious user and an artificial intelligence assistant.");
    expect(text).toEndWith("questions. USER: hello ASSISTANT: world</s>USER: the ASSISTANT: cat</s>");
    expect(learned(llama, labels)).toBe("world</s> cat</s>");
    const system = { messages: [{ role: "system", content: "the mat" }, ...talk("hello", "world").messages] };
    expect(encoder(llama).encode(system).text).toBe("<s>the mat USER: hello ASSISTANT: world</s>");
  });

  test("a template that changes earlier turns: the edges come from what varies with the answer", () => {
    const forgetful =
      "{{ bos_token }}{% for m in messages %}{% if loop.last and m['role'] == 'assistant' %}{{ ' last:' }}{% endif %}{{ '[' + m['role'] + '] ' + m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}";
    expect(trained(llama, talk("hello", "world", "the", "cat"), { template: jinja(forgetful) })).toEqual([
      " world</s>",
      " cat</s>",
    ]);
  });

  test("BOS is put before a rendering that lacks it, where the tokenizer adds one", () => {
    const bare = jinja("{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}");
    expect(
      Array.from(encoder(llama, { template: bare }).encode(talk("the", "cat")).ids).filter((id) => id === 1),
    ).toEqual([1]);
    const without = Tokenizer.load(llamaFolder({ add_bos_token: false }));
    expect(encoder(without, { template: bare }).encode(talk("the", "cat")).ids).not.toContain(1);
  });

  test("prompts end with the header of the answer", () => {
    const asked = encoder(bytes).encodePrompt(talk("hello", "world", "the", "cat"));
    expect(asked.text).toEndWith("the<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n");
    expect(asked.text).toContain("world");
    const whole = encoder(bytes).encode(talk("hello", "world", "the", "cat")).ids;
    expect(Array.from(whole.slice(0, asked.ids.length))).toEqual(Array.from(asked.ids));
    expect(encoder(bytes).encodePrompt(talk("hello")).text).toEndWith("assistant<|end_header_id|>\n\n");
    const alone = { messages: [{ role: "assistant", content: "x" }] };
    expect(() => encoder(bytes).encodePrompt(alone)).toThrow(/nothing before the assistant/);
  });

  test("what a template refuses is a bad row with the template's words", () => {
    const strict = jinja("{% for m in messages %}{{ raise_exception('roles must alternate') }}{% endfor %}");
    expect(() => encoder(llama, { template: strict }).encode(talk("a", "b"))).toThrow(
      /the chat template refuses this conversation: roles must alternate/,
    );
  });
});

describe("--prompt-template", () => {
  test("chat and vicuna take any row as a conversation, alpaca takes single turns", () => {
    const row = { instruction: "the cat", input: "the mat", output: "sat" };
    expect(encoder(bytes, { template: { kind: "chat" } }).encode(row).text).toContain(
      "the cat\n\nthe mat<|eot_id|>",
    );
    const pair = { prompt: "hello", completion: "world" };
    expect(encoder(bytes, { template: { kind: "vicuna" } }).encode(pair).text).toContain(
      "USER: hello ASSISTANT: world",
    );
    const alpaca = encoder(bytes, { template: { kind: "alpaca" } });
    expect(alpaca.encode(pair).text).toBe(`${alpacaPrompt("hello", "")}world`);
    expect(alpaca.encode(talk("hello", "world")).text).toBe(`${alpacaPrompt("hello", "")}world`);
    expect(() => alpaca.encode(talk("a", "b", "c", "d"))).toThrow(/takes one user and one assistant message/);
  });

  test("what cannot be used is refused", () => {
    expect(() => encoder(llama, { template: { kind: "chat" } })).toThrow(
      /has no chat template; use vicuna, llama2/,
    );
    const wanted = "expected alpaca, chat, vicuna, llama2, llama3, chatml, mistral or a Jinja file";
    expect(() => promptTemplate("vicunna")).toThrow(`${wanted} (no such file)`);
    expect(() => promptTemplate(import.meta.dir)).toThrow(`${wanted} (it is a folder)`);
    const dir = folderOf({ "bad.jinja": "{% for %}", "good.jinja": "{{ bos_token }}" });
    expect(() => promptTemplate(join(dir, "bad.jinja"))).toThrow(/bad\.jinja: not a Jinja template/);
    expect(promptTemplate(join(dir, "good.jinja"))).toMatchObject({
      kind: "file",
      source: "{{ bos_token }}",
    });
    expect(promptTemplate(undefined)).toEqual({ kind: "auto" });
  });
});

describe.skipIf(!existsSync(SHARED))("against Transformers (skipped where ../shared/data is absent)", () => {
  const golden = (name: string): unknown =>
    JSON.parse(readFileSync(join(import.meta.dir, "../golden/data", name), "utf8"));
  const sha = (values: ArrayLike<number> | string): string =>
    new Bun.CryptoHasher("sha256")
      .update(typeof values === "string" ? values : Array.from(values).join(","))
      .digest("hex");
  const read = (name: string): unknown[] => JSON.parse(readFileSync(join(SHARED, name), "utf8")) as unknown[];

  test("Stanford's rows, cut to 512", () => {
    const { max_length, rows } = golden("alpaca.json") as {
      max_length: number;
      rows: { row: number; tokens: number; masked: number; ids_sha256: string; labels_sha256: string }[];
    };
    const data = read("alpaca_9k.json");
    const llama2 = encoder(Tokenizer.load(join(SHARED, "llama2-tokenizer")), { maxLength: max_length });
    expect(rows.length).toBe(20);
    for (const expected of rows) {
      const { ids, labels } = llama2.encode(data[expected.row]);
      expect({
        row: expected.row,
        tokens: ids.length,
        masked: labels.filter((label) => label === -100).length,
        ids_sha256: sha(ids),
        labels_sha256: sha(labels),
      }).toEqual(expected);
    }
  });

  test("Llama 2's chat template", () => {
    const { template, conversations } = golden("chat.json") as {
      template: string;
      conversations: {
        id: string;
        system: string | null;
        tokens: number;
        targets: number;
        ids_sha256: string;
        labels_sha256: string;
        text_sha256: string;
      }[];
    };
    const data = read("sharegpt_dummy.json") as { id: string; conversations: object[] }[];
    const llama2 = encoder(Tokenizer.load(join(SHARED, "llama2-tokenizer")), { template: jinja(template) });
    expect(conversations.length).toBe(5);
    for (const { id, system, ...expected } of conversations) {
      const row = data.find((one) => one.id === id)!;
      const turns = system === null ? [] : [{ from: "system", value: system }];
      const { ids, labels, text } = llama2.encode({ conversations: [...turns, ...row.conversations] });
      expect({
        tokens: ids.length,
        targets: labels.filter((label) => label !== -100).length,
        ids_sha256: sha(ids),
        labels_sha256: sha(labels),
        text_sha256: sha(text),
      }).toEqual(expected);
    }
  });
});
