// What a run leaves for people when it has ended: its page, its model card, and what trackers keep.

import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { InterruptedError } from "../../errors.ts";
import { writeTextAtomically } from "../../formats/io.ts";
import type { ModelPreset } from "../../presets/presets.ts";
import { compare, modelCard, optionsOf, readRun, reportHtml } from "../../report/index.ts";
import { mlflowTracker } from "../../track/mlflow.ts";
import { mlflowSettings } from "../../track/mlflow-api.ts";
import { tensorboardTracker } from "../../track/tensorboard.ts";
import type { Tracker } from "../../track/tracked.ts";
import type { RunReporter, RunRequest } from "../../train/index.ts";
import type { Context } from "../command.ts";

export const REPORT_FILE = "report.html";
export const CARD_FILE = "README.md";
const ADAPTER_FILE = "adapter_model.safetensors";

/** Runs `work`; what cannot be written for people must not fail a run that is done. */
function attempt(what: string, context: Pick<Context, "note">, work: () => void): void {
  try {
    work();
  } catch (error) {
    context.note(`${what} was not written: ${(error as Error).message}`);
  }
}

/** RUN/README.md and, where `hasReport`, RUN/report.html. */
export function writePages(
  { output, model, datasets, tune }: RunRequest,
  { preset, hasReport }: { preset: ModelPreset | undefined; hasReport: boolean },
  context: Pick<Context, "note" | "version">,
): void {
  const { version } = context;
  const facts = {
    ...{ base: model.name, license: hubLicense(preset?.licence), isAdapter: tune === "lora", version },
    datasets: datasets.map(({ name }) => name),
  };
  attempt("a summary of the run", context, () => {
    const run = readRun(output);
    // Once for both: intervals take seconds where many samples were evaluated.
    const figures = compare([run]);
    attempt(CARD_FILE, context, () => {
      writeTextAtomically(join(output, CARD_FILE), modelCard(run, facts, figures));
    });
    if (!hasReport) return;
    attempt(REPORT_FILE, context, () => {
      writeTextAtomically(join(output, REPORT_FILE), reportHtml([run], version, { figures }));
    });
  });
}

/** The Hub's name of a license that a preset describes; null where there is none. */
function hubLicense(text = ""): string | null {
  const names: [RegExp, string][] = [
    [/^Apache.2/i, "apache-2.0"],
    [/^MIT\b/, "mit"],
    [/^Llama (2|3(?:\.\d)?)\b/i, "llama"],
  ];
  for (const [pattern, name] of names) {
    const found = pattern.exec(text);
    if (found !== null) return `${name}${found[1] ?? ""}`;
  }
  return null;
}

export interface Tracking {
  reporter: RunReporter;
  /** Waits for the run, then for `finish`, which leaves what trackers keep, then for the trackers. */
  during<T>(work: Promise<T>, finish: () => void): Promise<T>;
}

/** The trackers that a run reports to. Throws UsageError where one of them cannot know where to. */
export function trackRun(names: readonly string[], request: RunRequest, context: Context): Tracking {
  const { output } = request;
  const options = trackedOptions(request);
  const note = (text: string) => context.note(text);
  const trackers = names.map(
    (name): Tracker =>
      name === "mlflow"
        ? mlflowTracker(mlflowSettings(context.env), output, options, note)
        : tensorboardTracker(join(output, "tensorboard"), options, note),
  );
  const files = () => {
    const names = [REPORT_FILE, CARD_FILE, ADAPTER_FILE, "adapter_config.json"];
    const there = names.filter((name) => existsSync(join(output, name)));
    return Object.fromEntries(there.map((name) => [name, join(output, name)]));
  };
  const close = async (status: Parameters<Tracker["close"]>[0]) => {
    await Promise.all(trackers.map((tracker) => tracker.close(status, status === "finished" ? files() : {})));
  };
  return {
    reporter: {
      onPlan: ({ startStep }) => {
        for (const tracker of trackers) tracker.onPlan(startStep);
      },
      onStep: (metrics) => {
        for (const tracker of trackers) tracker.onStep(metrics);
      },
      onEval: (metrics) => {
        for (const tracker of trackers) tracker.onEval(metrics);
      },
    },
    async during(work, finish) {
      try {
        const result = await work;
        finish();
        await close("finished");
        return result;
      } catch (error) {
        await close(error instanceof InterruptedError ? "stopped" : "failed");
        throw error;
      }
    },
  };
}

/** What the request says in options, as text. */
function trackedOptions({ record = {}, output }: RunRequest): Record<string, string> {
  return Object.fromEntries([["run", basename(resolve(output))], ...optionsOf(Object.entries(record))]);
}
