// neftune models: the model presets.

import { type CacheState, hubSettings, modelCacheState } from "../formats/hub/index.ts";
import { hubCacheDir } from "../formats/hub-cache.ts";
import { type LlamaConfig, tensorSpecs } from "../model/index.ts";
import { type Device, sizeOf } from "../native/index.ts";
import { type ModelPreset, modelPresets } from "../presets/presets.ts";
import { presetConfig } from "../presets/shapes.ts";
import { openDevice } from "./arguments/device.ts";
import { defineCommand } from "./command.ts";
import { DEFAULT_TOKENS, type MemoryNeed, trainingMemory } from "./run/training-memory.ts";
import { fitTable, formatBytes, toJson } from "./terminal/format.ts";

/** How the tables call it. */
export const cacheWords: Readonly<Record<CacheState, string>> = {
  whole: "yes",
  partial: "in part",
  absent: "no",
};

/** A license without its address. */
export const shortLicense = (licence: string) => licence.replace(/ \(https?:.*\)$/, "");

function parameterCount(config: LlamaConfig): number {
  return tensorSpecs(config).reduce((sum, { shape }) => sum + sizeOf(shape), 0);
}

interface Needs {
  lora: MemoryNeed;
  qlora: MemoryNeed;
  full: MemoryNeed;
  full8bit: MemoryNeed;
  /** Each rank's share of these two. */
  shares: readonly { ranks: number; full: MemoryNeed; full8bit: MemoryNeed }[];
}

interface Row extends Needs {
  preset: ModelPreset;
  parameters: number;
  bytes: number;
  cache: CacheState;
}

/** How many ranks the table divides full tuning among. */
const rankCounts = [2, 4, 8];

function needsOf(device: Device, config: LlamaConfig): Needs {
  const full = (ranks: number) => ({
    full: trainingMemory(device, config, "full", ranks),
    full8bit: trainingMemory(device, config, "full8bit", ranks),
  });
  return {
    lora: trainingMemory(device, config, "lora"),
    qlora: trainingMemory(device, config, "qlora"),
    ...full(1),
    shares: rankCounts.map((ranks) => ({ ranks, ...full(ranks) })),
  };
}

/** The presets' rows; several presets are of one shape. */
function describe(device: Device, env: Readonly<Record<string, string | undefined>>): Row[] {
  const known = new Map<string, Needs>();
  return modelPresets.flatMap((preset) => {
    const config = presetConfig(preset);
    if (config === null) return [];
    const shape = JSON.stringify(config);
    const needs = known.get(shape) ?? needsOf(device, config);
    known.set(shape, needs);
    const parameters = parameterCount(config);
    const bytes = parameters * (config.dtype === "f32" ? 4 : 2);
    const cache = modelCacheState(`${preset.hub}@${preset.revision}`, env);
    return [{ preset, parameters, bytes, cache, ...needs }];
  });
}

export const models = defineCommand({
  description:
    "Lists each preset with its download size, whether the Hugging Face cache has it, whether its license must be accepted first (gated), and the least memory that training takes on this machine, with activations recomputed and full-length samples: LoRA with train's defaults, QLoRA (--quantization nf4) and all weights (--tune full), with AdamW's state in float32 and in 8 bits (--optim adamw8bit), by one GPU and by each of 2, 4 and 8. No weights are read. Your own preset is a .toml file: neftune --model my.toml.",
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
      rows = describe(device, context.env);
    } finally {
      device.close();
    }
    if (values.json) {
      context.print(
        toJson(
          rows.map(({ preset, parameters, bytes, cache, lora, qlora, full, full8bit, shares }) => ({
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
            training_memory_bytes_per_rank: shares.map(({ ranks, full, full8bit }) => ({
              ranks,
              full: full.bytes,
              full_adamw8bit: full8bit.bytes,
            })),
            fits: { lora: lora.fits, qlora: qlora.fits, full: full.fits, full_adamw8bit: full8bit.fits },
            architecture: preset.architecture,
          })),
        ),
      );
      return;
    }
    const need = ({ bytes, fits }: MemoryNeed) => `${formatBytes(bytes)}${fits ? "  " : " !"}`;
    const table = rows.map(({ preset, bytes, cache, lora, qlora, full, full8bit, shares }) => [
      preset.name,
      formatBytes(bytes),
      cacheWords[cache],
      preset.gated ? "gated" : "open",
      need(lora),
      need(qlora),
      need(full),
      need(full8bit),
      ...shares.map((share) => need(share.full)),
      ...shares.map((share) => need(share.full8bit)),
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
      ...rankCounts.map((ranks) => `full/${ranks}  `),
      ...rankCounts.map((ranks) => `8-bit/${ranks}  `),
      "license",
      "on the Hub",
    ];
    const memory = head.flatMap((title, i) => (title.endsWith("  ") ? [i] : []));
    context.print(fitTable([head, ...table], [1, ...memory], context.columns));
    context.note(
      `memory: for ${DEFAULT_TOKENS.toLocaleString("en-US")} tokens at a time (--batch-size 8, --max-length 512), bf16, activations recomputed; full is --tune full, 8-bit is that with --optim adamw8bit, full/8 and 8-bit/8 are what each of 8 GPUs takes when they divide that (--shard); ! means more than the ${formatBytes(free)} free here`,
    );
    context.note(`cache: ${hubCacheDir(context.env)}`);
    if (rows.some(({ preset }) => preset.gated)) {
      context.note(
        `gated: accept the license on the model's page (${hubSettings(context.env).endpoint}/ and the name on the Hub), then give a token as HF_TOKEN`,
      );
    }
  },
});
