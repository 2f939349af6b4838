// The files of a Hugging Face model folder beside its weights.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { FormatError } from "../errors.ts";
import { type FloatDType, floatTypes } from "../floats.ts";
import { copyFileAtomically, ioError, writeTextAtomically } from "./io.ts";

export const CONFIG_FILE = "config.json";

/** As huggingface_hub splits models. */
export const MAX_SHARD_BYTES = 5e9;

/** What a changed copy of a model needs as well, config.json apart. */
export const COMPANIONS: readonly string[] = [
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "tokenizer.model",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "chat_template.jinja",
  "chat_template.json",
];

/** Copies those of the files that are there from one model's folder to another. Returns their names. */
export function copyPresent(from: string, to: string, names: readonly string[]): string[] {
  return names.filter((name) => {
    try {
      if (!existsSync(join(from, name))) return false;
      copyFileAtomically(join(from, name), join(to, name));
      return true;
    } catch (error) {
      throw ioError(join(to, name), "written", error);
    }
  });
}

type Json = Record<string, unknown>;

// TypeScript's library does not have these yet (ECMA proposal "JSON.parse source text access").
const { rawJSON } = JSON as unknown as { rawJSON(text: string): unknown };

/** A number for copyConfig that keeps its text: Transformers takes no 6 where it expects 6.0. */
export const numberText = (text: string): unknown => rawJSON(text);

type Reviver = (key: string, value: unknown, context?: { source?: string }) => unknown;

/** A config.json changed to say how the weights beside it are stored: their dtype (null: as it says) and whether the head is tied. */
export function withWeights(
  config: Json,
  { dtype, isTied }: { dtype: FloatDType | null; isTied: boolean },
): Json {
  const changed: Json = { ...config };
  if (changed.tie_word_embeddings === true && !isTied) changed.tie_word_embeddings = false;
  if (dtype === null) return changed;
  const keys = ["dtype", "torch_dtype"].filter((key) => Object.hasOwn(config, key));
  for (const key of keys.length > 0 ? keys : ["torch_dtype"]) changed[key] = floatTypes[dtype].torch;
  return changed;
}

/** Writes a copy of a folder's config.json with other fields; numbers keep their text (0.0, 1e-05). */
export function copyConfig(from: string, to: string, change: (config: Json) => Json): void {
  const path = join(from, CONFIG_FILE);
  const keepText: Reviver = (_, value, context) =>
    typeof value === "number" && context?.source !== undefined ? rawJSON(context.source) : value;
  let config: Json;
  try {
    config = JSON.parse(readFileSync(path, "utf8"), keepText as (key: string, value: unknown) => unknown);
  } catch (cause) {
    if (cause instanceof SyntaxError) throw new FormatError(path, "is not valid JSON", { cause });
    throw ioError(path, "read", cause);
  }
  writeTextAtomically(join(to, CONFIG_FILE), `${JSON.stringify(change(config), null, 2)}\n`);
}
