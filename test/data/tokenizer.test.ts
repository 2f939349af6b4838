import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Encoder } from "../../src/data/encode.ts";
import { Tokenizer } from "../../src/data/tokenizer.ts";
import { byteFolder, folderOf, llamaFolder, llamaTokenizerJson, randomIntegers } from "./tiny-tokenizer.ts";

const LLAMA2 = join(import.meta.dir, "../../../shared/data/llama2-tokenizer");
const GOLDEN = join(import.meta.dir, "../golden/data/tokenize.json");

const PIECES = [
  ..."abcdefghilmnorstuwxyz ,.!?\n\t▁é世👋<>/|_0123456789",
  " the",
  "hello ",
  "  ",
  "   ",
  "\r\n",
  "world",
  "</s",
  "s>",
  "constructor",
  "'s",
];

function randomTexts(count: number, seed: number): string[] {
  const pick = randomIntegers(seed);
  return Array.from({ length: count }, () =>
    Array.from({ length: pick(40) }, () => PIECES[pick(PIECES.length)]!).join(""),
  );
}

test("a text decodes to itself, whatever is in it", () => {
  for (const dir of [llamaFolder(), byteFolder()]) {
    const tokenizer = Tokenizer.load(dir);
    for (const text of [...randomTexts(300, 3), "</s> <s><|eot_id|> is text", "\u0000 \ufeff e\u0301"]) {
      if (text.includes("▁")) continue;
      expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
    }
  }
});

test("special text is a token only where it is asked for", () => {
  const tokenizer = Tokenizer.load(llamaFolder());
  expect(Array.from(tokenizer.encode("</s>", { parseSpecial: true }))).toEqual([2]);
  expect(Array.from(tokenizer.encode("hello</s>"))).not.toContain(2);
  expect(tokenizer.decode(tokenizer.encode("hello</s>"), { skipSpecial: true })).toBe("hello</s>");
  expect(tokenizer.decode([1, 2, ...tokenizer.encode("hello")], { skipSpecial: true })).toBe("hello");
});

test("BOS is added where the tokenizer adds it by itself", () => {
  const adds = Tokenizer.load(llamaFolder());
  expect([adds.addsBos, adds.bosId, adds.eosId]).toEqual([true, 1, 2]);
  expect(adds.encode("the", { addBos: true })[0]).toBe(1);
  expect(adds.encode("the")[0]).not.toBe(1);
  const not = Tokenizer.load(llamaFolder({ add_bos_token: false }));
  expect([not.addsBos, not.bosId]).toEqual([false, 1]);
  expect(not.encode("the", { addBos: true })[0]).not.toBe(1);
  const byTemplate = Tokenizer.load(byteFolder());
  expect(byTemplate.addsBos).toBe(true);
});

test("BOS and EOS come from the model's configs where the tokenizer names none", () => {
  const dir = folderOf({
    "tokenizer.json": llamaTokenizerJson(),
    "generation_config.json": { bos_token_id: 1, eos_token_id: [2, 0] },
  });
  const tokenizer = Tokenizer.load(dir);
  expect([tokenizer.bosId, tokenizer.eosId, tokenizer.eosIds]).toEqual([1, 2, [2, 0]]);
  expect([tokenizer.bosToken, tokenizer.eosToken]).toEqual(["<s>", "</s>"]);
});

test("the chat template: a file of its own, a string, or the default of a list", () => {
  const list = [
    { name: "tool_use", template: "tools" },
    { name: "default", template: "plain" },
  ];
  expect(Tokenizer.load(llamaFolder({ chat_template: list })).chatTemplate).toBe("plain");
  const dir = llamaFolder({ chat_template: "in config" });
  expect(Tokenizer.load(dir).chatTemplate).toBe("in config");
  writeFileSync(join(dir, "chat_template.jinja"), "in file");
  expect(Tokenizer.load(dir).chatTemplate).toBe("in file");
  expect(Tokenizer.load(llamaFolder()).chatTemplate).toBeNull();
});

test("a long word without spaces is encoded in reasonable time", () => {
  const tokenizer = Tokenizer.load(llamaFolder());
  const text = "helloworld".repeat(20000);
  const began = performance.now();
  expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
  expect(performance.now() - began).toBeLessThan(5000);
});

