// The base checkpoint changes while a run trains on it: the run ends, keeps what it saved before, and can go on.

import { expect, test } from "bun:test";
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  truncateSync,
  utimesSync,
} from "node:fs";
import { join } from "node:path";
import { checkpointSource, Llama } from "../../src/model/index.ts";
import { Device } from "../../src/native/index.ts";
import { NoisyTrainer, type Reporter } from "../../src/train/index.ts";
import { folder } from "../golden/support.ts";
import { scratchFolder } from "../scratch.ts";
import { fakeSamples } from "./fake-model.ts";

const root = scratchFolder();
const golden = join(folder, "models", "tiny-mha-f32");

async function train(
  dir: string,
  output: string,
  resume: boolean,
  onStep: Reporter["onStep"],
): Promise<void> {
  const device = Device.open({ threads: 1 });
  try {
    const model = Llama.load(device, checkpointSource(dir), {
      ...{ dtype: "f32", tune: "lora", recompute: "none", maxTokens: 64, maxTargets: 64, maxPosition: 16 },
      lora: { r: 2, alpha: 4, dropout: 0, targetModules: ["q_proj", "v_proj"], useRslora: false },
      seed: 1,
    });
    try {
      const options = { maxSteps: 8, epochs: 9, batchSize: 4, saveSteps: 3 };
      const reporter = onStep === undefined ? {} : { onStep };
      await new NoisyTrainer({
        ...{ model, output, resume, options, reporter },
        ...{ dataset: fakeSamples(21), origin: { dir, name: "base" } },
      }).train();
    } finally {
      model.close();
    }
  } finally {
    device.close();
  }
}

const result = (output: string) => readFileSync(join(output, "adapter_model.safetensors"));

test.each<[string, number, (path: string) => void, string]>([
  ["written to, found at a checkpoint", 4, (path) => utimesSync(path, 1, 1), "was written to while"],
  ["written to, found at the end", 7, (path) => utimesSync(path, 1, 1), "was written to while"],
  ["cut short", 4, (path) => truncateSync(path, 20_000), "was cut short"],
])("%s", async (_, at, change, message) => {
  const dir = mkdtempSync(join(root, "model-"));
  cpSync(golden, dir, { recursive: true });
  const output = `${dir}-run`;
  const path = join(dir, "model.safetensors");
  const changing = train(dir, output, false, ({ step }) => {
    if (step === at) change(path);
  });
  await expect(changing).rejects.toMatchObject({ code: "changed", exitStatus: 1 });
  await expect(changing).rejects.toThrow(`${path} `);
  await expect(changing).rejects.toThrow(message);
  expect(existsSync(join(output, "adapter_model.safetensors"))).toBe(false);
  expect(readdirSync(join(output, "checkpoints")).at(-1)).toBe(at < 6 ? "step-00000003" : "step-00000006");
  // Restored, the run goes on as if nothing had been.
  cpSync(join(golden, "model.safetensors"), path);
  await train(dir, output, true, undefined);
  const straight = `${dir}-straight`;
  await train(dir, straight, false, undefined);
  expect(result(output)).toEqual(result(straight));
});
