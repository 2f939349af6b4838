// Trains a small byte-pair encoding and writes it as a Hugging Face tokenizer of Llama 2's kind: spaces become ▁, one
// is put in front, what is in no piece falls back to bytes. Byte-pair encoding: arXiv 1508.07909, algorithm 1.

import { writeFileSync } from "node:fs";
import { join } from "node:path";

const SPACE = "▁";
const SPECIAL = ["<unk>", "<s>", "</s>"] as const;
export const bosId = 1;
export const eosId = 2;

const byteTokens = Array.from({ length: 256 }, (_, byte) => {
  return `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;
});

interface Word {
  pieces: string[];
  count: number;
}

/** Words with their space in front; digits, punctuation and line ends stand alone, so no piece spans two of them. */
function splitWords(texts: Iterable<string>): Word[] {
  const counts = new Map<string, number>();
  for (const text of texts) {
    for (const [word] of `${SPACE}${text.replaceAll(" ", SPACE)}`.matchAll(/▁?[A-Za-z]+|▁?[^A-Za-z]/g)) {
      counts.set(word, (counts.get(word) ?? 0) + 1);
    }
  }
  return [...counts].map(([word, count]) => ({ pieces: [...word], count }));
}

function mostFrequentPair(words: readonly Word[]): { left: string; right: string; count: number } | null {
  const counts = new Map<string, number>();
  for (const { pieces, count } of words) {
    for (let i = 1; i < pieces.length; i++) {
      const pair = `${pieces[i - 1]} ${pieces[i]}`;
      counts.set(pair, (counts.get(pair) ?? 0) + count);
    }
  }
  let best: string | null = null;
  let bestCount = 0;
  for (const [pair, count] of counts) {
    // Ties go by spelling, so that the result does not depend on the order of the texts.
    if (count > bestCount || (count === bestCount && best !== null && pair < best)) {
      best = pair;
      bestCount = count;
    }
  }
  if (best === null) return null;
  const [left, right] = best.split(" ") as [string, string];
  return { left, right, count: bestCount };
}

function merge(words: readonly Word[], left: string, right: string): void {
  for (const word of words) {
    for (let i = 1; i < word.pieces.length; i++) {
      if (word.pieces[i - 1] === left && word.pieces[i] === right) word.pieces.splice(i - 1, 2, left + right);
    }
  }
}

export interface TrainedTokenizer {
  vocab: Record<string, number>;
  merges: string[];
}

/** Learns merges from `texts` until the vocabulary has `size` entries or no pair comes twice. */
export function trainTokenizer(texts: Iterable<string>, size: number): TrainedTokenizer {
  const words = splitWords(texts);
  const characters = [...new Set(words.flatMap(({ pieces }) => pieces))].sort();
  const tokens = [...SPECIAL, ...byteTokens];
  const merges: string[] = [];
  const pieces: string[] = [];
  while (tokens.length + pieces.length + characters.length < size) {
    const pair = mostFrequentPair(words);
    if (pair === null || pair.count < 2) break;
    merge(words, pair.left, pair.right);
    merges.push(`${pair.left} ${pair.right}`);
    if (!pieces.includes(pair.left + pair.right)) pieces.push(pair.left + pair.right);
  }
  const all = [...tokens, ...pieces, ...characters];
  return { vocab: Object.fromEntries(all.map((token, id) => [token, id])), merges };
}

/** Writes tokenizer.json and tokenizer_config.json into `dir`. */
export function writeTokenizer(dir: string, { vocab, merges }: TrainedTokenizer): void {
  const addedToken = (content: string, id: number) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  });
  const bos = { SpecialToken: { id: "<s>", type_id: 0 } };
  const text = { Sequence: { id: "A", type_id: 0 } };
  const tokenizer = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: SPECIAL.map(addedToken),
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: SPACE },
        { type: "Replace", pattern: { String: " " }, content: SPACE },
      ],
    },
    pre_tokenizer: null,
    post_processor: {
      type: "TemplateProcessing",
      single: [bos, text],
      pair: [bos, text, { SpecialToken: { id: "<s>", type_id: 1 } }, { Sequence: { id: "B", type_id: 1 } }],
      special_tokens: { "<s>": { id: "<s>", ids: [bosId], tokens: ["<s>"] } },
    },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: SPACE }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: "<unk>",
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: true,
      vocab,
      merges,
    },
  };
  const config = {
    add_bos_token: true,
    add_eos_token: false,
    bos_token: "<s>",
    eos_token: "</s>",
    unk_token: "<unk>",
    pad_token: null,
    clean_up_tokenization_spaces: false,
    tokenizer_class: "PreTrainedTokenizerFast",
  };
  writeFileSync(join(dir, "tokenizer.json"), JSON.stringify(tokenizer));
  writeFileSync(join(dir, "tokenizer_config.json"), `${JSON.stringify(config, null, 2)}\n`);
}
