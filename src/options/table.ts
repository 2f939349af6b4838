// Every option of a training run, declared once. The library's TrainerOptions, the command line, config files, range
// checks, config.json, the identity of a run and docs/options.md come from here; docs/architecture.md says how to add one.

import { dataOptions } from "./data.ts";
import { noiseOptions } from "./noise.ts";
import { optimizationOptions } from "./optimization.ts";
import { outputOptions } from "./output.ts";
import type { TrainingSpec, ValueOf } from "./spec.ts";
import { loraOptions, quantizationOptions, shardOption, tuneOption } from "./tuning.ts";

export const trainingOptions = {
  ...dataOptions,
  ...noiseOptions,
  ...tuneOption,
  ...quantizationOptions,
  ...loraOptions,
  ...optimizationOptions,
  ...shardOption,
  ...outputOptions,
} as const;

type Table = typeof trainingOptions;

/** `max-grad-norm` → `maxGradNorm`. */
type Camel<Name extends string> = Name extends `${infer First}-${infer Rest}`
  ? `${First}${Capitalize<Camel<Rest>>}`
  : Name;

/** The value of an option, null where it has no default and is not given. */
type Settled<S> = S extends TrainingSpec
  ? Readonly<ValueOf<S>> | (S extends { default: unknown } ? never : null)
  : never;

/** All options under their names in camelCase. */
export type TrainOptions = { [Name in keyof Table as Camel<Name>]: Settled<Table[Name]> };

/** What the trainer itself reads. */
export type TrainerOptions = {
  [Name in keyof Table as Table[Name] extends { trainer: true } ? Camel<Name> : never]: Settled<Table[Name]>;
};

export type OptionEntry = readonly [name: string, spec: TrainingSpec];

/** The declarations by name. */
export const optionEntries: readonly OptionEntry[] = Object.entries(trainingOptions);

/** Those that the trainer reads. */
export const trainerEntries = optionEntries.filter(([, spec]) => spec.trainer === true);

/** Options that an adapter to start from brings its own values of. */
export const adapterOwn = optionEntries.filter(([, spec]) => spec.fromAdapter === true).map(([name]) => name);

/** The option's name on the command line: `maxGradNorm` → `max-grad-norm`. */
export function optionName(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** The option's name in TypeScript: `max-grad-norm` → `maxGradNorm`. */
export function optionKey(name: string): string {
  return name.replace(/-(.)/g, (_, letter: string) => letter.toUpperCase());
}

/** Options read from `values` by their names, for the library: in camelCase, null where there is none. */
function settled(entries: readonly OptionEntry[], read: (name: string, spec: TrainingSpec) => unknown) {
  return Object.fromEntries(entries.map(([name, spec]) => [optionKey(name), read(name, spec) ?? null]));
}

export const trainDefaults = settled(optionEntries, (_, spec) => spec.default) as Readonly<TrainOptions>;

export const trainerDefaults = settled(trainerEntries, (_, spec) => spec.default) as Readonly<TrainerOptions>;

/** The trainer's part of the values that a command line gave. */
export function trainerOptions(values: Readonly<Record<string, unknown>>): TrainerOptions {
  return settled(trainerEntries, (name) => values[name]) as TrainerOptions;
}
