// Which files of a repository a run needs.

import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { NeftuneError } from "../../errors.ts";
import { INDEX_FILE, isPickle, SINGLE_FILE, shardsOf } from "../checkpoint.ts";

/** `text`: config and tokenizer, for what reads no weights. */
export type ModelNeed = "text" | "weights";

const requiredText = ["config.json", "tokenizer.json"];
/** Of the small files the last to be downloaded: a snapshot that has it has the others. */
const LAST_TEXT = "tokenizer.json";
const smallFiles =
  /^(?:config\.json|generation_config\.json|(?:added_|special_)?tokens(?:_map)?\.json|tokenizer[\w.-]*\.(?:json|model)|chat_template\.(?:jinja|json)|additional_chat_templates\/[\w.-]+\.jinja)$/;

/** The small files of a model; the one whose presence says that the others are there comes apart. */
export function modelTextFiles(names: readonly string[]): { first: string[]; last: string[] } {
  const small = names.filter((name) => smallFiles.test(name));
  return {
    first: small.filter((name) => name !== LAST_TEXT),
    last: small.filter((name) => name === LAST_TEXT),
  };
}

/** model.safetensors, or the index, whose shards `shardsOf` reads once it is there. Throws NeftuneError for a model without. */
export function modelWeightFile(id: string, names: readonly string[]): string {
  for (const name of [SINGLE_FILE, INDEX_FILE]) if (names.includes(name)) return name;
  const pickled = names.filter(isPickle);
  if (pickled.length > 0) {
    throw new NeftuneError(
      "no_safetensors",
      `${id} has its weights as ${pickled.slice(0, 3).join(", ")} alone. Such files are Python programs that run when they are read, so neftune does not download them; choose a repository with safetensors (the Hub's own converter opens a pull request with them: try ${id}@refs/pr/1), or convert it on a machine where you trust the file`,
    );
  }
  const others = names.filter((name) => /\.(?:safetensors|gguf)$/.test(name));
  const found = others.length > 0 ? `; it has ${others.slice(0, 3).join(", ")}` : "";
  throw new NeftuneError(
    "no_safetensors",
    `${id} has neither ${SINGLE_FILE} nor ${INDEX_FILE}${found}. Is it a model for Transformers?`,
  );
}

const isFile = (path: string) => statSync(path, { throwIfNoEntry: false })?.isFile() === true;

/** What a snapshot folder lacks for a run; empty where it has all. */
export function missingModelFiles(dir: string, need: ModelNeed): string[] {
  const missing = requiredText.filter((name) => !isFile(join(dir, name)));
  if (need === "text" || isFile(join(dir, SINGLE_FILE))) return missing;
  if (!existsSync(join(dir, INDEX_FILE))) return [...missing, SINGLE_FILE];
  return [...missing, ...shardsOf(dir).filter((name) => !isFile(join(dir, name)))];
}
