// Folders of runs that were never trained: what a report reads, made from formulas.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { evalLossesText } from "../../src/report/eval-losses.ts";

export interface MadeRun {
  steps: number;
  /** Lines of metrics.jsonl are written up to here; the default is all. */
  until?: number;
  alpha: number;
  /** Shifts the losses, so that runs differ. */
  shift?: number;
  evalSamples?: number;
  evalEvery?: number;
  answers?: readonly object[];
  options?: Readonly<Record<string, unknown>>;
  hasScale?: boolean;
}

/** A number from 0 to 1 that looks random and is always the same. */
export function noiseAt(i: number): number {
  const x = Math.sin(i * 12.9898 + 78.233) * 43758.5453;
  return x - Math.floor(x);
}

export function stepLineOf(step: number, { steps, shift = 0, hasScale = false }: MadeRun): string {
  const decay = Math.exp((-4 * step) / steps);
  return JSON.stringify({
    step,
    epoch: (3 * step) / steps,
    loss: Number((1.1 + shift + 1.9 * decay + 0.35 * (noiseAt(step + 100 * shift) - 0.5)).toPrecision(7)),
    grad_norm: Number((0.4 + 4 * decay + noiseAt(step * 7) * (step % 97 === 0 ? 60 : 1)).toPrecision(7)),
    learning_rate: Number(
      (
        2e-4 *
        Math.min(1, step / (0.03 * steps)) *
        0.5 *
        (1 + Math.cos((Math.PI * step) / steps))
      ).toPrecision(7),
    ),
    samples: 8,
    tokens: 1800 + Math.round(400 * noiseAt(step * 3)),
    target_tokens: 700,
    seconds: 0.21 + 0.02 * noiseAt(step),
    tokens_per_second: Number((9000 + 900 * noiseAt(step * 5)).toPrecision(7)),
    peak_memory_bytes: step < 3 ? 5.1e9 : 5.6e9 + 1e8 * shift,
    ...(hasScale ? { neft_scale_mean: 1 - 0.2 * (1 - decay), neft_scale_min: 0.5, neft_scale_max: 1.1 } : {}),
  });
}

/** Makes the folder. */
export function makeRun(path: string, made: MadeRun): void {
  const {
    steps,
    until = steps,
    alpha,
    shift = 0,
    evalSamples = 120,
    evalEvery = Math.ceil(steps / 10),
  } = made;
  mkdirSync(path, { recursive: true });
  const lines: string[] = [];
  for (let step = 1; step <= until; step++) {
    lines.push(stepLineOf(step, made));
    if (evalSamples > 0 && (step % evalEvery === 0 || step === steps)) {
      const loss = 1.15 + 0.8 * shift + 1.6 * Math.exp((-5 * step) / steps);
      lines.push(
        JSON.stringify({
          step,
          epoch: (3 * step) / steps,
          eval_loss: loss,
          eval_perplexity: Math.exp(loss),
          eval_tokens: 5000,
        }),
      );
    }
  }
  writeFileSync(join(path, "metrics.jsonl"), lines.map((line) => `${line}\n`).join(""));
  const record = {
    model: "llama2-7b",
    dataset: ["alpaca"],
    alpha,
    "neft-noise": alpha === 0 ? "none" : "uniform",
    "learning-rate": 2e-4,
    "batch-size": 8,
    packing: true,
    "max-steps": null,
    ...made.options,
    output: path,
    neftune_version: "0.1.0",
    device: { name: "AMD EPYC, 2 threads" },
    total_steps: steps,
    option_sources: { model: "flag", alpha: "flag", "learning-rate": "default" },
  };
  writeFileSync(join(path, "config.json"), JSON.stringify(record, null, 2));
  if (evalSamples > 0 && until >= evalEvery) {
    const losses = Float64Array.from(
      { length: evalSamples },
      (_, i) => 1.15 + 0.8 * shift + noiseAt(i) - 0.5 + 0.1 * noiseAt(i + 31 * alpha),
    );
    const targetTokens = Uint32Array.from({ length: evalSamples }, (_, i) => 5 + (i % 40));
    writeFileSync(join(path, "eval_losses.json"), evalLossesText(until, { losses, targetTokens }));
  }
  if (made.answers !== undefined)
    writeFileSync(
      join(path, "answers.jsonl"),
      made.answers.map((row) => `${JSON.stringify(row)}\n`).join(""),
    );
  if (until === steps) writeFileSync(join(path, "adapter_model.safetensors"), "");
}
