// A Llama's config.json, as Transformers 4 and 5 write it. What would change the numbers and is not supported is
// refused by name.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { FormatError } from "../errors.ts";
import { CONFIG_FILE, dtypeNames } from "../formats/model-folder.ts";

export type RopeScaling =
  | { type: "linear"; factor: number }
  | {
      type: "llama3";
      factor: number;
      lowFreqFactor: number;
      highFreqFactor: number;
      originalMaxPositionEmbeddings: number;
    };

/** What tensors follow from it: architecture.ts. */
export interface LlamaConfig {
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
  /** Biases on q, k, v and o. */
  attentionBias: boolean;
  /** Biases on gate, up and down. */
  mlpBias: boolean;
  maxPositionEmbeddings: number;
  bosTokenId: number | null;
  eosTokenIds: number[];
  initializerRange: number;
  /** What the checkpoint's weights are stored in, as far as the file says. */
  dtype: "f32" | "bf16" | "f16" | null;
  /** The checkpoint's linears are stored as bitsandbytes' NF4; null: not quantised. */
  quantization: "nf4" | null;
}

/** The widest head that the attention kernels take (kernels/cpu/attention.h). */
const MAX_HEAD_DIM = 256;

type Json = Record<string, unknown>;

/** Reads fields of one JSON object; every complaint names the file and the field. */
class Fields {
  readonly #path: string;
  readonly #json: Json;

  constructor(path: string, json: unknown) {
    if (typeof json !== "object" || json === null || Array.isArray(json)) {
      throw new FormatError(path, "must be a JSON object");
    }
    this.#path = path;
    this.#json = json as Json;
  }

