// Which linears of which layers a PEFT adapter is for: target_modules as a list of names, suffixes or full paths, as a
// Python regular expression, or "all-linear"; exclude_modules; layers_to_transform (PEFT 0.21, tuners_utils.py).

import { FormatError } from "../errors.ts";
import type { AdapterConfig } from "../formats/peft.ts";
import { pythonFullMatch, pythonMatch } from "../formats/python-regex.ts";
import { type LinearModule, linearModules, modulePath } from "./architecture.ts";
import type { LlamaConfig } from "./config.ts";

type Matches = (path: string) => boolean;

/** The linears of each layer that the adapter is for. Throws FormatError, naming the adapter's config as `file`. */
export function targetedModules(file: string, config: AdapterConfig, model: LlamaConfig): LinearModule[][] {
  const isTarget = targets(file, config);
  const isExcluded = matcher(file, "exclude_modules", config.excludeModules ?? []);
  const picks: Matches = (path) => !isExcluded(path) && isTarget(path);
  const layers = Array.from({ length: model.numHiddenLayers }, (_, layer) =>
    linearModules.filter((module) => picks(modulePath(layer, module))),
  );
  const other = isAllLinear(config) ? undefined : otherModules(model).find(picks);
  if (other !== undefined) {
    throw new FormatError(
      file,
      `target_modules picks ${other}; LoRA is supported on ${linearModules.join(", ")} only`,
    );
  }
  if (layers.every((modules) => modules.length === 0))
    throw new FormatError(file, "target_modules picks no linear of this model");
  return layers;
}

const isAllLinear = ({ targetModules }: AdapterConfig) =>
  typeof targetModules === "string" && targetModules.toLowerCase() === "all-linear";

function targets(file: string, config: AdapterConfig): Matches {
  const { targetModules, layersToTransform = [], layersPattern = [] } = config;
  if (isAllLinear(config)) return () => true;
  if (typeof targetModules === "string" || layersToTransform.length === 0)
    return matcher(file, "target_modules", targetModules);
  const patterns = layersPattern.map((pattern) => `(?:^|.*?\\.)${pattern}\\.(\\d+)\\.`);
  const layerOf = (patterns.length === 0 ? [".*?\\.[^.]*\\.(\\d+)\\."] : patterns).map((pattern) =>
    readable(file, "layers_pattern", pattern, pythonMatch),
  );
  const isNamed = matcher(file, "target_modules", targetModules);
  return (path) => {
    if (targetModules.includes(path)) return true;
    const layer = layerOf.map((pattern) => pattern.exec(path)?.at(-1)).find((index) => index !== undefined);
    return isNamed(path) && layer !== undefined && layersToTransform.includes(Number(layer));
  };
}

/** A list matches a path, or what follows a point of it; a regular expression the whole path. */
function matcher(file: string, field: string, names: readonly string[] | string): Matches {
  if (typeof names === "string") {
    const pattern = readable(file, field, names, pythonFullMatch);
    return (path) => pattern.test(path);
  }
  return (path) => names.some((name) => path === name || path.endsWith(`.${name}`));
}

function readable(file: string, field: string, expression: string, read: (text: string) => RegExp): RegExp {
  try {
    return read(expression);
  } catch (cause) {
    throw new FormatError(
      file,
      `${field} is the regular expression ${JSON.stringify(expression)}, which cannot be read here (${(cause as Error).message}); list the modules instead, such as ["q_proj", "v_proj"]`,
      { cause },
    );
  }
}

/** Paths of the modules that are not linears of a layer. */
function otherModules({ numHiddenLayers }: LlamaConfig): string[] {
  const inLayer = ["", ".self_attn", ".mlp", ".mlp.act_fn", ".input_layernorm", ".post_attention_layernorm"];
  const layers = Array.from({ length: numHiddenLayers }, (_, layer) =>
    inLayer.map((part) => `model.layers.${layer}${part}`),
  );
  const whole = ["model", "model.embed_tokens", "model.layers", "model.norm", "model.rotary_emb", "lm_head"];
  return [...whole, ...layers.flat()];
}
