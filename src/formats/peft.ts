// LoRA adapters as PEFT 0.21 keeps them: adapter_config.json and adapter_model.safetensors.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { FormatError, NeftuneError } from "../errors.ts";
import { writeTextAtomically } from "./io.ts";
import { readJsonObject } from "./json-file.ts";
import type { JsonValue } from "./safetensors/json.ts";
import { readSafetensorsHeader, type SafetensorsHeader } from "./safetensors.ts";

export const ADAPTER_CONFIG_FILE = "adapter_config.json";
export const ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors";

export interface AdapterConfig {
  r: number;
  loraAlpha: number;
  loraDropout: number;
  /** Module names, or a regular expression that a module's whole path must match. */
  targetModules: readonly string[] | string;
  /** The same, of modules that are left out all the same. */
  excludeModules?: readonly string[] | string;
  /** The layers that names in a list of targetModules are for, full paths apart; none or absent: all. */
  layersToTransform?: readonly number[];
  /** What the list of layers is called in a path, as regular expressions; none or absent: anything. */
  layersPattern?: readonly string[];
  /** Scale by alpha / sqrt(r) in place of alpha / r. */
  useRslora: boolean;
  /** What PEFT calls base_model_name_or_path. */
  baseModel: string | null;
  /** Of the base, where it is on the Hub; null or absent: none is named. */
  revision?: string | null;
}

export interface Adapter {
  dir: string;
  config: AdapterConfig;
  weights: SafetensorsHeader;
}

// Fields read below, and fields that do not change what a trained adapter computes in a Llama.
const HANDLED = new Set([
  "peft_type",
  "task_type",
  "r",
  "lora_alpha",
  "lora_dropout",
  "target_modules",
  "exclude_modules",
  "layers_to_transform",
  "layers_pattern",
  "use_rslora",
]);
const WITHOUT_EFFECT = new Set([
  "auto_mapping",
  "base_model_name_or_path",
  "inference_mode",
  "peft_version",
  "revision",
  "runtime_config",
  "megatron_core",
  // PEFT turns it off for a Linear.
  "fan_in_fan_out",
  "qalora_group_size",
  "loftq_config",
  "eva_config",
]);
// Ways to start that leave the base weights alone; the others (pissa, olora, …) change them on loading.
const PLAIN_INITS = new Set<JsonValue>([true, false, "gaussian", "orthogonal", "eva"]);

/**
 * Reads `dir`/adapter_config.json. Throws FormatError that names the field where a value is missing, malformed, or
 * asks for something that neftune does not compute: no field is silently ignored.
 */
export function readAdapterConfig(dir: string): AdapterConfig {
  const path = join(dir, ADAPTER_CONFIG_FILE);
  const fields = readJsonObject(path);
  const peftType = fields.get("peft_type");
  if (peftType !== "LORA") {
    throw new FormatError(path, `peft_type is ${show(peftType)}; only LORA adapters are supported`);
  }
  const taskType = fields.get("task_type") ?? null;
  if (taskType !== null && taskType !== "CAUSAL_LM") {
    throw new FormatError(path, `task_type is ${show(taskType)}; only CAUSAL_LM adapters are supported`);
  }
  for (const [name, value] of fields) checkSupported(path, name, value);
  return {
    r: numberField(path, fields, "r", "a positive integer", (r) => Number.isSafeInteger(r) && r > 0),
    loraAlpha: numberField(path, fields, "lora_alpha", "a positive number", (alpha) => alpha > 0),
    loraDropout: numberField(
      path,
      fields,
      "lora_dropout",
      "a number from 0 to below 1",
      (p) => p >= 0 && p < 1,
      0,
    ),
    targetModules: targetModules(path, fields.get("target_modules")),
    ...layers(path, fields),
    useRslora: booleanField(path, fields, "use_rslora"),
    baseModel: textField(path, fields, "base_model_name_or_path"),
    ...(fields.get("revision") == null ? {} : { revision: textField(path, fields, "revision") }),
  };
}

/** Reads the config and the header of the weights. The caller checks the tensors against its model. */
export function openAdapter(dir: string): Adapter {
  const path = join(dir, ADAPTER_CONFIG_FILE);
  if (!existsSync(path)) {
    throw new NeftuneError(
      "not_found",
      `${path}: no such file; give the folder of a PEFT adapter, which holds it`,
    );
  }
  const config = readAdapterConfig(dir);
  const weights = join(dir, ADAPTER_WEIGHTS_FILE);
  if (!existsSync(weights)) {
    const pickle = existsSync(join(dir, "adapter_model.bin"));
    throw new NeftuneError(
      "no_safetensors",
      pickle
        ? `${dir} holds adapter_model.bin; expected ${ADAPTER_WEIGHTS_FILE}. If you trust it, load it with PEFT and save it again with save_pretrained`
        : `${weights}: no such file; a PEFT adapter's weights belong beside its ${ADAPTER_CONFIG_FILE}`,
    );
  }
  return { dir, config, weights: readSafetensorsHeader(weights) };
}