  get(name: string): unknown {
    return Object.hasOwn(this.#json, name) ? this.#json[name] : undefined;
  }

  fail(message: string): never {
    throw new FormatError(this.#path, message);
  }

  /** A whole number above 0. */
  count(name: string, fallback?: number): number {
    const value = this.get(name) ?? fallback;
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 1) {
      this.fail(`${name} must be a whole number above 0, got ${JSON.stringify(value)}`);
    }
    return value;
  }

  positive(name: string, fallback?: number): number {
    const value = this.get(name) ?? fallback;
    if (typeof value !== "number" || !Number.isFinite(value) || value <= 0) {
      this.fail(`${name} must be a number above 0, got ${JSON.stringify(value)}`);
    }
    return value;
  }

  flag(name: string, fallback: boolean): boolean {
    const value = this.get(name) ?? fallback;
    if (typeof value !== "boolean") this.fail(`${name} must be true or false, got ${JSON.stringify(value)}`);
    return value;
  }

  /** Refuses any value of the field but the ones that change nothing. */
  refuseUnless(name: string, harmless: readonly unknown[], why: string): void {
    const value = this.get(name);
    if (value === undefined || value === null || harmless.includes(value)) return;
    this.fail(`${name} = ${JSON.stringify(value)} is not supported (${why})`);
  }
}

function parseRopeScaling(path: string, value: unknown): RopeScaling | null {
  if (value === null || value === undefined) return null;
  const fields = new Fields(`${path}: rope_scaling`, value);
  const type = fields.get("rope_type") ?? fields.get("type") ?? "default";
  switch (type) {
    case "default":
      return null;
    case "linear":
      return { type: "linear", factor: fields.positive("factor") };
    case "llama3": {
      const scaling: RopeScaling = {
        type: "llama3",
        factor: fields.positive("factor"),
        lowFreqFactor: fields.positive("low_freq_factor"),
        highFreqFactor: fields.positive("high_freq_factor"),
        originalMaxPositionEmbeddings: fields.count("original_max_position_embeddings"),
      };
      if (scaling.highFreqFactor <= scaling.lowFreqFactor) {
        fields.fail("high_freq_factor must be above low_freq_factor");
      }
      return scaling;
    }
    default:
      return fields.fail(
        `rope_type ${JSON.stringify(type)} is not supported; default, linear and llama3 are`,
      );
  }
}

function parseDtype(fields: Fields): LlamaConfig["dtype"] {
  const name = fields.get("dtype") ?? fields.get("torch_dtype");
  return (["f32", "bf16", "f16"] as const).find((dtype) => dtypeNames[dtype] === name) ?? null;
}

function parseTokenIds(fields: Fields, name: string): number[] {
  const value = fields.get(name) ?? [];
  const ids = Array.isArray(value) ? value : [value];
  for (const id of ids) {
    if (!Number.isSafeInteger(id))
      fields.fail(`${name} must be a token id or a list of them, got ${JSON.stringify(value)}`);
  }
  return ids as number[];
}

/**
 * What a config.json says of quantised weights, as Transformers' BitsAndBytesConfig writes it. Its compute dtype and
 * what it has for int8 do not change the weights.
 */
function parseQuantization(path: string, value: unknown): LlamaConfig["quantization"] {
  if (value === undefined || value === null) return null;
  const fields = new Fields(`${path}: quantization_config`, value);
  const remedy =
    "take the original, unquantised weights (--quantization nf4 quantises them on load, neftune quantize on disk)";
  const refuse = (what: string) =>
    fields.fail(`${what} is not supported, only bitsandbytes' nf4 is; ${remedy}`);
  const isOn = (name: string) => fields.flag(name, fields.flag(`_${name}`, false));
  const [in4bit, in8bit] = [isOn("load_in_4bit"), isOn("load_in_8bit")];
  // Before Transformers 4.35 there was no other method, and no field to say so.
  const method = fields.get("quant_method") ?? (in4bit || in8bit ? "bitsandbytes" : undefined);
  if (method !== "bitsandbytes")
    refuse(method === undefined ? "a missing quant_method" : `quant_method ${JSON.stringify(method)}`);
  if (in8bit) refuse("load_in_8bit (int8)");
  if (!in4bit) refuse("a bitsandbytes model without load_in_4bit");
  // What a missing field means to bitsandbytes.
  const type = fields.get("bnb_4bit_quant_type") ?? "fp4";
  if (type !== "nf4") refuse(`bnb_4bit_quant_type ${JSON.stringify(type)}`);
  const storage = fields.get("bnb_4bit_quant_storage") ?? "uint8";
  if (storage !== "uint8") refuse(`bnb_4bit_quant_storage ${JSON.stringify(storage)} (other than "uint8")`);
  const block = fields.get("bnb_4bit_blocksize") ?? 64;
  if (block !== 64) refuse(`bnb_4bit_blocksize ${JSON.stringify(block)} (other than 64)`);
  return "nf4";
}

/** Checks and reads a config.json. Throws FormatError with the field that is wrong or not supported. */
export function parseConfig(path: string, json: unknown): LlamaConfig {
  const fields = new Fields(path, json);
  const modelType = fields.get("model_type");
  if (modelType !== "llama") {
    fields.fail(
      `model_type must be "llama", got ${modelType == null ? "nothing" : JSON.stringify(modelType)}`,
    );
  }
  fields.refuseUnless("hidden_act", ["silu", "swish"], "only silu is");
  fields.refuseUnless(
    "pretraining_tp",
    [1],
    "tensor-parallel pretraining changes the numbers; set it to 1 if unused",
  );
  fields.refuseUnless("attention_dropout", [0], "set it to 0");
  fields.refuseUnless("partial_rotary_factor", [1], "RoPE on the whole head is");
  fields.refuseUnless("sliding_window", [], "full causal attention is");
  fields.refuseUnless("num_local_experts", [], "mixtures of experts are not");
  fields.refuseUnless("embedding_multiplier", [1], "scaled embeddings are not");
  fields.refuseUnless("residual_multiplier", [1], "scaled residuals are not");
  fields.refuseUnless("attention_multiplier", [1], "scaled attention is not");
  fields.refuseUnless("logits_scaling", [1], "scaled logits are not");
  fields.refuseUnless("logit_scale", [1], "scaled logits are not");
  fields.refuseUnless("final_logit_softcapping", [], "soft-capped logits are not");
  fields.refuseUnless("attn_logit_softcapping", [], "soft-capped attention is not");
  fields.refuseUnless("use_qk_norm", [false], "normed queries and keys are not");

  const hiddenSize = fields.count("hidden_size");
  const numAttentionHeads = fields.count("num_attention_heads");
  const numKeyValueHeads = fields.count("num_key_value_heads", numAttentionHeads);
  if (numAttentionHeads % numKeyValueHeads !== 0) {
    fields.fail(
      `num_attention_heads ${numAttentionHeads} is not a multiple of num_key_value_heads ${numKeyValueHeads}`,
    );
  }
  if (fields.get("head_dim") == null && hiddenSize % numAttentionHeads !== 0) {
    fields.fail(
      `hidden_size ${hiddenSize} is not a multiple of num_attention_heads ${numAttentionHeads}, and head_dim is absent`,
    );
  }
  const headDim = fields.count("head_dim", hiddenSize / numAttentionHeads);
  if (headDim % 2 !== 0) fields.fail(`head_dim must be even for RoPE, got ${headDim}`);
  if (headDim > MAX_HEAD_DIM) {
    fields.fail(`head_dim ${headDim} is not supported (attention takes at most ${MAX_HEAD_DIM})`);
  }

  // Transformers 5 puts rope_theta and the scaling together into rope_parameters.
  const ropeParameters = fields.get("rope_parameters") ?? null;
  const rope = ropeParameters === null ? fields : new Fields(`${path}: rope_parameters`, ropeParameters);
  rope.refuseUnless("partial_rotary_factor", [1], "RoPE on the whole head is");
  const bos = parseTokenIds(fields, "bos_token_id");
  return {
    hiddenSize,
    intermediateSize: fields.count("intermediate_size"),
    numHiddenLayers: fields.count("num_hidden_layers"),
    numAttentionHeads,
    numKeyValueHeads,
    headDim,
    vocabSize: fields.count("vocab_size"),
    rmsNormEps: fields.positive("rms_norm_eps", 1e-6),
    ropeTheta:
      rope.get("rope_theta") === undefined
        ? fields.positive("rope_theta", 10000)
        : rope.positive("rope_theta"),
    ropeScaling: parseRopeScaling(path, ropeParameters ?? fields.get("rope_scaling")),
    tieWordEmbeddings: fields.flag("tie_word_embeddings", false),
    attentionBias: fields.flag("attention_bias", false),
    mlpBias: fields.flag("mlp_bias", false),
    maxPositionEmbeddings: fields.count("max_position_embeddings", 2048),
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
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(path, "utf8"));
  } catch (cause) {
    const reason =
      cause instanceof SyntaxError
        ? "is not valid JSON"
        : "cannot be read; a Hugging Face model folder has one";
    throw new FormatError(path, reason, { cause });
  }
  return parseConfig(path, json);
}

/** The same as Hugging Face's config.json (Transformers 4's wording, which 5 reads too). */
export function configToJson(config: LlamaConfig): Json {
  const scaling = config.ropeScaling;
  const ropeScaling =
    scaling === null
      ? null
      : scaling.type === "linear"
        ? { rope_type: "linear", factor: scaling.factor }
        : {
            rope_type: "llama3",
            factor: scaling.factor,
            low_freq_factor: scaling.lowFreqFactor,
            high_freq_factor: scaling.highFreqFactor,
            original_max_position_embeddings: scaling.originalMaxPositionEmbeddings,
          };
  return {
    architectures: ["LlamaForCausalLM"],
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
    model_type: "llama",
    num_attention_heads: config.numAttentionHeads,
    num_hidden_layers: config.numHiddenLayers,
    num_key_value_heads: config.numKeyValueHeads,
    rms_norm_eps: config.rmsNormEps,
    rope_scaling: ropeScaling,
    rope_theta: config.ropeTheta,
    tie_word_embeddings: config.tieWordEmbeddings,
    torch_dtype: dtypeNames[config.dtype ?? "f32"],
    use_cache: true,
    vocab_size: config.vocabSize,
  };
}
