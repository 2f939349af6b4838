// A learned scale of the noise against PyTorch + PEFT: losses, gradient norms, the scale after every update, the adapter.

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { NOISE_SCALE } from "../../src/model/noise-scale.ts";
import { neftune } from "../../src/train/noise.ts";
import { describeBackends } from "../backends.ts";
import {
  expectAdapter,
  folder,
  type GoldenRun,
  type GoldenSample,
  type GoldenStep,
  layouts,
  loadForRun,
  mean,
  packed,
  readCase,
  relative,
  runSteps,
} from "./support.ts";

setDefaultTimeout(120_000);

interface LearnedStep extends GoldenStep {
  neft_scale_mean: number;
  neft_scale_min: number;
  neft_scale_max: number;
}

interface LearnedCase {
  samples: GoldenSample[];
  runs: (GoldenRun & { record: LearnedStep[]; neft_scale: number[] })[];
}

const golden = await readCase<LearnedCase>("learned-noise");

describeBackends((device) => {
  describe.each(layouts)("%s", (_, layout) => {
    test.each(golden.runs.map((run) => [run.name, run] as const))("%s", (_name, run) => {
      const model = loadForRun(device, "tiny-mha-f32", run, "lora", { learnedNoise: true });
      const onStep = (i: number) => {
        const values = model.parameters!.read(NOISE_SCALE);
        const { neft_scale_mean, neft_scale_min, neft_scale_max } = run.record[i]!;
        expect(relative(mean(values), neft_scale_mean)).toBeLessThan(2e-5);
        expect(relative(Math.min(...values), neft_scale_min)).toBeLessThan(2e-5);
        expect(relative(Math.max(...values), neft_scale_max)).toBeLessThan(2e-5);
      };
      runSteps(model, { golden, run, layout, onStep });
      expectAdapter(model, join(folder, run.adapter_final));
      const values = model.parameters!.read(NOISE_SCALE);
      for (const [j, value] of run.neft_scale.entries())
        expect(Math.abs(values[j]! - value)).toBeLessThan(2e-5);
      model.close();
    });
  });

  test.each(["lora", "full"] as const)(
    "a scale of 1 is the noise without one, to the bit, --tune %s",
    (tune) => {
      const run = golden.runs[0]!;
      const batch = packed(golden.samples.slice(0, 4));
      const draws = BigInt64Array.from([0n, 1n, 2n, 3n]);
      const losses = [false, true].map((learnedNoise) => {
        const model = loadForRun(device, "tiny-mha-f32", run, tune, { learnedNoise });
        model.embedTokens.registerForwardHook(neftune({ alpha: 5 })!);
        const result = model.trainBatch(batch, 1, { draws });
        model.close();
        return [...result];
      });
      expect(losses[1]).toEqual(losses[0]!);
    },
  );
});
