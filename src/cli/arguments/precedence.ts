// Where an option's value comes from: flags win over the config file, that over a recipe, that over the presets of model
// and data, those over the defaults.

import { existsSync } from "node:fs";
import { parseWeighted } from "../../data/mix.ts";
import type { OptionSpec } from "../../options/spec.ts";
import { adapterOwn } from "../../options/table.ts";
import { type Recipe, recipes } from "../../presets/presets.ts";
import type { Context } from "../command.ts";
import { presetOfData, presetOfModel } from "../inputs/locate.ts";
import { readValue } from "./options.ts";
import { trainOptions } from "./train-options.ts";

/** By option: "flag", "config file", "recipe qlora", "preset sharegpt", "adapter", "checkpoint" or "default". */
export type Sources = Record<string, string>;

/** The options that presets and recipes go by. */
interface Layered {
  model: string | undefined;
  dataset: readonly string[];
  recipe: string | undefined;
  adapter: string | undefined;
}

/**
 * `values` of train's options, with what recipe and presets say for those that were not given, and where each value
 * comes from. Throws FormatError for a malformed preset file.
 */
export function withLayers<V extends Layered>(
  values: V,
  given: Context["given"],
): { values: V; sources: Sources } {
  const layered: Record<string, unknown> = Object.fromEntries(Object.entries(values));
  const sources: Sources = {};
  for (const name of Object.keys(trainOptions)) sources[name] = given.get(name) ?? "default";
  const set = (name: string, value: unknown, source: string) => {
    if (sources[name] !== "default") return;
    layered[name] = value;
    sources[name] = source;
  };
  const recipe = recipes.find(({ name }) => name === values.recipe);
  if (recipe !== undefined) {
    const options = recipeOptions(recipe);
    keepSamples(options, layered, sources);
    for (const [name, value] of options) set(name, value, `recipe ${recipe.name}`);
  }
  const model = values.model === undefined ? undefined : presetOfModel(values.model);
  if (model?.prompt_template !== undefined) {
    set("prompt-template", model.prompt_template, `preset ${model.name}`);
  }
  const data = values.dataset.map((text) => presetOfData(parseWeighted(text, existsSync).name));
  const alpha = data[0]?.alpha;
  // Several data sets bring their alpha where all bring the same.
  if (alpha !== undefined && data.every((preset) => preset?.alpha === alpha)) {
    set("alpha", alpha, `preset ${data[0]!.name}`);
  }
  if (values.adapter !== undefined) for (const name of adapterOwn) sources[name] = "adapter";
  return { values: layered as V, sources };
}

function recipeOptions(recipe: Recipe): Map<string, unknown> {
  const table: Readonly<Record<string, OptionSpec>> = trainOptions;
  return new Map(
    Object.entries(recipe.options).map(([name, value]) => {
      return [name, readValue(name, `recipe ${recipe.name}: ${name}`, table[name]!, value)];
    }),
  );
}

/**
 * A recipe sets the samples per step. If only --batch-size or --gradient-accumulation-steps is given, the other one
 * changes so that a step keeps that number, where it divides evenly.
 */
function keepSamples(
  options: Map<string, unknown>,
  values: Readonly<Record<string, unknown>>,
  sources: Sources,
): void {
  const pair = ["batch-size", "gradient-accumulation-steps"] as const;
  const samples = pair.reduce((product, name) => product * Number(options.get(name) ?? Number.NaN), 1);
  for (const [one, other] of [pair, [pair[1], pair[0]]] as const) {
    const rest = samples / Number(values[one]);
    if (sources[one] !== "default" && sources[other] === "default" && Number.isInteger(rest)) {
      options.set(other, rest);
    }
  }
}
