// What a model card says of a model, README.md's front matter, as llama.cpp's converters read it.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { type GgufField, text, texts, u32 } from "../../formats/gguf/values.ts";
import { nameParts } from "./model-name.ts";

export type Card = Readonly<Record<string, unknown>>;

/** The front matter of DIR/README.md; empty where there is none, or none that can be read. */
export function readCard(dir: string): Card {
  const path = join(dir, "README.md");
  if (!existsSync(path)) return {};
  const [first, ...lines] = readFileSync(path, "utf8").split(/\r?\n/);
  const end = lines.indexOf("---");
  if (first !== "---") return {};
  // YAML 1.1 reads the language code "no" as false.
  const front = `${lines.slice(0, end < 0 ? lines.length : end).join("\n")}\n`
    .replaceAll("- no\n", '- "no"\n')
    .replaceAll("\t", "  ");
  try {
    const card: unknown = parse(front);
    return typeof card === "object" && card !== null && !Array.isArray(card) ? (card as Card) : {};
  } catch {
    return {};
  }
}

/** The first of these fields that is a text. */
export function fromCard(card: Card, ...names: string[]): string | null {
  const value = names.map((name) => card[name]).find((one) => one !== undefined && one !== null);
  return typeof value === "string" && value !== "" ? value : null;
}

const listOf = (value: unknown): unknown[] => (Array.isArray(value) ? value : value == null ? [] : [value]);

/** License, sources, base models, data sets, tags and languages, in the converters' order. */
export function cardFields(card: Card, parameters: number): GgufField[] {
  const license = listOf(card.license).filter((one) => typeof one === "string");
  const plain: [string, string | null][] = [
    ["general.license", license.join(",") || null],
    ["general.license.name", fromCard(card, "license_name")],
    ["general.license.link", fromCard(card, "license_link")],
    ["general.source.url", fromCard(card, "url", "model_url")],
    ["general.source.doi", fromCard(card, "doi", "model_doi")],
    ["general.source.uuid", fromCard(card, "uuid", "model_uuid")],
    ["general.source.repo_url", fromCard(card, "repo_url", "model_repo_url")],
  ];
  const lists = [
    ["general.tags", [...listOf(card.tags), ...listOf(card.pipeline_tag)]],
    ["general.languages", [...listOf(card.languages), ...listOf(card.language)]],
  ] as const;
  return [
    ...plain.flatMap(([key, value]): GgufField[] => (value === null ? [] : [[key, text(value)]])),
    ...sourceFields("base_model", card.base_model ?? card.base_models ?? card.base_model_sources, parameters),
    ...sourceFields("dataset", card.datasets ?? card.dataset ?? card.dataset_sources, parameters),
    ...lists.flatMap(([key, values]): GgufField[] => {
      const own = values.filter((one): one is string => typeof one === "string");
      return own.length === 0 ? [] : [[key, texts(own)]];
    }),
  ];
}

/** What a model comes from: ids of the Hub, addresses, or objects with fields of their own. */
function sourceFields(kind: "base_model" | "dataset", value: unknown, parameters: number): GgufField[] {
  if (value === undefined || value === null) return [];
  const sources = listOf(value);
  const names = [
    "name",
    "author",
    "version",
    "organization",
    "description",
    "url",
    "doi",
    "uuid",
    "repo_url",
  ];
  return [
    [`general.${kind}.count`, u32(sources.length)],
    ...sources.flatMap((source, i) => {
      const known = typeof source === "string" ? sourceOf(source, parameters) : ((source ?? {}) as Card);
      return names.flatMap((name): GgufField[] => {
        const own = known[name];
        return typeof own === "string" && own !== "" ? [[`general.${kind}.${i}.${name}`, text(own)]] : [];
      });
    }),
  ];
}

function sourceOf(id: string, parameters: number): Card {
  const isAddress = /^(?:https?|ssh):\/\//.test(id);
  const onHub = isAddress ? /^https?:\/\/huggingface\.co\/([^/]+\/[^/]+)$/.exec(id)?.[1] : id;
  if (onHub === undefined) return { repo_url: id };
  const { title, organization, version } = nameParts(onHub, parameters);
  const repo = isAddress ? id : organization === null ? null : `https://huggingface.co/${id}`;
  return { name: title, organization, version, repo_url: repo };
}
