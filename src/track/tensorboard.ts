// RUN/tensorboard: what `tensorboard --logdir RUN` shows.

import { EventFile } from "./event-file.ts";
import { type TrackedOptions, type Tracker, trackedEvaluation, trackedStep } from "./tracked.ts";

/** Writes a run's numbers into event files in `folder`. `note` hears, once, that they cannot be written. */
export function tensorboardTracker(
  folder: string,
  options: TrackedOptions,
  note: (text: string) => void,
): Tracker {
  let file: EventFile | null = null;
  let hasFailed = false;
  const attempt = (work: () => void) => {
    if (hasFailed) return;
    try {
      work();
    } catch (error) {
      hasFailed = true;
      note(`tensorboard: ${(error as Error).message}; the run goes on without it`);
    }
  };
  return {
    onPlan: (startStep) =>
      attempt(() => {
        file = new EventFile(folder);
        if (startStep > 0) file.restart(startStep + 1);
        file.text("options", markdownTable(options));
      }),
    onStep: (metrics) => attempt(() => file?.scalars(metrics.step, trackedStep(metrics))),
    onEval: (metrics) => attempt(() => file?.scalars(metrics.step, trackedEvaluation(metrics))),
    close: async () => attempt(() => file?.close()),
  };
}

function markdownTable(options: TrackedOptions): string {
  const rows = Object.entries(options).map(
    ([name, value]) => `| ${name} | ${value.replaceAll("|", "\\|").replaceAll("\n", " ")} |`,
  );
  return ["| option | value |", "| --- | --- |", ...rows].join("\n");
}
