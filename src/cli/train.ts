// neftune train: the main job.

import { shellWord } from "../shell.ts";
import { runTraining, samplingReporter, type TrainResult, together } from "../train/index.ts";
import { openDevice } from "./arguments/device.ts";
import { trainOptions } from "./arguments/train-options.ts";
import { defineCommand } from "./command.ts";
import { samplingOf } from "./inputs/questions.ts";
import { trackRun, writePages } from "./run/files.ts";
import { RunHistory } from "./run/lines.ts";
import { isElsewhere, planRun, type TrainValues } from "./run/plan.ts";
import { noteRun } from "./run/settings.ts";
import { toJson } from "./terminal/format.ts";
import { progressReporter, samplingParts } from "./terminal/progress.ts";
import { folded } from "./terminal/text.ts";

export const train = defineCommand({
  description:
    "Writes a PEFT adapter (with --tune full a whole model), metrics.jsonl, config.json with every option and where its value came from, and checkpoints. Ctrl-C saves a checkpoint and ends with status 130; --resume continues the run, which ends with the same bits as one that was never stopped.",
  options: trainOptions,
  examples: [
    [
      "neftune --model llama2-7b --dataset evol-instruct --alpha 5",
      "LoRA with NEFTune noise, model and data from the Hugging Face Hub; train may be left out",
    ],
    ["neftune --model llama2-7b --dataset alpaca --recipe neftune", "the settings of the NEFTune paper"],
    [
      "neftune --model ./my-llama --dataset mine.jsonl --eval-split 0.05 --output runs/mine",
      "your own model and data",
    ],
    [
      "neftune --model ./my-llama --dataset mine.jsonl --output runs/mine --resume",
      "continues after Ctrl-C or a crash",
    ],
    [
      "neftune --model llama2-7b --quantization nf4 --alpha 5",
      "QLoRA: the frozen weights in 4 bits, 3.8 GB instead of 13.5",
    ],
    ["neftune --config run.toml --alpha 10", "options from a file, one of them changed"],
  ],
  interruptible: true,
  ranked: true,
  async run(resolved, context) {
    const { request: planned, values, sources, model } = await planRun(resolved, context);
    const samples = values["sample-prompts"];
    const asked =
      samples === undefined
        ? null
        : await samplingOf(samples, values["sample-steps"], planned, context.signal);
    const request = { ...planned, extraLimits: asked?.limits ?? null };
    const { output } = request;
    const { team = null } = context;
    const history = new RunHistory();
    const template = sources["prompt-template"];
    const origins = { options: sources, ...(isElsewhere(template) ? { template } : {}) };
    const progress = history.beside(progressReporter(context));
    // Of several ranks the first one writes files.
    const isFirst = team?.isFirst !== false;
    const tracking = trackRun(isFirst ? values["report-to"] : [], request, context);
    const work = runTraining(request, () => openDevice(resolved, context), {
      reporter: together(
        noteRun(request, origins, context, progress),
        tracking.reporter,
        asked === null || !isFirst
          ? {}
          : samplingReporter(output, {
              ...asked.sampling,
              onProgress: (tokens) => context.draw(samplingParts(asked.sampling, tokens)),
            }),
      ),
      signal: context.signal,
      team,
    });
    const result = await tracking.during(work, () => {
      if (isFirst) writePages(request, { preset: model.preset, hasReport: values.report }, context);
    });
    if (resolved.json) context.print(toJson(summary(result)));
    else {
      const said = history.closingLines(result, values.tune === "full");
      // Sentences are broken between words; a path and a command stay whole, to be copied.
      const made = said.pop()!;
      const lines = said.map((line) => folded(line, context.columns));
      context.print([...lines, made, `try it:  ${tryCommand(result.output, values)}`].join("\n"));
    }
  },
});

function summary(result: TrainResult) {
  const { output, steps, skipped, loss, evaluation, seconds, tokens } = result;
  return {
    output,
    steps,
    skipped,
    loss,
    eval_loss: evaluation?.loss ?? null,
    eval_perplexity: evaluation?.perplexity ?? null,
    seconds,
    tokens,
  };
}

/** What to type to ask the model a question. The run brings its prompt template. */
function tryCommand(output: string, values: TrainValues): string {
  const run = shellWord(output);
  const what =
    values.tune === "full" ? `--model ${run}` : `--model ${shellWord(values.model!)} --adapter ${run}`;
  const asQuantized = values.quantization === "nf4" ? quantizationFlags(values) : "";
  return `neftune generate ${what}${asQuantized} --prompt "…"`;
}

/** What a command needs to load the weights that the run was trained on. */
function quantizationFlags(values: TrainValues): string {
  const cache = values["quantized-cache"];
  return [
    " --quantization nf4",
    ...(values["double-quantization"] ? [] : ["--double-quantization off"]),
    ...(cache === undefined ? [] : [`--quantized-cache ${shellWord(cache)}`]),
  ].join(" ");
}
