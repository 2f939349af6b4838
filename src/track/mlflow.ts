// A run in MLflow: options as parameters, metrics by step, report and adapter as artifacts. All is sent beside the training,
// in batches; a server that is away is told of once, and never stops a run.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { writeTextAtomically } from "../formats/io.ts";
import { MlflowApi, type MlflowSettings, MOST_METRICS, type OpenRun } from "./mlflow-api.ts";
import { type TrackedOptions, type Tracker, trackedEvaluation, trackedStep } from "./tracked.ts";

const RECORD = "mlflow.json";
const BATCH_MILLISECONDS = 2000;
/** So many values may wait for a server that is away; older ones go first. */
const MOST_WAITING = 200_000;
const STATUS = { finished: "FINISHED", failed: "FAILED", stopped: "KILLED" } as const;

type Point = Parameters<MlflowApi["logMetrics"]>[1][number];

/** `folder`: the run's, where the id of its MLflow run is kept for --resume. `interval`: milliseconds between batches. */
export function mlflowTracker(
  settings: MlflowSettings,
  folder: string,
  options: TrackedOptions,
  note: (text: string) => void,
  api = new MlflowApi(settings),
  interval = BATCH_MILLISECONDS,
): Tracker {
  let opening: Promise<OpenRun | null> | null = null;
  let sending: Promise<boolean> | null = null;
  let waiting: Point[] = [];
  let sentAt = 0;
  let isTold = false;
  const tell = (error: unknown) => {
    if (!isTold) note(`mlflow: ${settings.uri}: ${(error as Error).message}; the run goes on`);
    isTold = true;
  };

  async function open() {
    try {
      const run = await api.openRun(readId(folder, settings.uri));
      writeTextAtomically(join(folder, RECORD), `${JSON.stringify({ uri: settings.uri, run_id: run.id })}\n`);
      await api.logParams(run, options);
      return run;
    } catch (error) {
      tell(error);
      return null;
    }
  }

  /** Sends what waits. False where it could not; what was not sent waits on. */
  async function send(): Promise<boolean> {
    const run = await opening;
    if (run === null || run === undefined) {
      opening = null; // the next batch tries again
      return false;
    }
    while (waiting.length > 0) {
      const batch = waiting.slice(0, MOST_METRICS);
      try {
        await api.logMetrics(run.id, batch);
      } catch (error) {
        tell(error);
        return false;
      }
      waiting = waiting.slice(batch.length);
    }
    return true;
  }

  /** One at a time: a server that is slow to answer must not be asked more and more, and waited for at the end. */
  function flush(): Promise<boolean> {
    opening ??= open();
    sending ??= send().finally(() => {
      sending = null;
    });
    return sending;
  }

  function add(step: number, values: Readonly<Record<string, number>>): void {
    const now = Date.now();
    for (const [key, value] of Object.entries(values)) waiting.push({ key, value, step, timestamp: now });
    if (waiting.length > MOST_WAITING) waiting = waiting.slice(-MOST_WAITING);
    if (now - sentAt < interval) return;
    sentAt = now;
    void flush();
  }

  return {
    onPlan() {
      opening = open();
    },
    onStep: (metrics) => add(metrics.step, trackedStep(metrics)),
    onEval: (metrics) => add(metrics.step, trackedEvaluation(metrics)),
    async close(status, files) {
      await sending; // without what has come since it began
      const isSent = await flush();
      const run = await opening;
      if (!isSent || run === null || run === undefined) {
        note(`mlflow: ${settings.uri}: ${waiting.length} values were not sent; metrics.jsonl has them all`);
        return;
      }
      try {
        for (const [name, path] of Object.entries(files)) await api.upload(run.artifacts, name, path);
        await api.end(run.id, STATUS[status]);
      } catch (error) {
        note(`mlflow: ${settings.uri}: ${(error as Error).message}`);
      }
    },
  };
}

/** The id that this run has on that server; null where none is known. */
function readId(folder: string, uri: string): string | null {
  const path = join(folder, RECORD);
  if (!existsSync(path)) return null;
  try {
    const record = JSON.parse(readFileSync(path, "utf8")) as { uri?: unknown; run_id?: unknown };
    return record.uri === uri && typeof record.run_id === "string" ? record.run_id : null;
  } catch {
    return null;
  }
}
