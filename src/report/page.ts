// report.html: one file that needs nothing from outside, for one run or many.

import { formatBytes, formatCount, formatSeconds } from "../numbers.ts";
import { shellWord } from "../shell.ts";
import { chartsHtml } from "./charts.ts";
import { compare, differingOptions, type Figures } from "./compare.ts";
import { type Cell, escapeHtml, runLabel, signed, type Table, tableHtml } from "./html.ts";
import { measuresTable } from "./measures.ts";
import type { Run } from "./run.ts";
import { samplesHtml } from "./samples.ts";
import { script } from "./script.ts";
import type { Interval } from "./statistics.ts";
import { css } from "./style.ts";

/** More for the page, by whoever makes it: a demo, a sweep. */
export interface Extras {
  title?: string;
  /** A sentence or two below the title. */
  lead?: string;
  tables?: readonly Table[];
  /** Those of the runs, where they are computed already. */
  figures?: readonly Figures[];
}

/** What a page may take; tables and answers come first, and curves get what is left. */
const MOST_BYTES = 295_000;
/** Where many runs leave curves too little, answers and long options give up half of theirs, again and again. */
const LEAST_SHARE = 1 / 16;
/** Of an option's value in a table. */
const MOST_CHARACTERS = 300;

const shortened = (text: string, most = MOST_CHARACTERS) =>
  text.length <= most ? text : `${text.slice(0, most).toWellFormed()}…`;
const loss = (value: number | null) => value?.toFixed(4) ?? "–";

function intervalText(interval: Interval | null, text: (value: number) => string): string {
  return interval === null ? "" : `${text(interval.low)} to ${text(interval.high)}`;
}

/** A figure with more about it below, such as its 95 % interval. */
function withDetail(value: string, detail: string): Cell {
  return detail === "" ? value : { html: `${escapeHtml(value)}<small>${escapeHtml(detail)}</small>` };
}

/** How many steps are done; of how many, unless all are; whether more are to come. */
function stepsParts({ steps, total_steps, state }: Figures): [done: string, ...rest: string[]] {
  return [
    formatCount(steps),
    ...(total_steps === null || steps === total_steps ? [] : [`of ${formatCount(total_steps)}`]),
    ...(state === "finished" ? [] : [state]),
  ];
}

/** One run: its figures as cards. */
function cards(figures: Figures): string {
  const card = (name: string, value: string | null, more = "") =>
    value === null
      ? ""
      : `<div><dt>${name}</dt><dd>${escapeHtml(value)}${more === "" ? "" : `<small>${escapeHtml(more)}</small>`}</dd></div>`;
  const { eval_loss, best_eval_loss, best_eval_step, train_loss, tokens_per_second } = figures;
  const interval = intervalText(figures.eval_loss_interval, loss);
  const [done, ...rest] = stepsParts(figures);
  return `<dl class="figures">${[
    card("steps", done, rest.join(", ")),
    card(
      "training loss",
      figures.steps === 0 ? null : loss(train_loss),
      train_loss === null ? "not finite at the end" : "mean of the last steps",
    ),
    card(
      "evaluation loss",
      eval_loss === null && best_eval_loss === null ? null : loss(eval_loss),
      eval_loss === null ? "not finite at the end" : interval === "" ? "" : `95 %: ${interval}`,
    ),
    card(
      "best evaluation",
      best_eval_loss === null ? null : loss(best_eval_loss),
      `after step ${formatCount(best_eval_step ?? 0)}`,
    ),
    card("speed", tokens_per_second === null ? null : formatCount(tokens_per_second), "tokens per second"),
    card("peak memory", figures.peak_memory_bytes === null ? null : formatBytes(figures.peak_memory_bytes)),
    card("training time", figures.seconds === null ? null : formatSeconds(figures.seconds)),
  ].join("")}</dl>`;
}

/** Several runs: their figures as a table. */
function comparison(all: readonly Figures[]): string {
  const hasEvaluation = all.some(({ eval_loss }) => eval_loss !== null);
  const hasDifference = all.some(({ difference }) => difference !== null);
  const first = all[0]!.name;
  const head = [
    "run",
    "steps",
    "training loss",
    ...(hasEvaluation ? ["evaluation loss"] : []),
    ...(hasDifference ? [`minus ${first}`] : []),
    ...(hasEvaluation ? ["best evaluation"] : []),
    "tokens/s",
    "memory",
    "time",
  ];
  const rows = all.map((figures, i): Cell[] => {
    const { difference, difference_interval, best_eval_loss, best_eval_step } = figures;
    const compared = difference === null ? "–" : signed(difference);
    const [done, ...rest] = stepsParts(figures);
    return [
      { html: runLabel(figures.name, i) },
      withDetail(done, rest.join(", ")),
      loss(figures.train_loss),
      ...(hasEvaluation
        ? [withDetail(loss(figures.eval_loss), intervalText(figures.eval_loss_interval, loss))]
        : []),
      ...(hasDifference ? [withDetail(compared, intervalText(difference_interval, signed))] : []),
      ...(hasEvaluation
        ? [
            withDetail(
              loss(best_eval_loss),
              best_eval_step === null ? "" : `step ${formatCount(best_eval_step)}`,
            ),
          ]
        : []),
      figures.tokens_per_second === null ? "–" : formatCount(figures.tokens_per_second),
      figures.peak_memory_bytes === null ? "–" : formatBytes(figures.peak_memory_bytes),
      figures.seconds === null ? "–" : formatSeconds(figures.seconds),
    ];
  });
  const numeric = head.map((_, i) => i).slice(1);
  const how = hasDifference
    ? `<p class="note">Below a loss: its 95 % interval over evaluation samples. Below a difference: its 95 % interval, from a paired bootstrap over the samples that both runs were evaluated on. If that interval contains 0, it is open which run is better. No interval tells what another seed would do.</p>`
    : "";
  return `${tableHtml({ caption: "Figures of each run", head, rows, numeric })}${how}`;
}

