// neftune models: the model presets.

import { type CacheState, hubSettings, modelCacheState } from "../formats/hub/index.ts";
import { hubCacheDir } from "../formats/hub-cache.ts";
import { type LlamaConfig, tensorSpecs } from "../model/index.ts";
import type { Device } from "../native/index.ts";
import { type ModelPreset, modelPresets } from "../presets/presets.ts";
import { presetConfig } from "../presets/shapes.ts";
import { defineCommand } from "./command.ts";
import { openDevice } from "./device.ts";
import { fitTable, formatBytes, toJson } from "./format.ts";
import { DEFAULT_TOKENS, type MemoryNeed, trainingMemory } from "./training-memory.ts";

/** How the tables call it. */
export const cacheWords: Readonly<Record<CacheState, string>> = {
  whole: "yes",
  partial: "in part",
  absent: "no",
};

/** A license without its address. */
export const shortLicense = (licence: string) => licence.replace(/ \(https?:.*\)$/, "");

function parameterCount(config: LlamaConfig): number {
  return tensorSpecs(config).reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
}

interface Row {
  preset: ModelPreset;
  parameters: number;
  bytes: number;
  cache: CacheState;
  lora: MemoryNeed;
  qlora: MemoryNeed;
  full: MemoryNeed;
  full8bit: MemoryNeed;
}

function describe(
  preset: ModelPreset,
  device: Device,
  env: Readonly<Record<string, string | undefined>>,
): Row[] {
  const config = presetConfig(preset);
  if (config === null) return [];
  const parameters = parameterCount(config);
  const row = {
    preset,
    parameters,
    bytes: parameters * (config.dtype === "f32" ? 4 : 2),
    cache: modelCacheState(`${preset.hub}@${preset.revision}`, env),
    lora: trainingMemory(device, config, "lora"),
    qlora: trainingMemory(device, config, "qlora"),
    full: trainingMemory(device, config, "full"),
    full8bit: trainingMemory(device, config, "full8bit"),
  };
  return [row];
}

export const models = defineCommand({
  description:
    "Lists each preset with its download size, whether the Hugging Face cache has it, whether its license must be accepted first (gated), and the least memory that training takes on this machine, with activations recomputed and full-length samples: LoRA with train's defaults, QLoRA (--quantization nf4) and all weights (--tune full), with AdamW's state in float32 and in 8 bits (--optim adamw8bit). No weights are read. Your own preset is a .toml file: neftune --model my.toml.",
  options: {},
  examples: [
    ["neftune models", "all of them"],
    ["neftune models --json", "the same for a program, with Hub ids and architectures"],
  ],
  async run(values, context) {
    const device = openDevice(values, context);
    let rows: Row[];
    let free: number;
    try {
      free = device.freeMemory();
      rows = modelPresets.flatMap((preset) => describe(preset, device, context.env));
    } finally {
      device.close();
    }
    if (values.json) {
      context.print(
        toJson(
          rows.map(({ preset, parameters, bytes, cache, lora, qlora, full, full8bit }) => ({
            name: preset.name,
            title: preset.title,
            hub: preset.hub,
            revision: preset.revision,
            licence: preset.licence,
            gated: preset.gated,
            prompt_template: preset.prompt_template ?? null,
            parameters,
            download_bytes: bytes,
            cached: cache,
            training_memory_bytes: {
              lora: lora.bytes,
              qlora: qlora.bytes,
              full: full.bytes,
              full_adamw8bit: full8bit.bytes,
            },
            fits: { lora: lora.fits, qlora: qlora.fits, full: full.fits, full_adamw8bit: full8bit.fits },
            architecture: preset.architecture,
          })),
        ),
      );
      return;
    }
    const need = ({ bytes, fits }: MemoryNeed) => `${formatBytes(bytes)}${fits ? "  " : " !"}`;
    const table = rows.map(({ preset, bytes, cache, lora, qlora, full, full8bit }) => [
      preset.name,
      formatBytes(bytes),
      cacheWords[cache],
      preset.gated ? "gated" : "open",
      need(lora),
      need(qlora),
      need(full),
      need(full8bit),
      shortLicense(preset.licence),
      preset.hub,
    ]);
    const head = [
      "name",
      "download",
      "cached",
      "access",
      "LoRA  ",
      "QLoRA  ",
      "full  ",
      "8-bit  ",
      "license",
      "on the Hub",
    ];
    context.print(fitTable([head, ...table], [1, 4, 5, 6, 7], context.columns));
    context.note(
      `memory: for ${DEFAULT_TOKENS.toLocaleString("en-US")} tokens at a time (--batch-size 8, --max-length 512), bf16, activations recomputed; full is --tune full, 8-bit is that with --optim adamw8bit; ! means more than the ${formatBytes(free)} free here`,
    );
    context.note(`cache: ${hubCacheDir(context.env)}`);
    if (rows.some(({ preset }) => preset.gated)) {
      context.note(
        `gated: accept the license on the model's page (${hubSettings(context.env).endpoint}/ and the name on the Hub), then give a token as HF_TOKEN`,
      );
    }
  },
});
