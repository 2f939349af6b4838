// What a training run says on the terminal of its data, template, model and settings, beside its reporter's progress.

import type { Llama } from "../../model/index.ts";
import {
  type RunPlan,
  type RunReporter,
  type RunRequest,
  resolveTrainerOptions,
  savedDtype,
  usedTemplates,
} from "../../train/index.ts";
import { loadNotes } from "../arguments/quantization.ts";
import type { Context } from "../command.ts";
import { drawRows, noteDataset } from "../inputs/model-data.ts";
import { templateLine } from "../inputs/prompt-template.ts";
import { countOf, formatBytes, formatCount } from "../terminal/format.ts";
import { diskNote } from "./disk-note.ts";
import { settingLines } from "./lines.ts";

/** Where values come from, for the lines that say them; nothing where the caller chose them all. */
export interface RunOrigins {
  /** Of the prompt template: a preset; not given: its option, or the rows. */
  template?: string;
  /** By option. */
  options?: Readonly<Record<string, string>>;
}

/** Notes what a run finds before its first step, and passes all on to `reporter`. */
export function noteRun(
  request: RunRequest,
  { template: templateFrom, options: origins = {} }: RunOrigins,
  context: Context,
  reporter: RunReporter,
): RunReporter {
  const { encoding, model: base, output } = request;
  const options = resolveTrainerOptions(request.trainer);
  let model: Llama | null = null;
  const noteSettings = (plan: RunPlan) => {
    for (const line of settingLines(options, plan, model?.options.lora, origins)) context.note(line);
    if (request.tune !== "full" || model === null) return;
    const saveDtype = savedDtype(options, model.config);
    const run = { parameters: plan.trainedParameters, steps: plan.totalSteps };
    context.note(diskNote(output, { ...options, ...run, saveDtype }));
  };
  return {
    ...loadNotes(context),
    ...reporter,
    onRows: (path, rows) => drawRows(context, path, rows),
    onRowsDone: () => context.draw(""),
    onData(name, dataset) {
      noteDataset(context, name, dataset, encoding.maxLength);
      if (name !== "data") return;
      const option = encoding.template;
      const why = templateFrom ?? (option === undefined ? "by row format" : "--prompt-template");
      context.note(templateLine({ option, why }, usedTemplates(dataset.notes), base.dir));
    },
    onShared: (shared, { length }) =>
      context.note(
        `evaluation: the training data also has ${formatCount(shared)} of its ${countOf(length, "sample")}; their loss says little about new text`,
      ),
    onHoldout: (count, asked) =>
      context.note(
        `--eval-split: ${countOf(count, "sample")} held out, not ${formatCount(asked)}: samples with equal tokens stay together`,
      ),
    onModel(loaded) {
      model = loaded;
      const { plan, quantized, options: chosen } = loaded;
      const dtype = quantized.size > 0 ? `nf4 and ${request.dtype}` : request.dtype;
      const { partners } = chosen;
      const divided = partners === undefined ? "" : `, divided among ${partners.size} ranks`;
      context.note(
        `model: ${base.name}, ${request.tune}${divided}, ${dtype}; ${formatBytes(plan.total)} planned (recompute ${plan.recompute})`,
      );
      if (request.shard === "optimizer" && partners === undefined)
        context.note("--shard optimizer has no effect: there is one rank");
    },
    onPlan(plan) {
      noteSettings(plan);
      context.finishFirst?.();
      reporter.onPlan?.(plan);
    },
  };
}