function differences(runs: readonly Run[], share: number): string {
  if (runs.length < 2) return "";
  const most = Math.ceil(MOST_CHARACTERS * share);
  const rows = differingOptions(runs).map((row) => row.map((text) => shortened(text, most)));
  if (rows.length === 0) return '<h2>Options that differ</h2><p class="soft">None.</p>';
  const head = ["option", ...runs.map(({ name }) => name)];
  return `<h2>Options that differ</h2>${tableHtml({ caption: "Value of each option by run", head, rows })}`;
}

/** All options of a run, those that were chosen first. */
function optionsHtml(run: Run): string {
  if (run.options.size === 0) return "";
  const names = [...run.options.keys()].sort();
  const order = [
    ...names.filter((name) => run.chosen.has(name)),
    ...names.filter((name) => !run.chosen.has(name)),
  ];
  const rows = order.map((name): Cell[] => [
    name,
    shortened(run.options.get(name)!),
    run.chosen.has(name) ? "" : "default",
  ]);
  const hasOrigins = run.chosen.size > 0;
  const table = tableHtml({
    caption: `Options of ${run.name}`,
    head: ["option", "value", ...(hasOrigins ? ["origin"] : [])],
    rows: hasOrigins ? rows : rows.map((row) => row.slice(0, 2)),
  });
  return `<details><summary>All options of ${escapeHtml(run.name)}</summary>${table}</details>`;
}

function subtitle(runs: readonly Run[]): string {
  const one = (name: string) => [...new Set(runs.map(({ options }) => options.get(name)))];
  const [models, data, devices] = [
    one("model"),
    one("dataset"),
    [...new Set(runs.map(({ device }) => device))],
  ];
  const parts = [
    models.length === 1 && models[0] !== undefined ? models[0] : null,
    data.length === 1 && data[0] !== undefined ? data[0] : null,
    devices.length === 1 ? devices[0]! : null,
  ];
  return parts.filter((part) => part !== null).join(" · ");
}

/** The page. Throws nothing for runs that are damaged: what they lack is left out, and said. */
export function reportHtml(runs: readonly Run[], version: string, extras: Extras = {}): string {
  const figures = extras.figures ?? compare(runs);
  for (let share = 1; ; share /= 2) {
    const page = pageOf(runs, figures, version, extras, share);
    if (share <= LEAST_SHARE || Buffer.byteLength(page) <= MOST_BYTES) return page;
  }
}

/** The page with `share` of what answers and options may take. */
function pageOf(
  runs: readonly Run[],
  figures: readonly Figures[],
  version: string,
  extras: Extras,
  share: number,
): string {
  const title = extras.title ?? (runs.length === 1 ? runs[0]!.name : `${runs.length} runs`);
  const notes = runs.flatMap(({ name, notes }) => notes.map((note) => `${name}: ${note}`));
  const legend =
    runs.length === 1
      ? `<div hidden>${runLabel(runs[0]!.name, 0)}</div>`
      : `<ul class="legend" aria-label="Runs">${runs.map(({ name }, i) => `<li>${runLabel(name, i)}</li>`).join("")}</ul>`;
  const samples = samplesHtml(runs, share);
  const measured = measuresTable(figures);
  const options = runs.length > 4 ? "" : runs.map(optionsHtml).join("\n").trim();
  const page = (charts: string) => `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>${escapeHtml(title)} – neftune report</title>
<link rel="icon" href="data:,"><style>${css}</style></head><body><main>
<header><h1>${escapeHtml(title)}</h1><p class="soft">${escapeHtml(subtitle(runs))}</p>
${extras.lead === undefined ? "" : `<p class="lead">${escapeHtml(extras.lead)}</p>`}</header>
${notes.map((note) => `<p class="warning">${escapeHtml(note)}</p>`).join("\n")}
${(extras.tables ?? []).map((table) => `<h2>${escapeHtml(table.caption)}</h2>${tableHtml(table)}`).join("\n")}
${runs.length === 1 ? cards(figures[0]!) : `<h2>Runs</h2>${comparison(figures)}`}
${differences(runs, share)}
<h2>Curves</h2>
${charts === "" ? '<p class="soft">No step is recorded yet.</p>' : `${legend}<div class="charts">${charts}</div>`}
${samples === "" ? "" : `<h2>Answers</h2>${measured === null ? "" : tableHtml(measured)}${samples}`}
${options === "" ? "" : `<h2>Options</h2>${options}`}
<footer>Made by neftune ${escapeHtml(version)}: <code>neftune report ${escapeHtml(runs.map(({ path }) => shellWord(path)).join(" "))}</code></footer>
</main><script>${script}</script></body></html>
`;
  // Any text in place of the charts: without it there is no legend.
  return page(chartsHtml(runs, MOST_BYTES - Buffer.byteLength(page("–"))).trim());
}