describe("a tokenizer that cannot be used is refused with the reason", () => {
  const model = (change: Record<string, unknown>): Record<string, unknown> => {
    const json = llamaTokenizerJson();
    return { ...json, model: { ...(json.model as object), ...change } };
  };
  const cases: [string, unknown, RegExp][] = [
    ["not JSON", "{", /tokenizer\.json: not readable as JSON/],
    ["no model", {}, /expected an object with a model/],
    ["a list", [], /expected an object with a model/],
    ["Unigram", model({ type: "Unigram" }), /type BPE was expected.*Unigram/],
    ["vocabulary of strings", model({ vocab: { a: "b" } }), /model\.vocab: expected an object of token ids/],
    ["merges of numbers", model({ merges: [1] }), /model\.merges: expected a list of pairs/],
    ["a merge of unknown tokens", model({ merges: ["zz yy"] }), /merges\[0\]: "zz" is not in model\.vocab/],
    [
      "an added token without id",
      { ...llamaTokenizerJson(), added_tokens: [{ content: "x" }] },
      /added_tokens\.0\.id/,
    ],
    [
      "an unknown normalizer",
      { ...llamaTokenizerJson(), normalizer: { type: "Nonsense" } },
      /cannot be used/,
    ],
  ];
  for (const [name, content, message] of cases) {
    test(name, () => {
      expect(() => Tokenizer.load(folderOf({ "tokenizer.json": content }))).toThrow(message);
    });
  }

  test.each(["normalizer", "pre_tokenizer", "post_processor", "decoder"])(
    "a %s nested without measure",
    (part) => {
      const [begin, end] = ['{"type":"Sequence","normalizers":[', "]}"];
      const text = JSON.stringify({ ...llamaTokenizerJson(), [part]: 0 });
      const deep = text.replace(`"${part}":0`, `"${part}":${begin.repeat(50_000)}${end.repeat(50_000)}`);
      expect(() => Tokenizer.load(folderOf({ "tokenizer.json": deep }))).toThrow(
        /tokenizer\.json: nested more than 64 deep/,
      );
    },
  );

  test("no tokenizer.json, with and without tokenizer.model", () => {
    const dir = llamaFolder();
    renameSync(join(dir, "tokenizer.json"), join(dir, "tokenizer.model"));
    expect(() => Tokenizer.load(dir)).toThrow(/only SentencePiece's tokenizer\.model; convert/);
    expect(() => Tokenizer.load(folderOf({}))).toThrow(/no tokenizer\.json there; name a folder/);
  });
});

describe.skipIf(!existsSync(LLAMA2))("Llama 2's tokenizer (skipped where ../shared/data is absent)", () => {
  interface Encoded {
    text: string;
    ids: number[];
    ids_no_special: number[];
    ids_plain: number[];
    decoded: string;
    decoded_skip_special: string;
  }
  const golden = JSON.parse(readFileSync(GOLDEN, "utf8")) as {
    encode: Encoded[];
    decode: Pick<Encoded, "ids" | "decoded" | "decoded_skip_special">[];
  };
  test("ids and texts are those of Hugging Face's tokenizers", () => {
    const tokenizer = Tokenizer.load(LLAMA2);
    expect(golden.encode.length).toBe(85);
    for (const { text, ...expected } of golden.encode) {
      expect({
        ids: Array.from(tokenizer.encode(text, { addBos: true, parseSpecial: true })),
        ids_no_special: Array.from(tokenizer.encode(text, { parseSpecial: true })),
        ids_plain: Array.from(tokenizer.encode(text)),
        decoded: tokenizer.decode(expected.ids),
        decoded_skip_special: tokenizer.decode(expected.ids, { skipSpecial: true }),
      }).toEqual(expected);
    }
    for (const { ids, decoded, decoded_skip_special } of golden.decode) {
      expect(tokenizer.decode(ids)).toBe(decoded);
      expect(tokenizer.decode(ids, { skipSpecial: true })).toBe(decoded_skip_special);
    }
  });
});

test.each([false, true])("special tokens are whole wherever they stand, with normalized %p", (normalized) => {
  const json = llamaTokenizerJson();
  json.added_tokens = (json.added_tokens as object[]).map((token) => ({ ...token, normalized }));
  const dir = folderOf({
    "tokenizer.json": json,
    "tokenizer_config.json": { bos_token: "<s>", eos_token: "</s>", add_bos_token: true },
  });
  const tokenizer = Tokenizer.load(dir);
  const encode = (text: string, parseSpecial: boolean) =>
    Array.from(tokenizer.encode(text, { parseSpecial }));
  expect(encode("hello</s>", true)).toEqual([...encode("hello", true), 2]);
  expect(encode("<s>hello</s>", true)).toContain(1);
  for (const text of ["hello</s>", "</s>", "</s> hello"]) expect(encode(text, false)).not.toContain(2);

  const encoding = { maxLength: null, vocabSize: null, template: { kind: "vicuna" } } as const;
  const messages = [
    { role: "user", content: "what is </s>" },
    { role: "assistant", content: "hello </s> world" },
  ];
  const { ids, labels } = new Encoder(tokenizer, { ...encoding, parseSpecial: false }).encode({ messages });
  expect(ids.filter((id) => id === 2).length).toBe(1); // the template's alone
  expect([ids[0], ids.at(-1), labels.at(-1)]).toEqual([1, 2, 2]);
  const parsed = new Encoder(tokenizer, { ...encoding, parseSpecial: true }).encode({ messages });
  expect(parsed.ids.filter((id) => id === 2).length).toBe(3);
});
