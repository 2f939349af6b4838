// neftune sweep: the same training with several values of alpha, or of any other option, and several seeds, compared.

import { join } from "node:path";
import { InterruptedError, UsageError } from "../errors.ts";
import { writeTextAtomically } from "../formats/io.ts";
import { reportHtml } from "../report/index.ts";
import { shellWord } from "../shell.ts";
import { DivergedError, type RunReporter } from "../train/index.ts";
import { openDevice } from "./arguments/device.ts";
import { type Context, defineCommand } from "./command.ts";
import { readQuestions } from "./inputs/questions.ts";
import { expectNewFolder } from "./outputs/new-folder.ts";
import { readRuns } from "./report.ts";
import { REPORT_FILE, writePages } from "./run/files.ts";
import { isElsewhere, type PlannedRun } from "./run/plan.ts";
import { noteRun } from "./run/settings.ts";
import { expectSameHeldOut, settingsOf } from "./sweep/grid.ts";
import { planSweep, type SweptRun, sharedOptions } from "./sweep/plan.ts";
import {
  type DivergedSweepRun,
  type SettingResult,
  type SweepRun,
  summaryOf,
  sweepTable,
  verdict,
} from "./sweep/results.ts";
import { SweepRunner } from "./sweep/runs.ts";
import { countOf, fitTable, toJson } from "./terminal/format.ts";
import { progressReporter } from "./terminal/progress.ts";
import { wrap } from "./terminal/text.ts";

const SUMMARY_FILE = "sweep.json";
/** The paper's number of prompts is its evaluation sets' own; so many held-out rows say enough of a run's answers. */
const PROMPTS = 64;

export const sweep = defineCommand({
  description: [
    "Trains one run for each value and seed into OUTPUT/alpha-5-seed-1 and so on, with train's options. All runs share the tokenized data and the held-out samples. Each run is then measured with noise off: loss on the training data (its first 512 samples) and on the held-out data, and ROUGE-L, BLEU, length, 2-gram repetition and log-diversity of its answers, as neftune analyze computes them.",
    "Writes sweep.json and report.html with mean and deviation over seeds. Ctrl-C stops after a checkpoint; --resume does what is missing.",
  ].join("\n"),
  options: {
    alpha: {
      type: "list",
      group: "Sweep",
      value: "A,B,…",
      help: "values of NEFTune's alpha to compare (default 0,5,10,15 unless --sweep is given)",
    },
    sweep: {
      type: "repeated",
      group: "Sweep",
      value: "OPTION=A,B,…",
      help: "values of another option of train to compare, such as learning-rate=1e-4,2e-4; may be repeated, and every combination is run",
    },
    seeds: {
      type: "int",
      group: "Sweep",
      default: 1,
      min: 1,
      help: "runs of each setting, with seeds --seed, --seed + 1 and so on",
    },
    prompts: {
      type: "path",
      group: "Sweep",
      value: "FILE",
      help: `data file whose rows every run answers (default: the first ${PROMPTS} held-out samples)`,
    },
    "max-new-tokens": {
      type: "int",
      group: "Sweep",
      default: 256,
      min: 1,
      help: "stop an answer after N tokens",
    },
    ...sharedOptions,
    output: {
      type: "path",
      group: "Output",
      default: "sweep",
      value: "DIR",
      help: "folder for the runs, sweep.json and report.html",
    },
    resume: {
      type: "bool",
      group: "Output",
      default: false,
      help: "continue the sweep in --output: runs that are done stay as they are",
    },
  },
  examples: [
    [
      "neftune sweep --model smollm2-135m --dataset alpaca --eval-split 500 --alpha 0,5,10,15 --seeds 3",
      "the paper's comparison, with three seeds each",
    ],
    [
      "neftune sweep --model ./my-llama --dataset mine.jsonl --eval-split 0.1 --alpha 0,5 --sweep learning-rate=1e-4,2e-4",
      "four runs: every alpha with every learning rate",
    ],
  ],
  interruptible: true,
  async run(values, context) {
    const {
      alpha,
      sweep: sweeps,
      seeds,
      prompts,
      "max-new-tokens": maxNewTokens,
      output,
      resume,
      ...train
    } = values;
    const settings = settingsOf(alpha, sweeps ?? []);
    if (train["eval-split"] === undefined && train["eval-dataset"] === undefined)
      throw new UsageError("sweep needs data to compare on: --eval-split or --eval-dataset");
    if (train["eval-split"] !== undefined) expectSameHeldOut(settings);
    if (!resume) expectNewFolder(output);
    const planned = await planSweep(settings, { train, seeds, output }, context);
    const [first] = planned;
    const ask = (request: PlannedRun["request"]) =>
      readQuestions("prompts", prompts!, request, context.signal);
    // Fail before anything is trained.
    if (prompts !== undefined) await ask(first!.request);
    context.note(
      `sweep: ${countOf(planned.length, "run")} in ${output}: ${settings.map(({ name }) => name).join(", ")}`,
    );
    const runner = new SweepRunner(
      {
        prompts: prompts === undefined ? PROMPTS : ask,
        maxNewTokens,
        holdoutSeed: train.seed,
        openDevice: () => openDevice(values, context),
      },
      context,
    );
    const results = settings.map((setting): SweptSetting => ({ ...setting, runs: [], diverged: [] }));
    try {
      for (const run of planned) {
        const { label, request, model, setting, seed } = run;
        const result = results[setting]!;
        const measures = await runner.run(run, sweepReporter(run, context)).catch((error: unknown) => {
          // A rate or a rank that is too large is a result, too: the other runs go on.
          if (!(error instanceof DivergedError)) throw error;
          result.diverged.push({ path: request.output, seed, reason: error.reason });
          context.note(`${label}: ${error.reason}; the sweep goes on with the other runs`);
          return null;
        });
        if (measures === null) continue;
        writePages(request, { preset: model.preset, hasReport: values.report }, context);
        result.runs.push({ path: request.output, seed, measures });
        context.note(`${label}: held-out loss ${measures.held_out_loss.toFixed(4)}`);
      }
    } catch (error) {
      if (!(error instanceof InterruptedError)) throw error;
      throw new InterruptedError(
        `the sweep was stopped; to continue, run the same command with --output ${shellWord(output)} --resume`,
      );
    } finally {
      runner.close();
    }
    presentSweep(planned, results, values, context);
    const lost = results.flatMap(({ diverged }) => diverged.map(({ path }) => path));
    if (lost.length > 0) {
      const which = `${lost.length} of ${countOf(planned.length, "run")} diverged`;
      const others =
        lost.length < planned.length ? "the report compares the others" : "there is nothing to compare";
      throw new DivergedError(which, ` (${lost.join(", ")}); ${others}`);
    }
  },
});

