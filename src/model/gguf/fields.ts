// A model's metadata in GGUF, key by key as llama.cpp's converters write it.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { f32, type GgufField, i32, text, u32 } from "../../formats/gguf/values.ts";
import type { GgufTensor, GgufTypeName } from "../../formats/gguf.ts";
import { readJsonObject } from "../../formats/json-file.ts";
import { CONFIG_FILE } from "../../formats/model-folder.ts";
import type { LlamaConfig } from "../config.ts";
import { kinds } from "../kinds.ts";
import { cardFields, fromCard, readCard } from "./model-card.ts";
import { type NameParts, nameParts, sizeLabel } from "./model-name.ts";

/** llama.cpp's numbers for what most of a file's tensors are stored in. */
const fileTypes: Readonly<Record<GgufTypeName, number>> = { f32: 0, f16: 1, q4_0: 2, q8_0: 7, bf16: 32 };

/** Of how quantized tensors are laid out. */
const QUANTIZATION_VERSION = 2;

type Json = ReadonlyMap<string, unknown>;

const size = (shape: readonly number[]) => shape.reduce((all, n) => all * n, 1);

/**
 * All fields but the tokenizer's. `dir`: the model's folder, whose config.json says what `config` does not keep; `name`:
 * what the model is called, as a Hub id or the last part of its path.
 */
export function modelFields(
  config: LlamaConfig,
  dir: string,
  name: string,
  tensors: readonly GgufTensor[],
  type: GgufTypeName,
): GgufField[] {
  const { architecture } = kinds[config.modelType].gguf;
  const raw = readJsonObject(join(dir, CONFIG_FILE));
  const parameters = tensors.reduce((sum, { shape }) => sum + size(shape), 0);
  const hasHeadDim = config.modelType !== "qwen2" || raw.get("head_dim") != null;
  const key = (rest: string) => `${architecture}.${rest}`;
  return [
    ["general.architecture", text(architecture)],
    ["general.type", text("model")],
    ...samplingFields(dir),
    ...nameFields(name, dir, raw, parameters),
    [key("block_count"), u32(config.numHiddenLayers)],
    [key("context_length"), u32(config.maxPositionEmbeddings)],
    [key("embedding_length"), u32(config.hiddenSize)],
    [key("feed_forward_length"), u32(config.intermediateSize)],
    [key("attention.head_count"), u32(config.numAttentionHeads)],
    [key("attention.head_count_kv"), u32(config.numKeyValueHeads)],
    ...ropeFields(config, raw, key),
    [key("rope.freq_base"), f32(config.ropeTheta)],
    [key("attention.layer_norm_rms_epsilon"), f32(config.rmsNormEps)],
    ...(hasHeadDim
      ? ([
          [key("attention.key_length"), u32(config.headDim)],
          [key("attention.value_length"), u32(config.headDim)],
        ] as const)
      : []),
    ["general.file_type", u32(fileTypes[type])],
    ...(architecture === "llama"
      ? ([
          [key("vocab_size"), u32(config.vocabSize)],
          [key("rope.dimension_count"), u32(config.headDim)],
        ] as const)
      : []),
    ["general.quantization_version", u32(QUANTIZATION_VERSION)],
  ];
}

/** A LoRA adapter's: `dir` is its folder, `alpha` such that llama.cpp's alpha / r is the adapter's scale. */
export function adapterFields(
  config: LlamaConfig,
  dir: string,
  name: string,
  tensors: readonly GgufTensor[],
  alpha: number,
): GgufField[] {
  // Of B·A; negative, as a model has more than its adapted linears.
  const adapted = tensors.reduce(
    (sum, { name, shape }, i) =>
      name.endsWith(".lora_b") ? sum + shape[0]! * tensors[i - 1]!.shape[1]! : sum,
    0,
  );
  return [
    ["general.architecture", text(kinds[config.modelType].gguf.architecture)],
    ["general.type", text("adapter")],
    ["adapter.type", text("lora")],
    ...nameFields(name, dir, new Map(), -adapted),
    ["adapter.lora.alpha", f32(alpha)],
    ["general.quantization_version", u32(QUANTIZATION_VERSION)],
  ];
}

/** What the model card says comes first, then config.json's own name for the model, where it is no path, then the folder's. */
function nameFields(name: string, dir: string, raw: Json, parameters: number): GgufField[] {
  const card = readCard(dir);
  const own = raw.get("_name_or_path");
  const isName = typeof own === "string" && own !== "" && own.split("/").length <= 2;
  const all = [...(isName ? [own] : []), name].map((id) => nameParts(id, parameters));
  const first = (of: (parts: NameParts) => string | null) =>
    all.map(of).find((value) => value !== null) ?? null;
  const label = fromCard(card, "size_label", "model_size_label") ?? first((parts) => parts.sizeLabel);
  const fields: [string, string | null][] = [
    ["general.name", fromCard(card, "name", "model_name") ?? first((parts) => parts.title)],
    ["general.author", fromCard(card, "author", "model_author", "model_creator")],
    ["general.version", fromCard(card, "version", "model_version") ?? first((parts) => parts.version)],
    [
      "general.organization",
      fromCard(card, "organization", "model_organization") ?? first((parts) => parts.organization),
    ],
    ["general.finetune", fromCard(card, "finetune", "model_finetune") ?? first((parts) => parts.finetune)],
    [
      "general.basename",
      fromCard(card, "basename", "model_basename", "model_type") ?? first((parts) => parts.basename),
    ],
    ["general.description", fromCard(card, "description", "model_description")],
    ["general.size_label", label ?? (parameters > 0 ? sizeLabel(parameters) : null)],
  ];
  return [
    ...fields.flatMap(([key, value]): GgufField[] => (value === null ? [] : [[key, text(value)]])),
    ...cardFields(card, parameters),
  ];
}

/** generation_config.json's numbers for sampling, under GGUF's names. */
function samplingFields(dir: string): GgufField[] {
  const path = join(dir, "generation_config.json");
  const config: Json = existsSync(path) ? readJsonObject(path) : new Map();
  const kinds = [
    ["top_k", "top_k", i32],
    ["top_p", "top_p", f32],
    ["min_p", "min_p", f32],
    ["temp", "temperature", f32],
    ["penalty_repeat", "repetition_penalty", f32],
  ] as const;
  return kinds.flatMap(([key, name, encode]): GgufField[] => {
    const value = config.get(name);
    return typeof value === "number" ? [[`general.sampling.${key}`, encode(value)]] : [];
  });
}

function ropeFields(config: LlamaConfig, raw: Json, key: (rest: string) => string): GgufField[] {
  const scaling = config.ropeScaling;
  if (scaling === null || scaling.type === "llama3") return []; // llama3's factors are a tensor
  const fields: GgufField[] = [
    [key("rope.scaling.type"), text(scaling.type)],
    [key("rope.scaling.factor"), f32(scaling.factor)],
  ];
  if (scaling.type === "linear") return fields;
  fields.push([key("rope.scaling.original_context_length"), u32(scaling.originalMaxPositionEmbeddings)]);
  // What the config leaves out, llama.cpp computes itself.
  const given = raw.get("rope_parameters") ?? raw.get("rope_scaling");
  const optional = [
    ["yarn_attn_factor", "attention_factor"],
    ["yarn_beta_fast", "beta_fast"],
    ["yarn_beta_slow", "beta_slow"],
  ] as const;
  for (const [rest, name] of optional) {
    const value = given instanceof Map ? given.get(name) : undefined;
    if (typeof value === "number") fields.push([key(`rope.scaling.${rest}`), f32(value)]);
  }
  return fields;
}
