// Which ids are BOS, EOS and their like, and which of them are added to a text: as llama.cpp's converters read them from
// tokenizer.json, tokenizer_config.json and config.json.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { bool, type GgufField, text, texts, u32 } from "../../formats/gguf/values.ts";
import { readJsonText } from "../../formats/json-file.ts";

type Json = Record<string, unknown>;

/** Kinds of special tokens, and what GGUF calls their ids. */
const kinds = {
  bos: "bos_token_id",
  eos: "eos_token_id",
  unk: "unknown_token_id",
  sep: "seperator_token_id",
  pad: "padding_token_id",
  mask: "mask_token_id",
} as const;
type Kind = keyof typeof kinds;
const kindNames = Object.keys(kinds) as Kind[];

export function readJson(path: string): Json {
  return existsSync(path) ? (JSON.parse(readJsonText(path)) as Json) : {};
}

const contentOf = (token: unknown): string | null => {
  const content = typeof token === "string" ? token : (token as Json | null | undefined)?.content;
  return typeof content === "string" ? content : null;
};

/** `tokenizer`: a tokenizer.json; `count`: of the vocabulary's tokens, or null where any id is taken. */
export function specialTokenFields(dir: string, tokenizer: Json, count: number | null): GgufField[] {
  const settings = readJson(join(dir, "tokenizer_config.json"));
  const config = readJson(join(dir, "config.json"));
  const added = (tokenizer.added_tokens ?? []) as Json[];
  const ids = new Map<Kind, number>();
  const set = (kind: Kind, id: unknown) => {
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || ids.has(kind)) return;
    if (count === null || id < count) ids.set(kind, id);
  };
  for (const kind of kindNames) {
    const content = contentOf(settings[`${kind}_token`]);
    if (content !== null) set(kind, added.find((token) => token.content === content)?.id);
  }
  for (const kind of kindNames) set(kind, config[`${kind}_token_id`]);
  const adds = addedAround(tokenizer.post_processor as Json | null | undefined, settings);
  for (const kind of ["bos", "eos", "sep"] as const) {
    const given = settings[`add_${kind}_token`];
    if (typeof given === "boolean" && !adds.has(kind)) adds.set(kind, given);
  }
  return [
    ...[...ids].map(([kind, id]): GgufField => [`tokenizer.ggml.${kinds[kind]}`, u32(id)]),
    ...[...adds].map(([kind, value]): GgufField => [`tokenizer.ggml.add_${kind}_token`, bool(value)]),
    ...templateFields(dir, settings),
  ];
}

/** What a post-processor puts before a text, behind it, and between two. */
function addedAround(processor: Json | null | undefined, settings: Json): Map<string, boolean> {
  const adds = new Map<string, boolean>();
  if (processor == null) return adds;
  const isNamed = (id: string, ...kinds: string[]) => {
    const named = kinds.map((kind) => contentOf(settings[`${kind}_token`])).find((token) => token !== null);
    return id === (named ?? id);
  };
  for (const part of (processor.processors ?? [processor]) as Json[]) {
    if (part.type === "ByteLevel") {
      for (const kind of ["bos", "eos"]) if (!adds.has(kind)) adds.set(kind, false);
    }
    if (part.type !== "TemplateProcessing") continue;
    const single = (part.single ?? []) as unknown[];
    const [first, last] = single.length < 2 ? [null, null] : [specialOf(single[0]), specialOf(single.at(-1))];
    if (first !== null) adds.set("bos", isNamed(first, "bos", "cls"));
    if (last !== null) adds.set("eos", isNamed(last, "eos", "sep"));
    const between = betweenTwo((part.pair ?? []) as unknown[], first, last);
    if (between.length === 0) continue;
    const isSeparator = (id: string | null, i: number) =>
      id !== null &&
      isNamed(id, "sep", "eos") &&
      contentOf(settings.eos_token) !== null &&
      (i > 0 || last === null);
    adds.set("sep", between.slice(0, 2).some(isSeparator));
  }
  return adds;
}

const specialOf = (part: unknown): string | null => {
  const id = ((part as Json | undefined)?.SpecialToken as Json | undefined)?.id;
  return typeof id === "string" ? id : null;
};

/** Special tokens between two texts, without those that a single text has around it, too. */
function betweenTwo(pair: unknown[], first: string | null, last: string | null): (string | null)[] {
  const begin = first !== null && specialOf(pair[0]) === first ? 1 : 0;
  const end = last !== null && specialOf(pair.at(-1)) === last ? -1 : undefined;
  const inner = pair.slice(begin, end);
  const sequence = (part: unknown) => ((part as Json | undefined)?.Sequence as Json | undefined)?.id;
  if (sequence(inner[0]) !== "A" || sequence(inner.at(-1)) !== "B") return [];
  return inner.slice(1, -1).map(specialOf);
}

/** The chat template, or several by name. */
function templateFields(dir: string, settings: Json): GgufField[] {
  const file = join(dir, "chat_template.jinja");
  const alone = existsSync(file)
    ? readFileSync(file, "utf8")
    : readJson(join(dir, "chat_template.json")).chat_template;
  const template = settings.chat_template ?? alone;
  if (typeof template === "string" && template !== "") return [["tokenizer.chat_template", text(template)]];
  if (!Array.isArray(template)) return [];
  const named = (template as Json[])
    .map(({ name, template }) => [String(name ?? "").replace(/[^A-Za-z0-9]/g, "_"), template] as const)
    .filter((one): one is readonly [string, string] => one[0] !== "" && typeof one[1] === "string");
  const others = named.filter(([name]) => name !== "default");
  const fallback = named.find(([name]) => name === "default");
  return [
    ...others.map(([name, source]): GgufField => [`tokenizer.chat_template.${name}`, text(source)]),
    ...(others.length === 0
      ? []
      : ([["tokenizer.chat_templates", texts(others.map(([name]) => name))]] as const)),
    ...(fallback === undefined ? [] : ([["tokenizer.chat_template", text(fallback[1])]] as const)),
  ];
}
