// The config.json of a Llama or its near kin, as Transformers 4 and 5 write it. What would change the numbers and is not supported is
// refused by name.

import { join } from "node:path";
import { FormatError, NeftuneError } from "../errors.ts";
import { floatTypeNamed, floatTypes } from "../floats.ts";
import { expectShallow, readJsonText } from "../formats/json-file.ts";
import { CONFIG_FILE } from "../formats/model-folder.ts";
import { Fields, show } from "./config-fields.ts";
import { isModelType, kinds, type ModelType } from "./kinds.ts";
import { parseRope, type RopeScaling, ropeScalingToJson } from "./rope-config.ts";

import { parseWindow, type Window, windowToJson } from "./window-config.ts";

export type { RopeScaling } from "./rope-config.ts";

/** What tensors follow from it: architecture.ts. */
export interface LlamaConfig {
  modelType: ModelType;
  hiddenSize: number;
  intermediateSize: number;
  numHiddenLayers: number;
  numAttentionHeads: number;
  numKeyValueHeads: number;
  headDim: number;
  vocabSize: number;
  rmsNormEps: number;
  ropeTheta: number;
  ropeScaling: RopeScaling | null;
  tieWordEmbeddings: boolean;
  /** Biases on q, k, v and o, in a kind that leaves it to the config. */
  attentionBias: boolean;
  /** Biases on gate, up and down, likewise. */
  mlpBias: boolean;
  /** Null: every layer attends to all that came before. */
  window: Window | null;
  maxPositionEmbeddings: number;
  bosTokenId: number | null;
  eosTokenIds: number[];
  initializerRange: number;
  /** What the checkpoint's weights are stored in, as far as the file says. */
  dtype: "f32" | "bf16" | "f16" | null;
  /** The checkpoint's linears are stored as bitsandbytes' NF4; null: not quantized. */
  quantization: "nf4" | null;
}

/** The widest head that the attention kernels take (kernels/cpu/attention.h). */
const MAX_HEAD_DIM = 256;

type Json = Record<string, unknown>;

/** Beyond these a field is a mistake: nothing is allocated by it. */
const MAX_LAYERS = 4096;
const MAX_HEADS = 65_536;
const MAX_HIDDEN = 2 ** 20;
const MAX_INTERMEDIATE = 2 ** 23;
const MAX_VOCABULARY = 2 ** 27;

function parseDtype(fields: Fields): LlamaConfig["dtype"] {
  return floatTypeNamed("torch", fields.get("dtype") ?? fields.get("torch_dtype"));
}

function parseTokenIds(fields: Fields, name: string): number[] {
  const value = fields.get(name) ?? [];
  const ids = Array.isArray(value) ? value : [value];
  for (const id of ids) {
    if (!Number.isSafeInteger(id))
      fields.fail(`${name} must be a token id or a list of them, got ${show(value)}`);
  }
  return ids as number[];
}

/**
 * What a config.json says of quantized weights, as Transformers' BitsAndBytesConfig writes it. Its compute dtype and
 * what it has for int8 do not change the weights.
 */
function parseQuantization(path: string, value: unknown): LlamaConfig["quantization"] {
  if (value === undefined || value === null) return null;
  const fields = new Fields(`${path}: quantization_config`, value);
  const remedy =
    "take the original, unquantized weights (--quantization nf4 quantizes them on load, neftune quantize on disk)";
  const refuse = (what: string) =>
    fields.fail(`${what} is not supported, only bitsandbytes' nf4 is; ${remedy}`);
  const isOn = (name: string) => fields.flag(name, fields.flag(`_${name}`, false));
  const [in4bit, in8bit] = [isOn("load_in_4bit"), isOn("load_in_8bit")];
  // Before Transformers 4.35 there was no other method, and no field to say so.
  const method = fields.get("quant_method") ?? (in4bit || in8bit ? "bitsandbytes" : undefined);
  if (method !== "bitsandbytes")
    refuse(method === undefined ? "a missing quant_method" : `quant_method ${show(method)}`);
  if (in8bit) refuse("load_in_8bit (int8)");
  if (!in4bit) refuse("a bitsandbytes model without load_in_4bit");
  // What a missing field means to bitsandbytes.
  const type = fields.get("bnb_4bit_quant_type") ?? "fp4";
  if (type !== "nf4") refuse(`bnb_4bit_quant_type ${show(type)}`);
  const storage = fields.get("bnb_4bit_quant_storage") ?? "uint8";
  if (storage !== "uint8") refuse(`bnb_4bit_quant_storage ${show(storage)} (other than "uint8")`);
  const block = fields.get("bnb_4bit_blocksize") ?? 64;
  if (block !== 64) refuse(`bnb_4bit_blocksize ${show(block)} (other than 64)`);
  return "nf4";
}

