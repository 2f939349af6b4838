// A sweep's results: each setting's mean and deviation over seeds, as JSON, as a table, and in words.

import { signed, type Table } from "../../report/html.ts";
import { deviationOf, meanOf, welchInterval } from "../../report/statistics.ts";
import type { RunMeasures } from "./measure.ts";

export interface SweepRun {
  path: string;
  seed: number;
  measures: RunMeasures;
}

export interface SettingResult {
  name: string;
  values: Readonly<Record<string, unknown>>;
  runs: readonly SweepRun[];
  /** Runs that diverged, so that nothing was measured of them. */
  diverged?: readonly DivergedSweepRun[];
}

export interface DivergedSweepRun {
  path: string;
  seed: number;
  reason: string;
}

/** The measures, by the names that they have in sweep.json. */
const columns = {
  train_loss: { title: "training loss", of: (m: RunMeasures) => m.train_loss, digits: 4 },
  held_out_loss: { title: "held-out loss", of: (m: RunMeasures) => m.held_out_loss, digits: 4 },
  rouge_l: { title: "ROUGE-L", of: (m: RunMeasures) => m.answers.rouge_l, digits: 3 },
  bleu: { title: "BLEU", of: (m: RunMeasures) => m.answers.bleu, digits: 1 },
  exact: { title: "exact answers", of: (m: RunMeasures) => m.exact, digits: 3 },
  words: { title: "words", of: (m: RunMeasures) => m.answers.words, digits: 1 },
  repetition_2: { title: "2-gram repetition", of: (m: RunMeasures) => m.answers.repetition_2, digits: 3 },
  log_diversity: { title: "log-diversity", of: (m: RunMeasures) => m.answers.log_diversity, digits: 2 },
} as const;

type Column = keyof typeof columns;
export type Summary = Record<Column, { mean: number | null; deviation: number | null; n: number }>;

/** Mean and sample deviation of every measure over a setting's runs. */
export function summaryOf({ runs }: SettingResult): Summary {
  const entries = Object.entries(columns).map(([name, { of }]) => {
    const values = runs
      .map(({ measures }) => of(measures) ?? Number.NaN)
      .filter((value) => Number.isFinite(value));
    const mean = values.length === 0 ? null : meanOf(values);
    return [name, { mean, deviation: deviationOf(values), n: values.length }];
  });
  return Object.fromEntries(entries) as Summary;
}

function cellOf(summary: Summary, name: Column): string {
  const { mean, deviation } = summary[name];
  const { digits } = columns[name];
  if (mean === null) return "–";
  return deviation === null ? mean.toFixed(digits) : `${mean.toFixed(digits)} ± ${deviation.toFixed(digits)}`;
}

function nameOf({ name, runs, diverged = [] }: SettingResult): string {
  if (diverged.length === 0) return name;
  return `${name} (${diverged.length} of ${runs.length + diverged.length} diverged)`;
}

/** A row a setting: mean ± sample deviation over its seeds. */
export function sweepTable(results: readonly SettingResult[]): Table {
  const names = Object.keys(columns) as Column[];
  const seeds = Math.max(...results.map(({ runs }) => runs.length));
  return {
    caption: seeds > 1 ? `Mean ± deviation over ${seeds} seeds, noise off` : "Measured with noise off",
    head: ["setting", ...names.map((name) => columns[name].title)],
    rows: results.map((result) => {
      const summary = summaryOf(result);
      return [nameOf(result), ...names.map((name) => cellOf(summary, name))];
    }),
    numeric: names.map((_, i) => i + 1),
  };
}

interface SettingLoss {
  name: string;
  mean: number;
  deviation: number | null;
  n: number;
}

/** What the held-out losses say, and no more: the best of the other settings against the first. */
export function verdict(results: readonly SettingResult[]): string {
  const losses = results.flatMap((result) => {
    const { mean, deviation, n } = summaryOf(result).held_out_loss;
    const held = result.runs[0]?.measures.held_out;
    return mean === null ? [] : [{ name: result.name, mean, deviation, n, held }];
  });
  const [first] = losses;
  if (first === undefined) return "";
  // A template or a length that is swept changes the tokens that a loss is over.
  const comparable = losses.filter(({ held }) => held === first.held);
  const apart = losses.length - comparable.length;
  const [others, which] =
    apart === 1 ? ["1 other setting was", "its loss"] : [`${apart} other settings were`, "their losses"];
  const caveat = `${others} evaluated on different held-out tokens than ${first.name}, so ${which} cannot be compared.`;
  return [verdictOn(comparable), ...(apart === 0 ? [] : [caveat])].filter((text) => text !== "").join(" ");
}

/** Of settings that were evaluated on the same tokens. */
function verdictOn([first, ...others]: readonly SettingLoss[]): string {
  if (first === undefined || others.length === 0) return "";
  const best = others.reduce((least, loss) => (loss.mean < least.mean ? loss : least));
  const said = comparison(first, best, others.length);
  const n = Math.min(first.n, best.n);
  if (best.deviation === null || first.deviation === null)
    return `${said}. With a single seed, nothing says whether another seed would find the same: try --seeds 3.`;
  const { low, high } = welchInterval(
    { ...first, deviation: first.deviation },
    { ...best, deviation: best.deviation },
  );
  const range = `the 95 % interval of the difference is ${signed(low)} to ${signed(high)}`;
  return low > 0 || high < 0
    ? `${said}; over ${n} seeds, ${range}.`
    : `${said}, which ${n} seeds cannot tell from chance: ${range}.`;
}

/** "The held-out loss of alpha-5 is 0.0123 lower than that of alpha-0 (1.1877 and 1.2000)". */
function comparison(first: { name: string; mean: number }, best: typeof first, others: number): string {
  const [mean, firstMean] = [best.mean.toFixed(4), first.mean.toFixed(4)];
  const whose = others === 1 ? best.name : `${best.name}, the lowest of ${others},`;
  if (mean === firstMean) return `The held-out losses of ${first.name} and ${best.name} are equal (${mean})`;
  const difference = best.mean - first.mean;
  const much = `${Math.abs(difference).toFixed(4)} ${difference < 0 ? "lower" : "higher"}`;
  return `The held-out loss of ${whose} is ${much} than that of ${first.name} (${mean} and ${firstMean})`;
}
