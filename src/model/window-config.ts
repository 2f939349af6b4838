// Which layers of a model attend within a window, as Transformers reads it from a config.json.

import { type Fields, show } from "./config-fields.ts";

export interface Window {
  /** Positions that a position sees, itself included. */
  size: number;
  /** For each layer, whether it has the window; null: all have it. */
  layers: readonly boolean[] | null;
}

/** Which fields tell of a window: none are known, sliding_window for all layers, or Qwen's for each layer. */
export type WindowFields = "none" | "all layers" | "by layer";

/** What Transformers takes for fields that are absent. */
const DEFAULT_SIZE = 4096;
const DEFAULT_FULL_LAYERS = 28;

/** Reads a window's fields. Throws FormatError with the field that is wrong or not supported. */
export function parseWindow(fields: Fields, known: WindowFields, layers: number): Window | null {
  if (known === "none") {
    fields.refuseUnless("sliding_window", [], "full causal attention is");
    return null;
  }
  // null says that there is no window; where the field is absent, there is one.
  const isNull = fields.get("sliding_window") === null;
  if (known === "all layers")
    return isNull ? null : { size: fields.count("sliding_window", DEFAULT_SIZE), layers: null };
  const types = fields.get("layer_types") ?? null;
  const given = types === null ? null : layerTypes(fields, types, layers);
  if (!fields.flag("use_sliding_window", false) || isNull) {
    if (given?.includes(true) === true)
      fields.fail("layer_types names sliding_attention, but there is no window (use_sliding_window)");
    return null;
  }
  const size = fields.count("sliding_window", DEFAULT_SIZE);
  const first = fields.get("max_window_layers") ?? DEFAULT_FULL_LAYERS;
  if (typeof first !== "number" || !Number.isSafeInteger(first) || first < 0)
    fields.fail(`max_window_layers must be a whole number of at least 0, got ${show(first)}`);
  return { size, layers: given ?? Array.from({ length: layers }, (_, layer) => layer >= Number(first)) };
}

function layerTypes(fields: Fields, value: unknown, layers: number): boolean[] {
  if (!Array.isArray(value) || value.length !== layers)
    fields.fail(`layer_types must be a list of ${layers} types, one for each layer, got ${show(value)}`);
  return value.map((type: unknown) => {
    if (type === "sliding_attention" || type === "full_attention") return type === "sliding_attention";
    return fields.fail(
      `layer_types: ${show(type)} is not supported; full_attention and sliding_attention are`,
    );
  });
}

/** The same as config.json's fields. */
export function windowToJson(window: Window | null, known: WindowFields): Record<string, unknown> {
  switch (known) {
    case "none":
      return {};
    case "all layers":
      return { sliding_window: window?.size ?? null };
    case "by layer": {
      const types = window?.layers?.map((has) => (has ? "sliding_attention" : "full_attention"));
      return {
        use_sliding_window: window !== null,
        sliding_window: window?.size ?? null,
        ...(types === undefined ? {} : { layer_types: types }),
      };
    }
  }
}
