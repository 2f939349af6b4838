// What a training run says on the terminal before its first step and after its last.

import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { parseArguments, resolveValues } from "../../src/cli/arguments/options.ts";
import { commonOptions } from "../../src/cli/command.ts";
import { noteRun } from "../../src/cli/run/settings.ts";
import { displayWidth } from "../../src/cli/terminal/text.ts";
import { train } from "../../src/cli/train.ts";
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

test.each([80, 20, undefined])(
  "in %p columns, sentences at the end are wrapped; a path and a command stay whole",
  async (columns) => {
    const asked = request(`${"long-".repeat(12)}${columns}`, {});
    const table = { ...train.options, ...commonOptions };
    const { given } = parseArguments(
      [
        ...["--model", asked.model.dir, "--dataset", datasets[0]!.name, "--eval-dataset", datasets[0]!.name],
        ...["--prompt-template", asked.encoding.template!, "--eval-on-start", "on", "--output", asked.output],
        ...["--max-steps", "2", "--batch-size", "2", "--dtype", "f32", "--device", "cpu", "--threads", "1"],
      ],
      table,
    );
    const printed: string[] = [];
    const context = quietContext({
      ...(columns === undefined ? {} : { columns }),
      given: new Map([...given.keys()].map((name) => [name, "flag"])),
      print: (text) => printed.push(text),
    });
    await train.run(resolveValues(table, given), context);
    const lines = printed.join("\n").split("\n");
    const [made, command] = lines.splice(-2);
    expect(made).toBe(`adapter: ${join(asked.output, "adapter_model.safetensors")}`);
    expect(command).toBe(
      `try it:  neftune generate --model ${asked.model.dir} --adapter ${asked.output} --prompt "…"`,
    );
    expect(lines.join("\n").replaceAll("\n  ", " ")).toMatch(
      /^2 steps in .+; last loss [\d.]+, mean of the last 2 steps [\d.]+\nevaluation: .+ \([\d.]+ before training\)$/,
    );
    if (columns !== 80) expect(lines.some((line) => line.startsWith("  "))).toBe(columns === 20);
    for (const line of lines) expect(displayWidth(line)).toBeLessThanOrEqual(columns ?? 200);
  },
);
