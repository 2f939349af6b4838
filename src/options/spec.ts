// What the declaration of an option says, and the types and checks that follow from it. The command line, config files,
// the library and the docs read the same declarations, so they cannot disagree.

import { isTemplateDate } from "../data/template-date.ts";

interface Described {
  help: string;
  /** Heading in --help. */
  group?: string;
  /** What --help calls the value. */
  value?: string;
}

interface Range {
  min?: number;
  max?: number;
  /** Smaller than every allowed value. */
  above?: number;
  /** Greater than every allowed value. */
  below?: number;
}

type NumberSpec = Described & { type: "int" | "float"; default?: number } & Range;

export type OptionSpec =
  | (Described & { type: "string" | "path"; default?: string })
  /** YYYY-MM-DD. */
  | (Described & { type: "date"; default?: string })
  | NumberSpec
  | (Described & { type: "bool"; default?: boolean })
  | (Described & { type: "enum"; values: readonly string[]; default?: string })
  /** Comma-separated; with `values`, only those. `all`, `none`: words that stand for all of them, or for none. */
  | (Described & {
      type: "list";
      values?: readonly string[];
      all?: readonly string[];
      none?: readonly string[];
      default?: readonly string[];
    })
  /** May be given several times. */
  | (Described & { type: "repeated"; default?: readonly string[] });

export type OptionTable = Readonly<Record<string, OptionSpec>>;

export type ValueOf<S extends OptionSpec> = S extends { type: "int" | "float" }
  ? number
  : S extends { type: "bool" }
    ? boolean
    : S extends { type: "enum"; values: readonly (infer V)[] }
      ? V
      : S extends { type: "list"; values: readonly (infer V)[] }
        ? V[]
        : S extends { type: "list" | "repeated" }
          ? string[]
          : string;

/** The values by option name; undefined where one has no default and was not given. */
export type Values<T extends OptionTable> = {
  [K in keyof T]: T[K] extends { default: unknown } ? ValueOf<T[K]> : ValueOf<T[K]> | undefined;
};

/** What the options of a training run say beyond that. */
export interface TrainingFacts {
  /** What other trainers call the option, in kebab case. */
  aliases?: readonly string[];
  /** Other spellings of its values. */
  valueAliases?: Readonly<Record<string, string>>;
  /** The trainer reads it: it is one of TrainerOptions, under its name in camelCase. */
  trainer?: true;
  /**
   * What a resumed run must have in common with its checkpoints; absent: the option may change.
   * - `value`: this option's value.
   * - `unless default`: the same, but the default counts as absent. Right for options that older runs do not know.
   * - `derived`: something computed from the option, as identity.ts says.
   * - `rounding`: the option may change, but the last bits of the numbers change with it.
   */
  identity?: "value" | "unless default" | "derived" | "rounding";
  /**
   * The mode in which the option has an effect, one or several values of another option; null is any value that was given.
   * Given as a flag in another one, it is refused, unless it has the value `off`, which asks for nothing.
   */
  onlyWith?: { option: string; value: string | readonly string[] | null; off?: number };
  /** An adapter to start from brings its own value. */
  fromAdapter?: true;
}

export type TrainingSpec = OptionSpec & TrainingFacts;

/** Options under one heading of --help. */
export function inGroup<const T extends Readonly<Record<string, TrainingSpec>>>(
  group: string,
  options: T,
): { readonly [K in keyof T]: T[K] & { readonly group: string } } {
  const entries = Object.entries(options).map(([name, spec]) => [name, { ...spec, group }]);
  return Object.fromEntries(entries);
}

/** A declaration for a command that does not group its options. */
export function ungrouped<S extends OptionSpec>(spec: S): Omit<S, "group"> {
  const { group: _group, ...rest } = spec;
  return rest;
}

/** What an option takes, in words. */
export function expected(spec: OptionSpec): string {
  switch (spec.type) {
    case "int":
    case "float": {
      const noun = spec.type === "int" ? "a whole number" : "a number";
      const parts: string[] = [];
      if (spec.min !== undefined) parts.push(`at least ${spec.min}`);
      if (spec.above !== undefined) parts.push(`above ${spec.above}`);
      if (spec.max !== undefined) parts.push(`at most ${spec.max}`);
      if (spec.below !== undefined) parts.push(`below ${spec.below}`);
      if (parts.length === 0) return noun;
      const preposition = /^at/.test(parts[0]!) ? " of" : "";
      return `${noun}${preposition} ${parts.join(" and ")}`;
    }
    case "bool":
      return "on or off";
    case "enum":
      return `one of ${spec.values.join(", ")}`;
    case "list":
      return spec.values === undefined ? "names separated by commas" : `some of ${spec.values.join(",")}`;
    case "path":
      return "a path";
    case "date":
      return "a date such as 2024-07-26";
    case "repeated":
      return "a text or a list of them";
    default:
      return "a text";
  }
}

/**
 * True for a number of the option's type and range. What it has to be above or below it stays after rounding to float32,
 * as kernels get it: a dropout of 1 - 1e-10 is 1 there, an epsilon of 1e-46 is 0.
 */
export function isInRange(spec: NumberSpec, number: number): boolean {
  const { min = -Infinity, max = Infinity, above, below } = spec;
  const isOfType = spec.type === "int" ? Number.isSafeInteger(number) : Number.isFinite(number);
  const rounded = Math.fround(number);
  const isWithin = (above === undefined || rounded > above) && (below === undefined || rounded < below);
  return isOfType && number >= min && number <= max && isWithin;
}

/** True for a value that the option can have; of lists and texts the type alone is looked at. */
export function accepts(spec: OptionSpec, value: unknown): boolean {
  switch (spec.type) {
    case "int":
    case "float":
      return typeof value === "number" && isInRange(spec, value);
    case "bool":
      return typeof value === "boolean";
    case "enum":
      return typeof value === "string" && spec.values.includes(value);
    case "list":
    case "repeated":
      return Array.isArray(value);
    case "date":
      return isTemplateDate(value);
    default:
      return typeof value === "string";
  }
}
