// Small tokenizers of the two kinds that Llama models have, made here so that tests need no files from elsewhere.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TokenizerSettings } from "../../src/data/tokenizer-settings.ts";
import { temporaryFolder } from "../temporary.ts";

/** Of a tokenizer.json with no files beside it. */
export const NO_SETTINGS: TokenizerSettings = {
  bosToken: null,
  eosToken: null,
  bosIds: [],
  eosIds: [],
  addBos: null,
  isLlama: false,
  chatTemplate: null,
  chatTemplateFile: "tokenizer_config.json",
};

const WORDS =
  "the cat sat on the mat and then the hat was that of the other cat who had been there before them all " +
  "instruction response below user assistant hello world one two three four hello hello world world";

/** The most frequent pair first, until `count` merges are made: plain BPE training. */
function train(
  words: readonly string[],
  count: number,
): { merges: [string, string][]; symbols: Set<string> } {
  let split = words.map((word) => Array.from(word));
  const symbols = new Set(split.flat());
  const merges: [string, string][] = [];
  while (merges.length < count) {
    const pairs = new Map<string, number>();
    for (const word of split) {
      for (let i = 0; i + 1 < word.length; i++) {
        const pair = `${word[i]} ${word[i + 1]}`;
        pairs.set(pair, (pairs.get(pair) ?? 0) + 1);
      }
    }
    const best = [...pairs].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1))[0];
    if (best === undefined) break;
    const [left, right] = best[0].split(" ") as [string, string];
    merges.push([left, right]);
    symbols.add(left + right);
    split = split.map((word) => {
      const merged: string[] = [];
      for (let i = 0; i < word.length; i++) {
        const joins = word[i] === left && word[i + 1] === right;
        merged.push(joins ? left + right : word[i]!);
        if (joins) i++;
      }
      return merged;
    });
  }
  return { merges, symbols };
}

function special(id: number, content: string): object {
  return { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
}

/** Llama 2's kind: visible spaces, bytes for unknown characters. Ids 0 to 2 are `<unk>`, `<s>`, `</s>`. */
export function llamaTokenizerJson(): Record<string, unknown> {
  const { merges, symbols } = train([...WORDS.split(" ").map((word) => `▁${word}`), "▁▁▁▁"], 90);
  const bytes = Array.from({ length: 256 }, (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, "0")}>`);
  const tokens = ["<unk>", "<s>", "</s>", ...bytes, ...symbols];
  return {
    version: "1.0",
    added_tokens: [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "▁" },
        { type: "Replace", pattern: { String: " " }, content: "▁" },
      ],
    },
    pre_tokenizer: null,
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [],
      special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } },
    },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    model: {
      type: "BPE",
      unk_token: "<unk>",
      fuse_unk: true,
      byte_fallback: true,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
    },
  };
}

/** Llama 3's kind: a regular expression, then bytes as characters. Its special tokens come last. */
export function byteTokenizerJson(): Record<string, unknown> {
  const { merges, symbols } = train(
    WORDS.split(" ").map((word) => `Ġ${word}`),
    90,
  );
  const shown = Array.from({ length: 256 }, (_, i) => i).map((byte) => {
    const printable = (byte > 32 && byte < 127) || (byte > 160 && byte < 173) || byte > 173;
    return printable ? byte : -1;
  });
  let extra = 256;
  const bytes = shown.map((byte) => String.fromCharCode(byte >= 0 ? byte : extra++));
  const tokens = [...new Set([...bytes, ...symbols])];
  const names = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
  ];
  const split =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
  return {
    added_tokens: names.map((name, i) => special(tokens.length + i, name)),
    normalizer: null,
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: split }, behavior: "Isolated", invert: false },
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    post_processor: {
      type: "Sequence",
      processors: [
        { type: "ByteLevel", add_prefix_space: true, trim_offsets: false, use_regex: true },
        {
          type: "TemplateProcessing",
          single: [{ SpecialToken: { id: names[0], type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
          pair: [],
          special_tokens: { [names[0]!]: { id: names[0], ids: [tokens.length], tokens: [names[0]] } },
        },
      ],
    },
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      ignore_merges: true,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: merges.map(([left, right]) => `${left} ${right}`),
    },
  };
}

/** Llama 3's template, in short. */
export const HEADER_TEMPLATE =
  "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";

/** A folder of files, in the system's temporary folder; objects are written as JSON. */
export function folderOf(files: Record<string, unknown>): string {
  const dir = temporaryFolder("data-");
  for (const [name, content] of Object.entries(files)) {
    const bytes =
      typeof content === "string" || content instanceof Uint8Array ? content : JSON.stringify(content);
    writeFileSync(join(dir, name), bytes);
  }
  return dir;
}

export function llamaFolder(config: Record<string, unknown> = {}): string {
  return folderOf({
    "tokenizer.json": llamaTokenizerJson(),
    "tokenizer_config.json": {
      bos_token: "<s>",
      eos_token: { content: "</s>" },
      add_bos_token: true,
      ...config,
    },
  });
}

export function byteFolder(): string {
  return folderOf({
    "tokenizer.json": byteTokenizerJson(),
    "tokenizer_config.json": {
      bos_token: "<|begin_of_text|>",
      eos_token: "<|end_of_text|>",
      chat_template: HEADER_TEMPLATE,
    },
  });
}

/** A small generator of its own, so that fuzz tests are the same everywhere. */
export function randomIntegers(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}
