// A sweep's results: each setting's mean and deviation over seeds, as JSON, as a table, and in words.

import type { Table } from "../../report/html.ts";
import { deviationOf, meanOf } from "../../report/statistics.ts";
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
    const values = runs.map(({ measures }) => of(measures)).filter((value) => value !== null);
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

/** A row a setting: mean ± sample deviation over its seeds. */
export function sweepTable(results: readonly SettingResult[]): Table {
  const names = Object.keys(columns) as Column[];
  const seeds = Math.max(...results.map(({ runs }) => runs.length));
  return {
    caption: seeds > 1 ? `Mean ± deviation over ${seeds} seeds, noise off` : "Measured with noise off",
    head: ["setting", ...names.map((name) => columns[name].title)],
    rows: results.map((result) => {
      const summary = summaryOf(result);
      return [result.name, ...names.map((name) => cellOf(summary, name))];
    }),
    numeric: names.map((_, i) => i + 1),
  };
}

/** A difference counts as one from this many standard errors on. */
const CLEAR = 2;

/** What the held-out losses say, and no more: the best setting against the first. */
export function verdict(results: readonly SettingResult[]): string {
  const losses = results.map((result) => ({ name: result.name, ...summaryOf(result).held_out_loss }));
  const [first] = losses;
  if (first === undefined || first.mean === null || losses.length < 2) return "";
  const others = losses.slice(1).filter(({ mean }) => mean !== null);
  if (others.length === 0) return "";
  const best = others.reduce((least, loss) => (loss.mean! < least.mean! ? loss : least));
  const difference = best.mean! - first.mean;
  const much = `${Math.abs(difference).toFixed(4)} ${difference < 0 ? "lower" : "higher"}`;
  const said = `The held-out loss of ${best.name} is ${much} than that of ${first.name} (${best.mean!.toFixed(4)} and ${first.mean.toFixed(4)})`;
  if (best.deviation === null || first.deviation === null)
    return `${said}. With one seed each, nothing says whether another seed would find the same: try --seeds 3.`;
  const error = Math.sqrt(best.deviation ** 2 / best.n + first.deviation ** 2 / first.n);
  const isClear = Math.abs(difference) > CLEAR * error;
  return isClear
    ? `${said}, more than ${CLEAR} standard errors (${error.toFixed(4)}) over ${first.n} seeds.`
    : `${said}, which ${first.n} seeds cannot tell from chance: the standard error is ${error.toFixed(4)}.`;
}
