// Shapes of models, by name: those of shapes.toml, for init and bench, and those of the model presets.

import { existsSync, statSync } from "node:fs";
import shapesTable from "../../models/shapes.toml";
import { UsageError } from "../errors.ts";
import { type LlamaConfig, parseConfig, readConfigFile } from "../model/config.ts";
import { suggestion } from "../nearest.ts";
import { isPresetFile, type ModelPreset, modelPreset, modelPresets } from "./presets.ts";

type Table = Readonly<Record<string, unknown>>;

const shapes = new Map<string, Table>([
  ...Object.entries(shapesTable as Record<string, Table>),
  ...modelPresets.map((model) => [model.name, model.architecture ?? {}] as const),
]);

export const shapeNames: readonly string[] = [...shapes.keys()];

/** Fields that an architecture leaves out. TOML has no null, by which a config.json says that there is no window. */
const implied = { model_type: "llama", sliding_window: null } as const;

/** The config of a preset's architecture. */
export function presetConfig(preset: ModelPreset): LlamaConfig | null {
  const { architecture, name } = preset;
  return architecture === undefined ? null : parseConfig(`preset ${name}`, { ...implied, ...architecture });
}

/** The config of a shape's name or of a config.json. Throws UsageError where it is neither, FormatError where it is malformed. */
export function readShape(name: string): LlamaConfig {
  const shape = shapes.get(name) ?? (isPresetFile(name) ? modelPreset(name)?.architecture : undefined);
  if (shape !== undefined) {
    return parseConfig(`shape ${name}`, { ...implied, bos_token_id: 1, eos_token_id: 2, ...shape });
  }
  if (!existsSync(name) || statSync(name).isDirectory()) {
    const hint = suggestion(name, shapeNames, `the shapes are ${shapeNames.join(", ")}`);
    throw new UsageError(`--shape ${name}: neither a shape nor a config.json file${hint}`);
  }
  return readConfigFile(name);
}