/** Writes adapter_config.json at `path`, with every field that PEFT 0.21.2 writes, in its order. */
export function writeAdapterConfig(path: string, config: AdapterConfig): void {
  const fields = {
    alora_invocation_tokens: null,
    alpha_pattern: {},
    arrow_config: null,
    auto_mapping: null,
    base_model_name_or_path: config.baseModel,
    bias: "none",
    corda_config: null,
    ensure_weight_tying: false,
    eva_config: null,
    exclude_modules: null,
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    kasa_config: null,
    layer_replication: null,
    layers_pattern: null,
    layers_to_transform: null,
    loftq_config: {},
    lora_alpha: config.loraAlpha,
    lora_bias: false,
    lora_dropout: config.loraDropout,
    lora_ga_config: null,
    megatron_config: null,
    megatron_core: "megatron.core",
    modules_to_save: null,
    monteclora_config: null,
    peft_type: "LORA",
    peft_version: "0.21.2",
    qalora_group_size: 16,
    r: config.r,
    rank_pattern: {},
    revision: null,
    target_modules: config.targetModules,
    target_parameters: null,
    task_type: "CAUSAL_LM",
    trainable_token_indices: null,
    use_bdlora: null,
    use_dora: false,
    use_qalora: false,
    use_rslora: config.useRslora,
    velora_config: null,
  };
  // Python writes a float with its point: 0.0, not 0.
  const text = JSON.stringify(fields, null, 2).replace(/^( {2}"lora_dropout": \d+)(,?)$/m, "$1.0$2");
  writeTextAtomically(path, `${text}\n`);
}

/** Refuses a field that is set to something other than "off", unless it is handled or without effect. */
function checkSupported(path: string, name: string, value: JsonValue): void {
  if (HANDLED.has(name) || WITHOUT_EFFECT.has(name)) return;
  if (name === "init_lora_weights") {
    if (PLAIN_INITS.has(value)) return;
    throw new FormatError(
      path,
      `init_lora_weights is ${show(value)}, which changes the base weights; convert the adapter with PEFT first`,
    );
  }
  if (name === "bias" ? value === "none" : isOff(value)) return;
  throw new FormatError(
    path,
    `${name} is ${show(value)}, which neftune does not support; train or convert the adapter without it`,
  );
}

function isOff(value: JsonValue): boolean {
  if (value instanceof Map) return value.size === 0;
  return value === null || value === false || (Array.isArray(value) && value.length === 0);
}

function numberField(
  path: string,
  fields: ReadonlyMap<string, JsonValue>,
  name: string,
  wanted: string,
  accepts: (value: number) => boolean,
  missing?: number,
): number {
  const value = fields.get(name) ?? missing;
  if (typeof value !== "number" || !accepts(value))
    throw new FormatError(path, `${name} must be ${wanted}, found ${show(value)}`);
  return value;
}

function booleanField(path: string, fields: ReadonlyMap<string, JsonValue>, name: string): boolean {
  const value = fields.get(name) ?? false;
  if (typeof value !== "boolean")
    throw new FormatError(path, `${name} must be true or false, found ${show(value)}`);
  return value;
}

function targetModules(path: string, value: JsonValue | undefined): readonly string[] | string {
  if (typeof value === "string" && value.length > 0) return value;
  if (Array.isArray(value) && value.length > 0 && value.every((name) => typeof name === "string"))
    return value;
  throw new FormatError(
    path,
    `target_modules must be a list of module names or a regular expression, found ${show(value)}`,
  );
}

/** What narrows target_modules, and goes with a list of them only. */
function layers(
  path: string,
  fields: ReadonlyMap<string, JsonValue>,
): Pick<AdapterConfig, "excludeModules" | "layersToTransform" | "layersPattern"> {
  const list = <T>(
    name: string,
    what: string,
    accepts: (value: JsonValue) => value is T & JsonValue,
  ): T[] => {
    const value = fields.get(name) ?? [];
    const values = Array.isArray(value) ? value : [value];
    if (values.every(accepts)) return values;
    throw new FormatError(path, `${name} must be ${what} or a list of them, found ${show(value)}`);
  };
  const isText = (value: JsonValue) => typeof value === "string";
  const isLayer = (value: JsonValue): value is number => Number.isSafeInteger(value);
  const excluded = fields.get("exclude_modules");
  const excludeModules =
    typeof excluded === "string" && excluded !== ""
      ? excluded
      : list("exclude_modules", "a module name", isText);
  const layersToTransform = list("layers_to_transform", "the number of a layer", isLayer);
  const layersPattern = list("layers_pattern", "a name", isText).filter((name) => name !== "");
  if (layersPattern.length > 0 && (fields.get("layers_to_transform") ?? null) === null)
    throw new FormatError(path, "layers_pattern is set without layers_to_transform, the list it applies to");
  const isExpression = typeof fields.get("target_modules") === "string";
  if (isExpression && (fields.get("layers_to_transform") ?? null) !== null)
    throw new FormatError(
      path,
      "layers_to_transform goes with a list of target_modules, not with an expression",
    );
  return {
    ...(excludeModules.length > 0 ? { excludeModules } : {}),
    ...(layersToTransform.length > 0 ? { layersToTransform } : {}),
    ...(layersPattern.length > 0 ? { layersPattern } : {}),
  };
}

function textField(path: string, fields: ReadonlyMap<string, JsonValue>, name: string): string | null {
  const value = fields.get(name) ?? null;
  if (value === null || typeof value === "string") return value;
  throw new FormatError(path, `${name} must be a string, found ${show(value)}`);
}

/** A value as short JSON for a message. */
function show(value: JsonValue | undefined): string {
  if (value === undefined) return "nothing";
  const text = JSON.stringify(value, (_, inner) =>
    inner instanceof Map ? Object.fromEntries(inner) : inner,
  );
  return text.length > 100 ? `${text.slice(0, 97)}...` : text;
}
