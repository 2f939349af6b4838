// merge --check: base + adapter and the merged model on the same data, side by side.

import type { SampleSource } from "../data/samples.ts";
import { type LoadRequest, loadForInference, type QuantizationRequest } from "../model/index.ts";
import type { Device } from "../native/index.ts";
import { type Evaluation, evaluate, evaluationSizes, loadedBudget, loadLimits } from "../train/index.ts";
import { loadNotes } from "./arguments/quantization.ts";
import type { Context } from "./command.ts";
import { EvaluationProgress } from "./terminal/progress.ts";

const BATCHES = { batchSize: 8, packing: true } as const;

/** What is compared: folders, and how the base was quantized for the merge. */
export interface MergeCheck {
  model: string;
  adapter: string;
  merged: string;
  quantization: QuantizationRequest | null;
}

export interface CheckResult {
  separate: Evaluation;
  merged: Evaluation;
}

/** Evaluates both in float32, so that what differs is the merge's rounding alone. */
export async function checkMerge(
  device: Device,
  { model, adapter, merged, quantization }: MergeCheck,
  dataset: SampleSource,
  context: Context,
): Promise<CheckResult> {
  const sizes = evaluationSizes([dataset], { ...BATCHES, microBatchTokens: null });
  const lossOf = async (label: string, request: LoadRequest) => {
    const progress = new EvaluationProgress(label);
    const asked = { ...request, dtype: "f32" } as const;
    const loaded = loadForInference(device, asked, loadLimits(sizes), loadNotes(context));
    try {
      return await evaluate(loaded, dataset, {
        ...BATCHES,
        microBatchTokens: loadedBudget(loaded, sizes),
        signal: context.signal,
        onProgress: (done) => context.draw(progress.parts(done, dataset.length)),
      });
    } finally {
      context.draw("");
      loaded.close();
    }
  };
  const separate = await lossOf("base + adapter", { dir: model, adapter, quantization });
  return { separate, merged: await lossOf("merged", { dir: merged }) };
}
