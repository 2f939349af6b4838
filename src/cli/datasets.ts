// neftune datasets: the data presets.

import { dataCacheState } from "../formats/hub/index.ts";
import { hubCacheDir } from "../formats/hub-cache.ts";
import { datasetPresets } from "../presets/presets.ts";
import { defineCommand } from "./command.ts";
import { cacheWords, shortLicense } from "./models.ts";
import { fitTable, formatBytes, formatCount, toJson } from "./terminal/format.ts";

export const datasets = defineCommand({
  description:
    "Lists each preset with its size, whether the Hugging Face cache has it, its format, and the alpha of the NEFTune paper, which train uses unless you give --alpha. Your own preset is a .toml file: neftune --dataset my.toml.",
  options: {},
  examples: [
    ["neftune datasets", "all of them"],
    ["neftune datasets --json", "the same for a program"],
  ],
  async run(values, context) {
    const rows = datasetPresets.map((preset) => ({
      preset,
      cache: dataCacheState(`${preset.hub}@${preset.revision}`, preset.files ?? ["**"], context.env),
    }));
    if (values.json) {
      context.print(
        toJson(
          rows.map(({ preset, cache }) => {
            const { name, title, hub, revision, licence, gated, files, format, rows, bytes, alpha } = preset;
            return {
              ...{ name, title, hub, revision, licence, gated, files, format },
              ...{ rows, download_bytes: bytes, cached: cache, alpha: alpha ?? null },
            };
          }),
        ),
      );
      return;
    }
    const table = rows.map(({ preset, cache }) => [
      preset.name,
      preset.rows === undefined ? "?" : formatCount(preset.rows),
      preset.bytes === undefined ? "?" : formatBytes(preset.bytes),
      cacheWords[cache],
      preset.gated ? "gated" : "open",
      preset.format ?? "?",
      preset.alpha === undefined ? "" : String(preset.alpha),
      shortLicense(preset.licence),
      preset.hub,
    ]);
    const head = ["name", "rows", "download", "cached", "access", "format", "alpha", "license", "on the Hub"];
    context.print(fitTable([head, ...table], [1, 2, 6], context.columns));
    context.note("alpha: what the NEFTune paper used for this data");
    context.note(`cache: ${hubCacheDir(context.env)}`);
  },
});
