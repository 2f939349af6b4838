// The folder of a run, moved, removed or replaced while it goes on: nothing is written where the run does not belong.

import { describe, expect, test } from "bun:test";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { RunFolder } from "../../src/train/index.ts";
import { inMemory, scratchFolders } from "../scratch.ts";
import { FakeModel, fakeSamples } from "./fake-model.ts";
import { failureOf, resultFile, run } from "./short-runs.ts";

const newFolder = scratchFolders(inMemory);

const straight = newFolder();
await run({ output: straight }).trainer.train();

describe("the folder of a run, taken away after step 5", () => {
  const take: [string, (output: string, victim: string) => void][] = [
    ["removed", (output) => rmSync(output, { recursive: true })],
    ["moved", (output) => renameSync(output, `${output}-old`)],
    [
      "moved, a link put in its place",
      (output, victim) => {
        renameSync(output, `${output}-old`);
        symlinkSync(victim, output);
      },
    ],
    [
      "moved, another with a copy of its files put in its place",
      (output) => {
        renameSync(output, `${output}-old`);
        cpSync(`${output}-old`, output, { recursive: true });
      },
    ],
  ];
  test.each(take)("%s: the run ends, and nothing is written there", async (_, change) => {
    const output = newFolder();
    const victim = newFolder();
    mkdirSync(victim);
    writeFileSync(join(victim, "adapter_model.safetensors"), "mine");
    let after: string[] | null = null;
    const list = () =>
      existsSync(output) ? readdirSync(output, { recursive: true }).map(String).sort() : [];
    const reporter = {
      onStep: ({ step }: { step: number }) => {
        if (step !== 5) return;
        change(output, victim);
        after = list();
      },
    };
    const error = await failureOf(run({ output, reporter }).trainer.train());
    expect(error).toMatchObject({ code: "moved", exitStatus: 1 });
    expect(error.message).toContain(`${output} was moved, removed or replaced`);
    expect(list()).toEqual(after!);
    expect(readdirSync(victim)).toEqual(["adapter_model.safetensors"]);
    expect(readFileSync(join(victim, "adapter_model.safetensors"), "utf8")).toBe("mine");
    if (existsSync(`${output}-old`))
      expect(readdirSync(join(`${output}-old`, "checkpoints"))).toHaveLength(1);
  });

  test("taken away while AdamW's state is saved: the rest of it is not read", async () => {
    const [output, victim] = [newFolder(), newFolder()];
    mkdirSync(victim);
    const { model, trainer } = run({ output });
    const read = model.parameters.readState.bind(model.parameters);
    let reads = 0;
    model.parameters.readState = (name) => {
      if (reads++ === 0) {
        renameSync(output, `${output}-old`);
        symlinkSync(victim, output);
      }
      return read(name);
    };
    expect(await failureOf(trainer.train())).toMatchObject({ code: "moved" });
    expect([reads, readdirSync(victim)]).toEqual([1, []]);
  });

  test("taken away during an evaluation", async () => {
    const [output, victim] = [newFolder(), newFolder()];
    mkdirSync(victim);
    const reporter = {
      onEvalProgress: (done: number) => {
        if (done < 3) return;
        renameSync(output, `${output}-old`);
        symlinkSync(victim, output);
      },
    };
    const settings = { output, reporter, evalDataset: fakeSamples(3), options: { evalSteps: 5 } };
    expect(await failureOf(run(settings).trainer.train())).toMatchObject({ code: "moved" });
    expect(readdirSync(victim)).toEqual([]);
  });

  test.each(["lora", "full"] as const)("taken away while the result is written, tune %s", async (tune) => {
    const [output, victim] = [newFolder(), newFolder()];
    mkdirSync(victim);
    for (const name of ["model.safetensors", "adapter_model.safetensors"])
      writeFileSync(join(victim, name), "mine");
    const model = new FakeModel(tune);
    const read = model.parameters.read.bind(model.parameters);
    let isLast = false;
    const reporter = {
      onSave: (step: number) => {
        isLast = step === 12;
      },
    };
    // Behind the last checkpoint, the first of the result's two tensors.
    model.parameters.read = (name) => {
      const values = read(name);
      if (isLast) {
        renameSync(output, `${output}-old`);
        symlinkSync(victim, output);
        isLast = false;
      }
      return values;
    };
    const error = await failureOf(run({ output, reporter }, model).trainer.train());
    expect(error).toMatchObject({ code: "moved" });
    expect(readdirSync(victim).sort()).toEqual(["adapter_model.safetensors", "model.safetensors"]);
    for (const name of readdirSync(victim)) expect(readFileSync(join(victim, name), "utf8")).toBe("mine");
  });

  test("moved away and back, or seen through a link, it is still the run's", async () => {
    const output = newFolder();
    const reporter = {
      onStep: ({ step }: { step: number }) => {
        if (step !== 5) return;
        renameSync(output, `${output}-real`);
        symlinkSync(`${output}-real`, output);
      },
    };
    await run({ output, reporter }).trainer.train();
    expect(resultFile(output)).toBe(resultFile(straight));
  });

  test("an --output that is a link to nothing is named", async () => {
    const output = newFolder();
    symlinkSync("nowhere", output);
    const error = await failureOf(run({ output }).trainer.train());
    expect(error.message).toContain(`--output ${output} is a link to nowhere, which does not exist`);
    expect(() => RunFolder.check(output, { resume: false, tune: "lora" })).toThrow("is a link to nowhere");
  });
});
