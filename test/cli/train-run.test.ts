// What a training run says on the terminal before its first step.

import { expect, setDefaultTimeout, test } from "bun:test";
import { noteRun } from "../../src/cli/run/settings.ts";
import { type RunRequest, runTraining } from "../../src/train/index.ts";
import { makeTinyRun, openDevice } from "../train/tiny-run.ts";
import { quietContext } from "./quiet-context.ts";

setDefaultTimeout(60_000);
const { datasets, request } = makeTinyRun();

async function noted(asked: RunRequest): Promise<string[]> {
  const notes: string[] = [];
  const context = quietContext({ note: (text) => void notes.push(text) });
  const origins = { template: "preset tiny", options: { alpha: "preset rows" } };
  await runTraining(asked, openDevice, { reporter: noteRun(asked, origins, context, {}) });
  return notes;
}

test("data, template, evaluation, model and settings, in this order", async () => {
  const asked = request("notes", { evalDatasets: datasets, evalSamples: 2 });
  const notes = await noted(asked);
  const starts = [
    "data: 6 samples, ",
    "template: ",
    "evaluation: the training data also has 2 of its 2 samples; their loss says little about new text",
    "evaluation: 2 samples, ",
    "model: tiny, lora, f32; ",
    "noise: uniform, alpha 5 (preset rows)",
    "learning rate: ",
    "batch: 2 samples per step, packed",
    "LoRA: rank 2, alpha 2, on q_proj",
  ];
  const lines = notes.filter((line) => !line.startsWith("  "));
  expect(lines.map((line, i) => line.slice(0, starts[i]?.length))).toEqual(starts);
  expect(lines[1]).toBe(`template: ${asked.encoding.template} (preset tiny)`);
});

test("a number held out that was not asked for; with --tune full, the disk, and nothing to divide", async () => {
  const notes: string[] = [];
  const reporter = noteRun(request("any"), {}, quietContext({ note: (text) => void notes.push(text) }), {});
  reporter.onHoldout!(1200, 1000);
  expect(notes).toEqual([
    "--eval-split: 1,200 samples held out, not 1,000: samples with equal tokens stay together",
  ]);
  const full = await noted(request("full", { tune: "full", shard: "optimizer" }));
  expect(full).toContain("--shard optimizer has no effect: there is one rank");
  expect(full.filter((line) => line.startsWith("disk: up to 2 checkpoints of "))).toHaveLength(1);
  expect(full.join("\n")).not.toContain("LoRA:");
});
