// neftune report: a page of curves, figures and answers for one run or many.

import { NeftuneError, UsageError } from "../errors.ts";
import { writeTextAtomically } from "../formats/io.ts";
import {
  compare,
  differingOptions,
  type Figures,
  markOf,
  measureRows,
  namesOf,
  plotText,
  type Run,
  readRun,
  reportHtml,
} from "../report/index.ts";
import { RunLock } from "../train/run-lock.ts";
import { readOutputs } from "./analyze.ts";
import { defineCommand } from "./command.ts";
import { countOf, fitTable, formatBytes, formatCount, formatSeconds, toJson } from "./terminal/format.ts";

/** True where a process writes to the folder, here or on a machine that shares it. */
function isRunning(folder: string): boolean {
  try {
    RunLock.expectFree(folder);
    return false;
  } catch (error) {
    if (error instanceof NeftuneError && error.code === "busy") return true;
    throw error;
  }
}

/** The runs in the folders, named apart. Throws UsageError for a folder that holds none. */
export function readRuns(paths: readonly string[]): Run[] {
  const names = namesOf(paths);
  return paths.map((path, i) => readRun(path, names[i]!, isRunning(path)));
}

/** Throws UsageError unless there are no files or as many as runs. */
function expectFilePerRun(files: readonly string[], runs: number): void {
  if (files.length !== 0 && files.length !== runs)
    throw new UsageError(
      `--outputs is given ${countOf(files.length, "time")} for ${countOf(runs, "run")}; give it once per run, in the same order`,
    );
}

/** The runs with the outputs in `files`, one per run in the same order, for their answers. Throws UsageError. */
async function withOutputs(runs: readonly Run[], files: readonly string[]): Promise<readonly Run[]> {
  if (files.length === 0) return runs;
  return await Promise.all(
    runs.map(async (run, i) => {
      const rows = await readOutputs(files[i]!);
      const last = rows.map(({ text, question, references }, row) => ({
        ...{ question: question || `row ${row + 1}`, output: text, references, step: null },
      }));
      return { ...run, answers: { ...run.answers, last } };
    }),
  );
}

export const report = defineCommand({
  positionals: {
    usage: "RUN…",
    min: 1,
    max: Number.POSITIVE_INFINITY,
    help: "RUN is the folder of a training run: finished, still running, or stopped.",
  },
  description:
    "Writes one HTML page that needs no network: curves, figures, the options that differ, and the runs' answers side by side, measured as neftune analyze does. With several runs, each is compared with the first: the difference of their evaluation losses comes with a 95 % interval from a paired bootstrap over the samples that both were evaluated on.",
  options: {
    output: {
      type: "path",
      default: "report.html",
      value: "FILE",
      help: "page to write; an existing one is replaced",
    },
    outputs: {
      type: "repeated",
      value: "FILE",
      help: "outputs of a run, as neftune analyze reads them, in place of the answers in its folder; once per RUN, in the same order",
    },
    text: {
      type: "bool",
      default: false,
      help: "draw the loss curve and the figures in the terminal instead of writing a page",
    },
  },
  examples: [
    ["neftune report runs/llama2-7b-alpaca_data-1", "writes report.html"],
    ["neftune report runs/plain runs/noisy --output plain-noisy.html", "compares two runs"],
    ["neftune report runs/noisy --text", "a quick look, also at a run that is still going"],
  ],
  async run(values, context) {
    const files = values.outputs ?? [];
    expectFilePerRun(files, context.positionals.length);
    const runs = await withOutputs(readRuns(context.positionals), files);
    for (const { name, notes } of runs) for (const note of notes) context.note(`${name}: ${note}`);
    const figures = compare(runs);
    if (!values.text) writeTextAtomically(values.output, reportHtml(runs, context.version, { figures }));
    if (values.json) {
      const differing = Object.fromEntries(differingOptions(runs).map(([name, ...own]) => [name, own]));
      const where = values.text ? {} : { report: values.output };
      context.print(toJson({ ...where, runs: figures, differing_options: differing }));
      return;
    }
    if (!values.text) {
      context.print(`report: ${values.output}`);
      return;
    }
    const plot = plotText(runs, context.columns ?? 80);
    const parts = [
      ...(plot.length === 0 ? [] : [`training loss\n${plot.join("\n")}`]),
      figuresText(figures, context.columns),
      ...optionsText(runs, context.columns),
    ];
    context.print(parts.join("\n\n"));
  },
});

/** A row per figure, a column per run. */
function figuresText(all: readonly Figures[], columns: number | undefined): string {
  const row = (label: string, show: (figures: Figures) => string) => [label, ...all.map(show)];
  const loss = (value: number | null) => value?.toFixed(4) ?? "-";
  const interval = (name: "eval_loss_interval" | "difference_interval") =>
    row("  95 % interval", ({ [name]: range }) =>
      range === null ? "-" : `${loss(range.low)} to ${loss(range.high)}`,
    );
  const rows = [
    ["", ...all.map(({ name }, i) => (all.length === 1 ? name : `${markOf(i, all.length)}  ${name}`))],
    row("steps", ({ steps, total_steps, state }) => {
      const of = total_steps === null || total_steps === steps ? "" : ` of ${formatCount(total_steps)}`;
      return `${formatCount(steps)}${of}${state === "finished" ? "" : `, ${state}`}`;
    }),
    row("training loss, mean of the last steps", ({ train_loss }) => loss(train_loss)),
  ];
  const has = (name: keyof Figures) => all.some((figures) => figures[name] !== null);
  if (has("eval_loss")) rows.push(row("evaluation loss", ({ eval_loss }) => loss(eval_loss)));
  if (has("eval_loss_interval")) rows.push(interval("eval_loss_interval"));
  if (has("difference")) {
    rows.push(
      row("  minus the first run's", ({ difference }) => loss(difference)),
      interval("difference_interval"),
    );
  }
  if (has("best_eval_loss")) {
    rows.push(
      row("best evaluation loss", ({ best_eval_loss, best_eval_step }) =>
        best_eval_loss === null ? "-" : `${loss(best_eval_loss)} (step ${formatCount(best_eval_step ?? 0)})`,
      ),
    );
  }
  rows.push(
    row("tokens/s", ({ tokens_per_second: rate }) => (rate === null ? "-" : formatCount(rate))),
    row("peak memory", ({ peak_memory_bytes: bytes }) => (bytes === null ? "-" : formatBytes(bytes))),
    row("training time", ({ seconds }) => (seconds === null ? "-" : formatSeconds(seconds))),
  );
  rows.push(
    ...measureRows(
      all.map(({ answers }) => answers),
      "-",
    ),
  );
  return fitTable(
    rows,
    all.map((_, i) => i + 1),
    columns,
  );
}

function optionsText(runs: readonly Run[], columns: number | undefined): string[] {
  const rows = differingOptions(runs);
  if (rows.length === 0) return [];
  return [fitTable([["options that differ", ...runs.map(({ name }) => name)], ...rows], [], columns)];
}
