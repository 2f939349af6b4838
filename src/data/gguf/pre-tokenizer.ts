// llama.cpp splits text before BPE by rules that it knows by name. Its converters find the name by the ids of one text; a
// tokenizer that they do not know, such as one with more tokens, has the rules of its regular expression all the same.

import { FormatError } from "../../errors.ts";
import { flattened, type Part, partOf } from "../tokenizer/part.ts";
import type { Tokenizer } from "../tokenizer.ts";

/** The text whose ids llama.cpp's converters know tokenizers by: a protocol between them and llama.cpp. */
const PROBE =
  "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u200d🌫️ (multiple emojis concatenated) ✅ 🦙🦙 3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～ ------======= нещо на Български ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL";

/** First digits of the SHA-256 of those ids, written as Python writes a list. */
const byIds: Readonly<Record<string, string>> = {
  "0ef9807a4087ebef": "llama-bpe",
  e636dc30a262dcc0: "qwen2",
  "855059429035d75a": "smollm",
  "63b97e4253352e6f": "tekken",
  "0e9433cbbb161f89": "pixtral",
  "049ecf7629871e30": "deepseek-llm",
  "347715f544604f91": "deepseek-coder",
  b3f499bb4255f8ca: "deepseek-r1-qwen",
  "3ce83efda5659b07": "gpt-2",
  "35d91631860c815f": "starcoder",
  "6221ad2852e85ce9": "refact",
  "9d032fcbd5501f4a": "falcon3",
  c136ed14d01c2745: "smaug-bpe",
  d4c8f286ea6b520b: "megrez",
  d5f1dd6f980fec56: "seed-coder",
  "1431a23e583c9743": "minerva-7b",
  a1e163ecab2e718a: "mellum",
  "7dec86086fcc38b6": "superbpe",
  "1994ffd01900cfb3": "trillion",
  "862f827721df9560": "f2llmv2",
  "4a2e2abae11ca2b8": "kormo",
};

const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const words = "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+";
const rest = " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const upper = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]";
const lower = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]";

/** The regular expressions of Split, each before bytes. */
const byRegex: Readonly<Record<string, string>> = {
  [`${contractions}|${words}|\\p{N}{1,3}|${rest}`]: "llama-bpe",
  [`${contractions}|${words}|\\p{N}|${rest}`]: "qwen2",
  [`[^\\r\\n\\p{L}\\p{N}]?${upper}*${lower}+|[^\\r\\n\\p{L}\\p{N}]?${upper}+${lower}*|\\p{N}|${rest.replace("[\\r\\n]*", "[\\r\\n/]*")}`]:
    "tekken",
};

/** `json`: a tokenizer.json. Throws FormatError where llama.cpp has no such rules. */
export function preTokenizerName(json: Part, tokenizer: Tokenizer, path: string): string {
  const ids = [...tokenizer.encode(PROBE, { addBos: true })];
  const known = byIds[digest(`[${ids.join(", ")}]`).slice(0, 16)] ?? byRules(json.pre_tokenizer);
  if (known !== null) return known;
  throw new FormatError(
    path,
    "splits text by rules that llama.cpp does not have (pre_tokenizer); GGUF takes those of Llama 3, Qwen2, Mistral's Tekken, GPT-2 and SmolLM",
  );
}

const digest = (text: string) => new Bun.CryptoHasher("sha256").update(text).digest("hex");

function byRules(preTokenizer: unknown): string | null {
  const parts = flattened(partOf(preTokenizer, "pre_tokenizer"), "pretokenizers", "pre_tokenizer");
  const bytes = parts.at(-1);
  if (bytes?.type !== "ByteLevel" || bytes.add_prefix_space === true) return null;
  const [first, second] = parts;
  const splitsWords = bytes.use_regex !== false;
  if (parts.length === 1) return splitsWords ? "gpt-2" : null;
  if (second !== bytes || first === undefined) return null;
  if (first.type === "Digits") return splitsWords && first.individual_digits === true ? "smollm" : null;
  const regex = (first.pattern as Part | undefined)?.Regex;
  const isPlain = first.type === "Split" && first.behavior === "Isolated" && first.invert !== true;
  return isPlain && !splitsWords && typeof regex === "string" ? (byRegex[regex] ?? null) : null;
}