interface SweptSetting extends SettingResult {
  runs: SweepRun[];
  diverged: DivergedSweepRun[];
}

/** Writes sweep.json and report.html, and prints the table and what it says. */
function presentSweep(
  planned: readonly SweptRun[],
  results: readonly SweptSetting[],
  { output, json }: { output: string; json: boolean },
  context: Context,
): void {
  const [table, said] = [sweepTable(results), verdict(results)];
  const summary = {
    verdict: said,
    settings: results.map(({ diverged, ...result }) => ({
      ...result,
      ...(diverged.length === 0 ? {} : { diverged }),
      summary: summaryOf(result),
    })),
  };
  writeTextAtomically(join(output, SUMMARY_FILE), `${JSON.stringify(summary, null, 2)}\n`);
  const runs = readRuns(planned.map(({ request }) => request.output));
  const title = `Sweep: ${countOf(results.length, "setting")}, ${countOf(planned.length, "run")}`;
  const report = join(output, REPORT_FILE);
  writeTextAtomically(report, reportHtml(runs, context.version, { title, lead: said, tables: [table] }));
  if (json) {
    context.print(toJson({ output, report, ...summary }));
    return;
  }
  const rows = [table.head, ...table.rows.map((row) => row.map(String))];
  context.print(fitTable(rows, table.numeric ?? [], context.columns));
  const width = context.columns ?? Number.POSITIVE_INFINITY;
  if (said !== "") context.print(`\n${wrap(said, width).join("\n")}`);
  context.print(`\nreport: ${report}`);
}

/** Shows a run; what is the same for all runs is said with the first one's data. */
function sweepReporter({ label, request, sources }: SweptRun, context: Context): RunReporter {
  const template = sources["prompt-template"];
  const origins = isElsewhere(template) ? { template } : {};
  return {
    ...noteRun(request, origins, context, progressReporter(context, label)),
    onModel: () => {},
    onPlan: () => context.finishFirst?.(),
    onSave: () => {},
  };
}
