// What a config.json says of rotary position embeddings, read as Transformers 5 reads it: rope_parameters, its older
// name rope_scaling, and rope_theta beside or inside either.

import { isDeepStrictEqual } from "node:util";
import { Fields, show } from "./config-fields.ts";

export type RopeScaling =
  | { type: "linear"; factor: number }
  | {
      type: "llama3";
      factor: number;
      lowFreqFactor: number;
      highFreqFactor: number;
      originalMaxPositionEmbeddings: number;
    }
  | {
      type: "yarn";
      factor: number;
      /** What cosines and sines are multiplied by. */
      attentionFactor: number;
      betaFast: number;
      betaSlow: number;
      originalMaxPositionEmbeddings: number;
      /** Whether the borders of the ramp are rounded to whole dimensions. */
      truncate: boolean;
    };

export interface RopeConfig {
  ropeTheta: number;
  ropeScaling: RopeScaling | null;
}

const DEFAULT_THETA = 10000;

/** Reads RoPE's part of a config; `path` is the config's. Throws FormatError with the field that is wrong or not supported. */
export function parseRope(path: string, config: Fields, maxPositionEmbeddings: number): RopeConfig {
  const whole = {
    theta: config.positive("rope_theta", DEFAULT_THETA),
    originalLength: config.get("original_max_position_embeddings") ?? null,
    maxPositionEmbeddings,
  };
  const [parameters, scaling] = (["rope_parameters", "rope_scaling"] as const).map((name) => {
    const value = config.get(name) ?? null;
    if (value === null) return null;
    const fields = new Fields(`${path}: ${name}`, value);
    return fields.isEmpty ? null : { fields, rope: parseOne(fields, config, whole) };
  });
  if (parameters && scaling) {
    // A rope_scaling of Transformers 4 leaves rope_theta out.
    const theta = scaling.fields.get("rope_theta") === undefined ? parameters.rope.ropeTheta : undefined;
    const said = { ...scaling.rope, ropeTheta: theta ?? scaling.rope.ropeTheta };
    if (!isDeepStrictEqual(said, parameters.rope)) {
      config.fail(
        `rope_scaling (${describe(said)}) and rope_parameters (${describe(parameters.rope)}) say different things; remove one`,
      );
    }
  }
  return (parameters ?? scaling)?.rope ?? { ropeTheta: whole.theta, ropeScaling: null };
}

const describe = ({ ropeTheta, ropeScaling }: RopeConfig) =>
  `${ropeScaling?.type ?? "default"}${ropeScaling === null ? "" : `, factor ${ropeScaling.factor}`}, rope_theta ${ropeTheta}`;

/** What holds for whichever object the scaling is in. */
interface Whole {
  theta: number;
  /** original_max_position_embeddings of the config itself, which wins over that inside. */
  originalLength: unknown;
  maxPositionEmbeddings: number;
}

function parseOne(fields: Fields, config: Fields, whole: Whole): RopeConfig {
  fields.refuseUnless("partial_rotary_factor", [1], "RoPE on the whole head is");
  return {
    ropeTheta: fields.positive("rope_theta", whole.theta),
    ropeScaling: parseScaling(fields, config, whole),
  };
}

function parseScaling(fields: Fields, config: Fields, whole: Whole): RopeScaling | null {
  const type = fields.get("rope_type") ?? fields.get("type") ?? "default";
  switch (type) {
    case "default":
      return null;
    case "linear":
      return { type: "linear", factor: fields.positive("factor") };
    case "llama3":
      return parseLlama3(fields, config, whole);
    case "yarn":
      return parseYarn(fields, config, whole);
    default:
      return fields.fail(`rope_type ${show(type)} is not supported; default, linear, llama3 and yarn are`);
  }
}

function originalLength(fields: Fields, config: Fields, { originalLength, maxPositionEmbeddings }: Whole) {
  const name = "original_max_position_embeddings";
  return originalLength === null ? fields.count(name, maxPositionEmbeddings) : config.count(name);
}

function parseLlama3(fields: Fields, config: Fields, whole: Whole): RopeScaling {
  const lowFreqFactor = fields.positive("low_freq_factor");
  const highFreqFactor = fields.positive("high_freq_factor");
  if (highFreqFactor <= lowFreqFactor) fields.fail("high_freq_factor must be above low_freq_factor");
  return {
    type: "llama3",
    factor: fields.positive("factor"),
    lowFreqFactor,
    highFreqFactor,
    originalMaxPositionEmbeddings: originalLength(fields, config, whole),
  };
}

function parseYarn(fields: Fields, config: Fields, whole: Whole): RopeScaling {
  const originalMaxPositionEmbeddings = originalLength(fields, config, whole);
  // null, but not absent, stands for the ratio of the two lengths.
  const ratio = whole.maxPositionEmbeddings / originalMaxPositionEmbeddings;
  const factor = fields.positive("factor", fields.get("factor") === null ? ratio : undefined);
  const magnitude = (scale: number) => (factor <= 1 ? 1 : 0.1 * scale * Math.log(factor) + 1);
  const optional = (name: string) => (fields.get(name) ? fields.positive(name) : null);
  const [scale, allDimensions] = [optional("mscale"), optional("mscale_all_dim")];
  const usual =
    scale !== null && allDimensions !== null ? magnitude(scale) / magnitude(allDimensions) : magnitude(1);
  return {
    type: "yarn",
    factor,
    attentionFactor: fields.positive("attention_factor", usual),
    betaFast: optional("beta_fast") ?? 32,
    betaSlow: optional("beta_slow") ?? 1,
    originalMaxPositionEmbeddings,
    truncate: fields.flag("truncate", true),
  };
}

/** The same as config.json's rope_scaling, in Transformers 4's wording, which 5 reads too. */
export function ropeScalingToJson(scaling: RopeScaling | null): Record<string, unknown> | null {
  switch (scaling?.type) {
    case undefined:
      return null;
    case "linear":
      return { rope_type: "linear", factor: scaling.factor };
    case "llama3":
      return {
        rope_type: "llama3",
        factor: scaling.factor,
        low_freq_factor: scaling.lowFreqFactor,
        high_freq_factor: scaling.highFreqFactor,
        original_max_position_embeddings: scaling.originalMaxPositionEmbeddings,
      };
    case "yarn":
      return {
        rope_type: "yarn",
        factor: scaling.factor,
        attention_factor: scaling.attentionFactor,
        beta_fast: scaling.betaFast,
        beta_slow: scaling.betaSlow,
        original_max_position_embeddings: scaling.originalMaxPositionEmbeddings,
        truncate: scaling.truncate,
      };
  }
}
