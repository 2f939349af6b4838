// --quantization on the command line: what it asks for and what is said of the weights.

import type { LoadReporter, QuantizationRequest, WeightsOrigin } from "../../model/index.ts";
import type { Context } from "../command.ts";

export interface QuantizationValues {
  quantization: "none" | "nf4";
  "double-quantization": boolean;
  "quantized-cache": string | undefined;
}

/** What --quantization and its companions ask for. */
export function quantizationOf(values: QuantizationValues): QuantizationRequest | null {
  if (values.quantization === "none") return null;
  return { double: values["double-quantization"], cache: values["quantized-cache"] ?? null };
}

/** Says on standard error what becomes of the weights. */
export function loadNotes({ note }: Pick<Context, "note">): LoadReporter {
  const texts: Record<WeightsOrigin, (path: string) => string> = {
    checkpoint: (path) => `${path} is quantized already and used as it is`,
    quantizing: (path) => `quantizing ${path} to NF4 while loading it`,
    cached: (path) => `quantized weights: ${path}`,
    kept: (path) => `quantized weights: kept as ${path}`,
  };
  return { onNote: note, onWeights: (origin, path) => note(texts[origin](path)) };
}
