// neftune eval: loss and perplexity on a data set, noise off.

import { NeftuneError, UsageError } from "../errors.ts";
import { loadForInference } from "../model/index.ts";
import { encodingOptions, modelOption } from "../options/data.ts";
import { quantizationOptions } from "../options/tuning.ts";
import { oneByMachine } from "../ranks/team.ts";
import {
  evaluate,
  evaluationSizes,
  loadedBudget,
  loadLimits,
  templateDateOf,
  trainDefaults,
  usedTemplates,
} from "../train/index.ts";
import { openDevice } from "./arguments/device.ts";
import { expectEffects } from "./arguments/effects.ts";
import { loadNotes, quantizationOf } from "./arguments/quantization.ts";
import { defineCommand } from "./command.ts";
import { withBase } from "./inputs/adapter-base.ts";
import { completeModel, findModel } from "./inputs/checked-model.ts";
import { expectDataWords } from "./inputs/locate.ts";
import {
  adapterOption,
  dataNames,
  dtypeOption,
  expectModel,
  loadData,
  noteDataset,
  requireData,
  wantedSplits,
} from "./inputs/model-data.ts";
import { chooseTemplate, templateLine } from "./inputs/prompt-template.ts";
import { countOf, formatSeconds, toJson } from "./terminal/format.ts";
import { EvaluationProgress } from "./terminal/progress.ts";
import { folded } from "./terminal/text.ts";

/** Decimals of a loss that do not depend on how samples are batched. --json has all. */
const DIGITS = { bf16: 3, f32: 5 } as const;

/** A perplexity is off by its own size times what the loss is off by. */
function perplexityText(perplexity: number, digits: number): string {
  return perplexity.toFixed(Math.max(0, digits - Math.ceil(Math.log10(perplexity))));
}

export const evalCommand = defineCommand({
  description:
    "The loss is the mean cross-entropy over all target tokens of the data set. --json prints loss, perplexity, samples, target_tokens and seconds; with --per-sample it adds each row's loss and target_tokens in file order (the loss is null if a row has no target).",
  options: {
    model: modelOption,
    adapter: adapterOption,
    dataset: {
      type: "repeated",
      value: "NAME|FILE|ID",
      help: "data to evaluate on; may be repeated; required",
    },
    "per-sample": { type: "bool", default: false, help: "print the loss of every sample as well" },
    "batch-size": { type: "int", default: 8, min: 1, help: "samples per batch" },
    "micro-batch-tokens": {
      type: "int",
      min: 0,
      help: "split batches into micro-batches of up to N tokens, padding included; 0 splits none (default: what memory allows)",
    },
    packing: {
      type: "bool",
      default: true,
      help: "lay samples end to end without padding; the loss is the same",
    },
    dtype: dtypeOption,
    ...quantizationOptions,
    ...encodingOptions,
  },
  examples: [
    [
      "neftune eval --model llama2-7b --adapter runs/llama2-7b-alpaca_data-1 --dataset held-out.json",
      "an adapter's loss",
    ],
    ["neftune eval --model ./tiny --dataset data.jsonl --json --per-sample", "for a program, row by row"],
  ],
  interruptible: true,
  ranked: true,
  async run(given, context) {
    expectModel(given.model, "eval");
    const values = withBase(given, context);
    expectEffects(quantizationOptions, values, context);
    const names = values.dataset;
    if (names === undefined) throw new UsageError("eval needs --dataset: what to evaluate on");
    expectDataWords(dataNames(names), context);
    const { team = null } = context;
    const { data, model: base } = await oneByMachine(team, async () => {
      const found = await findModel(values, "eval", context);
      const data = await requireData(names, context, wantedSplits(values));
      return { data, model: await completeModel(found, values, context) };
    });
    const { path: dir, preset } = base;
    const template = chooseTemplate(values["prompt-template"], [values.adapter, dir], preset);
    const encoding = { ...values, "prompt-template": template.option };
    const templateDate = templateDateOf([values.adapter, dir]);
    const loading = oneByMachine(team, () =>
      loadData(data, dir, encoding, { seed: trainDefaults.seed, templateDate }, context),
    );
    // While workers tokenize, the native libraries load.
    const device = openDevice(values, context);
    try {
      const dataset = await loading;
      noteDataset(context, names.join(", "), dataset, values["max-length"]);
      context.note(templateLine(template, usedTemplates(dataset.notes), dir));
      const batches = { batchSize: values["batch-size"], packing: values.packing };
      const microBatchTokens = values["micro-batch-tokens"] ?? null;
      const sizes = evaluationSizes([dataset], { ...batches, microBatchTokens });
      const { adapter, dtype } = values;
      const request = { dir, adapter, dtype, quantization: quantizationOf(values) };
      const model = loadForInference(device, request, loadLimits(sizes), loadNotes(context));
      try {
        const progress = new EvaluationProgress();
        const result = await evaluate(model, dataset, {
          ...batches,
          microBatchTokens: loadedBudget(model, sizes),
          signal: context.signal,
          team,
          onProgress: (done) => context.draw(progress.parts(done, dataset.length)),
        });
        device.expectFilesUnchanged("in place");
        const { loss, perplexity, seconds } = result;
        if (!Number.isFinite(loss)) {
          const culprit = adapter === undefined ? "the model's weights" : "the weights of model and adapter";
          throw new NeftuneError(
            "not_finite",
            `the loss is ${loss}; expected a number: check ${culprit} for NaN and infinity, or try --dtype f32`,
          );
        }
        if (values.json) {
          const summary = {
            loss,
            perplexity,
            samples: result.samples,
            target_tokens: result.targetTokens,
            seconds,
          };
          const perSample = () =>
            Array.from(result.perSample.losses, (own, i) => ({
              loss: Number.isNaN(own) ? null : own,
              target_tokens: result.perSample.targetTokens[i]!,
            }));
          context.print(toJson(values["per-sample"] ? { ...summary, per_sample: perSample() } : summary));
          return;
        }
        const digits = DIGITS[dtype];
        if (values["per-sample"]) {
          const { losses, targetTokens } = result.perSample;
          for (const [i, own] of losses.entries()) {
            const shown = Number.isNaN(own) ? "no target" : own.toFixed(digits);
            context.print(`${i + 1}: ${shown} (${targetTokens[i]} targets)`);
          }
        }
        const said =
          `loss ${loss.toFixed(digits)}, perplexity ${perplexityText(perplexity, digits)}: ${countOf(result.samples, "sample")}, ` +
          `${countOf(result.targetTokens, "target token")}, ${formatSeconds(seconds)}`;
        context.print(folded(said, context.columns));
      } finally {
        model.close();
      }
    } finally {
      device.close();
      await loading.catch(() => {});
    }
  },
});
