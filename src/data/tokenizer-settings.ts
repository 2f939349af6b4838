// What the files beside tokenizer.json say: special tokens, chat template, whether BOS is added.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { FormatError, NeftuneError } from "../errors.ts";
import { readJsonText } from "../formats/json-file.ts";

export interface TokenizerSettings {
  bosToken: string | null;
  eosToken: string | null;
  /** From generation_config.json, else config.json. */
  bosIds: number[];
  eosIds: number[];
  /** `add_bos_token`, null where nothing is said. */
  addBos: boolean | null;
  /** A LlamaTokenizer adds BOS where nothing is said. */
  isLlama: boolean;
  chatTemplate: string | null;
  /** The file that has it. */
  chatTemplateFile: string;
}

/** Files that may say what a tokenizer.json does not; a data cache depends on all of them. */
export const SETTINGS_FILES = [
  "tokenizer_config.json",
  "special_tokens_map.json",
  "generation_config.json",
  "config.json",
  "chat_template.jinja",
  "chat_template.json",
] as const;

/** Reads the files of a folder, whichever are there. Throws FormatError where one is malformed. */
export function readSettings(dir: string): TokenizerSettings {
  const config = readObject(join(dir, "tokenizer_config.json"));
  const map = readObject(join(dir, "special_tokens_map.json"));
  const generation = readObject(join(dir, "generation_config.json"));
  const model = readObject(join(dir, "config.json"));
  const className = config.tokenizer_class;
  return {
    bosToken: tokenText(config.bos_token) ?? tokenText(map.bos_token),
    eosToken: tokenText(config.eos_token) ?? tokenText(map.eos_token),
    bosIds: idList(generation.bos_token_id ?? model.bos_token_id),
    eosIds: idList(generation.eos_token_id ?? model.eos_token_id),
    addBos: typeof config.add_bos_token === "boolean" ? config.add_bos_token : null,
    isLlama: typeof className === "string" && /^LlamaTokenizer(Fast)?$/.test(className),
    ...readTemplate(dir, config.chat_template),
  };
}

function readObject(path: string): Record<string, unknown> {
  if (!existsSync(path)) return {};
  let value: unknown;
  try {
    value = JSON.parse(readJsonText(path));
  } catch (error) {
    if (error instanceof NeftuneError) throw error;
    throw new FormatError(path, `not readable as JSON: ${(error as Error).message}`, { cause: error });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new FormatError(path, "expected a JSON object");
  }
  return value as Record<string, unknown>;
}

/** A token as a config writes it: its text, or an object with its `content`. */
function tokenText(value: unknown): string | null {
  if (typeof value === "string") return value;
  const content = (value as { content?: unknown } | null | undefined)?.content;
  return typeof content === "string" ? content : null;
}

function idList(value: unknown): number[] {
  return (Array.isArray(value) ? value : [value]).filter(
    (id): id is number => Number.isInteger(id) && id >= 0,
  );
}

/** The chat template: its own file before the config's; of a list of named ones, the default. */
function readTemplate(
  dir: string,
  inConfig: unknown,
): Pick<TokenizerSettings, "chatTemplate" | "chatTemplateFile"> {
  const alone = join(dir, "chat_template.jinja");
  if (existsSync(alone)) return { chatTemplate: readFileSync(alone, "utf8"), chatTemplateFile: alone };
  const inJson = readObject(join(dir, "chat_template.json")).chat_template;
  const chatTemplateFile = join(dir, inJson == null ? "tokenizer_config.json" : "chat_template.json");
  return { chatTemplate: defaultTemplate(inJson ?? inConfig), chatTemplateFile };
}

function defaultTemplate(value: unknown): string | null {
  if (typeof value === "string") return value;
  if (!Array.isArray(value)) return null;
  const named = value as ({ name?: unknown; template?: unknown } | null)[];
  const chosen = named.find((one) => one?.name === "default") ?? named[0];
  return typeof chosen?.template === "string" ? chosen.template : null;
}
