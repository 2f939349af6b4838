// Runs that diverge: they end with status 1, say where and what to do, keep good checkpoints and write nothing of NaN.

import { describe, expect, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { NeftuneError } from "../../src/errors.ts";
import { countNonFiniteBytes, readSafetensorsHeader, readTensorData } from "../../src/formats/safetensors.ts";
import { checkpointSource, Llama, linearModules, type ModelOptions } from "../../src/model/index.ts";
import { NoisyTrainer, type TrainerOptions, type TrainerSettings } from "../../src/train/index.ts";
import { describeBackends } from "../backends.ts";
import { folder } from "../golden/support.ts";
import { scratchFolders } from "../scratch.ts";
import { FakeModel, fakeSamples } from "./fake-model.ts";

const newFolder = scratchFolders();

const base = { batchSize: 4, learningRate: 0.05, maxSteps: 12, epochs: 9, saveSteps: 3 };

function run(settings: Partial<TrainerSettings> & { output: string }, model = new FakeModel()) {
  const options = { ...base, ...settings.options };
  return new NoisyTrainer({ dataset: fakeSamples(21), model, ...settings, options });
}

async function failureOf(trainer: NoisyTrainer): Promise<NeftuneError> {
  const error = await trainer.train().then(
    () => null,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(NeftuneError);
  expect(error).toMatchObject({ code: "diverged", exitStatus: 1 });
  return error as NeftuneError;
}

function checkpoints(output: string): string[] {
  const path = join(output, "checkpoints");
  return existsSync(path) ? readdirSync(path).sort() : [];
}

/** Every safetensors file below a folder holds finite values alone. */
function expectFiniteFiles(output: string): void {
  for (const name of readdirSync(output, { recursive: true, encoding: "utf8" })) {
    if (!name.endsWith(".safetensors")) continue;
    const header = readSafetensorsHeader(join(output, name));
    for (const [tensor, { dtype }] of header.tensors)
      expect(countNonFiniteBytes(dtype, readTensorData(header, tensor)), `${name}: ${tensor}`).toBe(0);
  }
}

/** A fake model whose losses are NaN from call `first` on. */
function failing(first: number): FakeModel {
  const model = new FakeModel();
  for (let call = first; call < 40; call++) model.faults.set(call, Number.NaN);
  return model;
}

describe("five steps in a row without an update", () => {
  test("end the run; the checkpoints before stay, and none is made of the steps in between", async () => {
    const output = newFolder();
    const error = await failureOf(run({ output, options: { saveSteps: 1, saveTotalLimit: 2 } }, failing(4)));
    expect(error.message).toBe(
      `diverged at step 5: the loss is NaN, and steps 5 to 9 made no update. The newest checkpoint is ${output}/checkpoints/step-00000004; no result was written to ${output}. Train again, into another --output, with a lower --learning-rate (it was 0.05)`,
    );
    expect(checkpoints(output)).toEqual(["step-00000003", "step-00000004"]);
    expect(readdirSync(output)).not.toContain("adapter_model.safetensors");
  });

  test("--resume of it goes on from the newest checkpoint", async () => {
    const output = newFolder();
    await failureOf(run({ output }, failing(4)));
    expect(checkpoints(output)).toEqual(["step-00000003"]);
    const straight = newFolder();
    await run({ output: straight }).train();
    const second = run({ output, resume: true });
    expect(await second.train()).toMatchObject({ steps: 12, skipped: 0 });
    const adapter = (path: string) =>
      readTensorData(
        readSafetensorsHeader(join(path, "adapter_model.safetensors")),
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
      );
    expect(adapter(output)).toEqual(adapter(straight));
  });

  test("four are a bad stretch, which a step with an update ends", async () => {
    const model = failing(4);
    for (let call = 8; call < 40; call++) model.faults.delete(call);
    const output = newFolder();
    expect(await run({ output, options: { saveSteps: 1, saveTotalLimit: 20 } }, model).train()).toMatchObject(
      {
        skipped: 4,
      },
    );
    expect(checkpoints(output)).toHaveLength(8);
  });

  test("steps without a target are neither", async () => {
    const none = { ids: Int32Array.of(1, 2, 3), labels: new Int32Array(3).fill(-100), truncated: false };
    const dataset = [...fakeSamples(4), ...Array.from({ length: 24 }, () => none)];
    const options = { shuffle: "none", epochs: 1, maxSteps: null } as const;
    expect(await run({ output: newFolder(), dataset, options }).train()).toMatchObject({ skipped: 6 });
  });
});

test("a run too short for five: all steps but the first without an update", async () => {
  for (const maxSteps of [2, 3, 5]) {
    const output = newFolder();
    const error = await failureOf(run({ output, options: { maxSteps, saveSteps: 500 } }, failing(1)));
    expect(error.message).toStartWith("diverged at step 2: the loss is NaN, and ");
    expect(checkpoints(output)).toEqual([]);
    expect(readdirSync(output)).not.toContain("adapter_model.safetensors");
  }
});

test("values that are not finite are not saved, at a checkpoint, at the end, or when the run is stopped", async () => {
  for (const [at, settings, kept] of [
    [6, {}, ["step-00000003"]],
    [4, { options: { maxSteps: 4 } }, ["step-00000003"]],
    [1, { signal: AbortSignal.abort() }, []],
  ] as const) {
    const output = newFolder();
    const model = new FakeModel();
    const step = model.parameters.adamwStep.bind(model.parameters);
    let updates = 0;
    model.parameters.adamwStep = (options) => {
      step(options);
      if (++updates === at) model.parameters.values[3] = Number.NEGATIVE_INFINITY;
    };
    const error = await failureOf(run({ output, ...settings }, model));
    expect(error.message).toContain("model.layers.0.self_attn.q_proj.lora_A.weight has values that are NaN");
    expect(checkpoints(output)).toEqual([...kept]);
    expectFiniteFiles(output);
  }
});

describe("an evaluation that is not finite", () => {
  const evaluating = { evalDataset: fakeSamples(3) };

  /** A model whose evaluations find these losses, one after another. */
  function finding(...losses: number[]): FakeModel {
    const model = new FakeModel();
    model.evaluate = ({ targets }) => new Float32Array(targets.length).fill(losses.shift()!);
    return model;
  }

  test("after the last step ends the run; the checkpoint before stays, and there is no result", async () => {
    for (const loss of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const output = newFolder();
      const settings = { output, ...evaluating, options: { saveSteps: 5, evalSteps: 6 } };
      const error = await failureOf(run(settings, finding(2, loss)));
      expect(error.message).toBe(
        `diverged at step 12: the loss of the evaluation after step 12 is ${loss}. The newest checkpoint is ${output}/checkpoints/step-00000010; no result was written to ${output}. Train again, into another --output, with a lower --learning-rate (it was 0.05)`,
      );
      expect(checkpoints(output)).toEqual(["step-00000005", "step-00000010"]);
      expect(readdirSync(output)).not.toContain("adapter_model.safetensors");
    }
  });

  test("is the end of what began with the first of the last steps without an update", async () => {
    const model = failing(10);
    model.evaluate = ({ targets }) => new Float32Array(targets.length).fill(Number.NaN);
    const error = await failureOf(
      run({ output: newFolder(), ...evaluating, options: { evalSteps: 12 } }, model),
    );
    expect(error.message).toStartWith(
      "diverged at step 11: the loss of the evaluation after step 12 is NaN. The newest checkpoint is ",
    );
  });

  test("after the last step is no fault of a result that is the best of those before", async () => {
    const output = newFolder();
    const options = { evalSteps: 6, loadBestModelAtEnd: true };
    expect(await run({ output, ...evaluating, options }, finding(2, Number.NaN)).train()).toMatchObject({
      steps: 12,
      evaluation: { loss: null },
    });
    expect(readdirSync(output)).toContain("adapter_model.safetensors");
  });

  test("ends a run that stops early with it, if none was better", async () => {
    const settings = {
      output: newFolder(),
      ...evaluating,
      options: { evalSteps: 4, earlyStoppingPatience: 1 },
    };
    const error = await failureOf(run(settings, finding(Number.NaN, 2, 2)));
    expect(error.message).toStartWith("diverged at step 4: the loss of the evaluation after step 4 is NaN. ");
  });

  test("of a model that made no update is that of the base", async () => {
    const model = failing(0);
    model.evaluate = ({ targets }) => new Float32Array(targets.length).fill(Number.NaN);
    const output = newFolder();
    const options = { maxSteps: 3, evalSteps: 3 };
    const error = await failureOf(run({ output, ...evaluating, options }, model));
    expect(error.message).toBe(
      `none of the 3 steps made an update (metrics.jsonl in ${output} says why), so nothing was learned and nothing is written; check the base model and the data, or try --dtype f32`,
    );
  });

  test("before the last step is waited out", async () => {
    const settings = { output: newFolder(), ...evaluating, options: { evalSteps: 6 } };
    expect(await run(settings, finding(Number.NaN, 2)).train()).toMatchObject({ evaluation: { loss: 2 } });
  });
});

test("AdamW's state that is not finite is not saved", async () => {
  const output = newFolder();
  const model = new FakeModel();
  const step = model.parameters.adamwStep.bind(model.parameters);
  model.parameters.adamwStep = (options) => {
    step(options);
    model.parameters.v[40] = Number.POSITIVE_INFINITY;
  };
  const error = await failureOf(run({ output }, model));
  expect(error.message).toStartWith("diverged at step 3: AdamW's v of model.layers.0");
  expect(checkpoints(output)).toEqual([]);
});

test("a checkpoint of NaN, as another program may have left it, counts as damaged", async () => {
  const output = newFolder();
  const reporter = {
    onStep: ({ step }: { step: number }) => {
      if (step === 8) throw new Error("killed");
    },
  };
  const model = new FakeModel();
  model.parameters.findNonFinite = () => null;
  const step = model.parameters.adamwStep.bind(model.parameters);
  model.parameters.adamwStep = (options) => {
    step(options);
    if (options.step === 6) model.parameters.values[0] = Number.NaN;
  };
  await expect(run({ output, reporter }, model).train()).rejects.toThrow("killed");
  const notes: string[] = [];
  const second = run({ output, resume: true, reporter: { onNote: (text) => notes.push(text) } });
  expect(await second.train()).toMatchObject({ steps: 12 });
  expect(notes[0]).toContain("step-00000006 is incomplete or damaged");
  expect(notes[0]).toContain("NaN or infinite");
});

const lora = { r: 4, alpha: 8, dropout: 0, targetModules: [...linearModules], useRslora: false };
const kinds: [name: string, model: Partial<ModelOptions>, trainer: Partial<TrainerOptions>][] = [
  ["LoRA in bf16", { tune: "lora", lora, dtype: "bf16" }, {}],
  ["LoRA in float32, a rate beyond float32", { tune: "lora", lora }, { learningRate: 1e39 }],
  ["LoRA alpha 1e30", { tune: "lora", lora: { ...lora, alpha: 1e30 } }, { learningRate: 1 }],
  ["--tune full", { tune: "full" }, {}],
  ["QLoRA", { tune: "lora", lora, dtype: "bf16", quantization: { double: true } }, {}],
];

describeBackends((device) => {
  for (const [name, changes, settings] of kinds)
    test(`${name}: --learning-rate 1e38 diverges`, async () => {
      const dir = join(folder, "models", "tiny-mha-f32");
      const model = Llama.load(device, checkpointSource(dir), {
        ...{ dtype: "f32", recompute: "none", maxTokens: 64, maxTargets: 64, maxPosition: 16, seed: 1 },
        tune: "lora",
        ...changes,
      });
      const output = newFolder();
      const trainer = new NoisyTrainer({
        ...{ model, output, dataset: fakeSamples(21), origin: { dir, name: dir } },
        options: {
          ...{ learningRate: 1e38, lrSchedulerType: "constant", maxSteps: 6, epochs: 9, batchSize: 4 },
          ...{ saveSteps: 1, ...settings },
        },
      });
      try {
        expect((await failureOf(trainer)).message).toMatch(
          /^diverged at step [1-6]: .* lower --learning-rate/,
        );
      } finally {
        model.close();
      }
      expectFiniteFiles(output);
      expect(readdirSync(output).filter((file) => file.endsWith(".safetensors"))).toEqual([]);
    });
});
