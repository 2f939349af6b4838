// The runs of a sweep: every combination of the values of what is swept, each with several seeds.

import { UsageError } from "../../errors.ts";
import { parseArguments } from "../arguments/options.ts";
import { trainOptions } from "../arguments/train-options.ts";

export interface Setting {
  /** "alpha-5", "alpha-5-learning-rate-2e-4": a folder's name. */
  name: string;
  /** Values by option. */
  values: Readonly<Record<string, unknown>>;
}

/** What the paper compares. */
const PAPER_ALPHAS = ["0", "5", "10", "15"];
/** A sweep says these itself. */
const NOT_SWEPT = ["output", "resume", "seed", "report", "report-to", "model", "recipe", "adapter"];
/** What runs are compared on is the same for all of them. */
const HELD_OUT = ["eval-dataset", "eval-split", "eval-samples"];
/** What chooses the rows that --eval-split draws from. */
const CHOOSES_ROWS = ["dataset", "split", "columns", "samples"];

/** "learning-rate=1e-4,2e-4" → its option and values as text. Throws UsageError. */
function parseSwept(text: string): [option: string, values: string[]] {
  const [, option, list] = /^([a-z0-9_-]+)=(.+)$/i.exec(text) ?? [];
  if (option === undefined || list === undefined)
    throw new UsageError(
      `--sweep expects OPTION=VALUE,VALUE,…, such as learning-rate=1e-4,2e-4; got ${text}`,
    );
  return [option, list.split(",").map((value) => value.trim())];
}

/** A value as the option itself reads it, under the option's own name. */
function readSwept(option: string, text: string): [name: string, value: unknown] {
  const { given } = parseArguments([`--${option}=${text}`], trainOptions, false);
  const [name, { value }] = [...given][0]!;
  if (NOT_SWEPT.includes(name)) throw new UsageError(`--sweep ${name} cannot be swept`);
  if (HELD_OUT.includes(name))
    throw new UsageError(`--sweep ${name} cannot be swept: runs are compared on the same held-out data`);
  return [name, value];
}

/** Throws UsageError where --eval-split would hold out different samples for each value: their losses cannot be compared. */
export function expectSameHeldOut(settings: readonly Setting[]): void {
  const names = settings.flatMap(({ values }) => Object.keys(values));
  const name = names.find((swept) => CHOOSES_ROWS.includes(swept));
  if (name === undefined) return;
  throw new UsageError(
    `--sweep ${name} with --eval-split would hold out different samples for each value; give --eval-dataset instead`,
  );
}

/** The settings, in the order in which they were given. `alphas`: undefined unless --alpha was given. */
export function settingsOf(alphas: readonly string[] | undefined, sweeps: readonly string[]): Setting[] {
  const swept = sweeps.map(parseSwept);
  if (alphas !== undefined || swept.length === 0) swept.unshift(["alpha", [...(alphas ?? PAPER_ALPHAS)]]);
  let settings: Setting[] = [{ name: "", values: {} }];
  for (const [option, texts] of swept) {
    settings = settings.flatMap((setting) =>
      texts.map((text) => {
        const [name, value] = readSwept(option, text);
        if (name in setting.values) throw new UsageError(`${name} is swept twice; give it once`);
        const part = `${name}-${text.replaceAll(/[^\w.+-]+/g, "_")}`;
        return {
          name: setting.name === "" ? part : `${setting.name}-${part}`,
          values: { ...setting.values, [name]: value },
        };
      }),
    );
  }
  const isLater = (keys: readonly string[], i: number) => keys.indexOf(keys[i]!) !== i;
  // 0 and 0.0 are one value; a/b and a_b would share a folder.
  const [names, values] = [
    settings.map((setting) => setting.name),
    settings.map((setting) => JSON.stringify(setting.values)),
  ];
  const twice = settings.find((_, i) => isLater(names, i) || isLater(values, i));
  if (twice !== undefined) throw new UsageError(`${twice.name} is in the sweep twice; give each value once`);
  return settings;
}
