// eval_losses.json: the last evaluation, sample by sample. The bootstrap needs it; curves do not.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { FormatError } from "../errors.ts";
import { readText } from "../formats/io.ts";
import type { SampleLosses } from "./statistics.ts";

export const EVAL_LOSSES_FILE = "eval_losses.json";

/** Digits of a loss: more than an interval over samples can tell apart. */
const DIGITS = 6;

/** The text of the file. A loss that is not finite is null. */
export function evalLossesText(step: number, { losses, targetTokens }: SampleLosses): string {
  const values = Array.from(losses, (loss) =>
    Number.isFinite(loss) ? String(Number(loss.toPrecision(DIGITS))) : "null",
  );
  return `{"step":${step},"losses":[${values}],"target_tokens":[${targetTokens.join(",")}]}\n`;
}

/** What a run's file says; null where it has none. Throws FormatError where it is damaged. */
export function readEvalLosses(run: string): ({ step: number } & SampleLosses) | null {
  const path = join(run, EVAL_LOSSES_FILE);
  if (!existsSync(path)) return null;
  const text = readText(path);
  let fields: { step?: unknown; losses?: unknown; target_tokens?: unknown };
  try {
    fields = JSON.parse(text) ?? {};
  } catch {
    throw new FormatError(path, "is damaged, so that losses have no interval");
  }
  const { step, losses, target_tokens: counts } = fields;
  const isCount = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0;
  const isLoss = (value: unknown) => value === null || typeof value === "number";
  const isWhole =
    isCount(step) &&
    Array.isArray(losses) &&
    Array.isArray(counts) &&
    losses.length === counts.length &&
    losses.every(isLoss) &&
    counts.every(isCount);
  if (!isWhole) throw new FormatError(path, "is damaged, so that losses have no interval");
  return {
    step: step as number,
    losses: Float64Array.from(losses as (number | null)[], (loss) => loss ?? Number.NaN),
    targetTokens: Uint32Array.from(counts as number[]),
  };
}