/** Checks and reads a config.json. Throws FormatError with the field that is wrong or not supported. */
export function parseConfig(path: string, json: unknown): LlamaConfig {
  expectShallow(path, json);
  const fields: Fields = new Fields(path, json);
  const modelType = fields.get("model_type");
  if (!isModelType(modelType)) {
    const known = Object.keys(kinds).join(", ");
    fields.fail(`model_type must be one of ${known}; got ${modelType == null ? "nothing" : show(modelType)}`);
  }
  const { defaults } = kinds[modelType];
  fields.refuseUnless("hidden_act", ["silu", "swish"], "only silu is");
  fields.refuseUnless("attention_dropout", [0], "set it to 0");
  fields.refuseUnless("partial_rotary_factor", [1], "RoPE on the whole head is");
  fields.refuseUnless("num_local_experts", [], "mixtures of experts are not");
  fields.refuseUnless("embedding_multiplier", [1], "scaled embeddings are not");
  fields.refuseUnless("residual_multiplier", [1], "scaled residuals are not");
  fields.refuseUnless("attention_multiplier", [1], "scaled attention is not");
  fields.refuseUnless("logits_scaling", [1], "scaled logits are not");
  fields.refuseUnless("logit_scale", [1], "scaled logits are not");
  fields.refuseUnless("final_logit_softcapping", [], "soft-capped logits are not");
  fields.refuseUnless("attn_logit_softcapping", [], "soft-capped attention is not");
  fields.refuseUnless("use_qk_norm", [false], "normed queries and keys are not");

  const hiddenSize = fields.count("hidden_size", undefined, MAX_HIDDEN);
  const numAttentionHeads = fields.count("num_attention_heads", undefined, MAX_HEADS);
  const likeQueries = fields.get("num_key_value_heads") === null;
  const numKeyValueHeads = fields.count(
    "num_key_value_heads",
    (likeQueries ? null : defaults.numKeyValueHeads) ?? numAttentionHeads,
  );
  if (numAttentionHeads % numKeyValueHeads !== 0) {
    fields.fail(
      `num_attention_heads ${numAttentionHeads} is not a multiple of num_key_value_heads ${numKeyValueHeads}`,
    );
  }
  const givenHeadDim = fields.get("head_dim") ?? defaults.headDim;
  if (givenHeadDim === null && hiddenSize % numAttentionHeads !== 0) {
    fields.fail(
      `hidden_size ${hiddenSize} is not a multiple of num_attention_heads ${numAttentionHeads}, and head_dim is absent`,
    );
  }
  const headDim = fields.count("head_dim", defaults.headDim ?? hiddenSize / numAttentionHeads);
  if (headDim % 2 !== 0) fields.fail(`head_dim must be even for RoPE, got ${headDim}`);
  if (headDim > MAX_HEAD_DIM) {
    fields.fail(`head_dim ${headDim} is not supported (attention takes at most ${MAX_HEAD_DIM})`);
  }

  const maxPositionEmbeddings = fields.count("max_position_embeddings", defaults.maxPositionEmbeddings);
  const numHiddenLayers = fields.count("num_hidden_layers", undefined, MAX_LAYERS);
  const bos = parseTokenIds(fields, "bos_token_id");
  return {
    modelType,
    hiddenSize,
    intermediateSize: fields.count("intermediate_size", undefined, MAX_INTERMEDIATE),
    numHiddenLayers,
    numAttentionHeads,
    numKeyValueHeads,
    headDim,
    vocabSize: fields.count("vocab_size", undefined, MAX_VOCABULARY),
    rmsNormEps: fields.positive("rms_norm_eps", 1e-6),
    ...parseRope(path, fields, maxPositionEmbeddings),
    tieWordEmbeddings: fields.flag("tie_word_embeddings", false),
    attentionBias: fields.flag("attention_bias", false),
    mlpBias: fields.flag("mlp_bias", false),
    window: parseWindow(fields, kinds[modelType].window, numHiddenLayers),
    maxPositionEmbeddings,
    bosTokenId: bos[0] ?? null,
    eosTokenIds: parseTokenIds(fields, "eos_token_id"),
    initializerRange: fields.positive("initializer_range", 0.02),
    dtype: parseDtype(fields),
    quantization: parseQuantization(path, fields.get("quantization_config")),
  };
}

/** Reads DIR/config.json. */
export function readConfig(dir: string): LlamaConfig {
  return readConfigFile(join(dir, CONFIG_FILE));
}

/** Reads a config.json by its path. Throws FormatError. */
export function readConfigFile(path: string): LlamaConfig {
  try {
    return parseConfig(path, JSON.parse(readJsonText(path)));
  } catch (cause) {
    if (cause instanceof FormatError) throw cause;
    if (cause instanceof SyntaxError) throw new FormatError(path, "is not valid JSON", { cause });
    if (!(cause instanceof NeftuneError)) throw cause;
    throw new FormatError(path, "cannot be read; a Hugging Face model folder has one", { cause });
  }
}

/** The same as Hugging Face's config.json (Transformers 4's wording, which 5 reads too). */
export function configToJson(config: LlamaConfig): Json {
  return {
    architectures: [kinds[config.modelType].className],
    attention_bias: config.attentionBias,
    attention_dropout: 0,
    bos_token_id: config.bosTokenId,
    eos_token_id: config.eosTokenIds.length === 1 ? config.eosTokenIds[0] : config.eosTokenIds,
    head_dim: config.headDim,
    hidden_act: "silu",
    hidden_size: config.hiddenSize,
    initializer_range: config.initializerRange,
    intermediate_size: config.intermediateSize,
    max_position_embeddings: config.maxPositionEmbeddings,
    mlp_bias: config.mlpBias,
    model_type: config.modelType,
    num_attention_heads: config.numAttentionHeads,
    num_hidden_layers: config.numHiddenLayers,
    num_key_value_heads: config.numKeyValueHeads,
    rms_norm_eps: config.rmsNormEps,
    rope_scaling: ropeScalingToJson(config.ropeScaling),
    rope_theta: config.ropeTheta,
    tie_word_embeddings: config.tieWordEmbeddings,
    torch_dtype: floatTypes[config.dtype ?? "f32"].torch,
    use_cache: true,
    vocab_size: config.vocabSize,
    ...windowToJson(config.window, kinds[config.modelType].window),
  };
}
