// Runs that went wrong before they are resumed: damaged checkpoints, lost metrics, another process in the folder,
// other circumstances, and runs that never learned.

import { describe, expect, test } from "bun:test";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import type { NeftuneError } from "../../src/errors.ts";
import { NativeError } from "../../src/native/index.ts";
import { RunFolder } from "../../src/train/index.ts";
import { LOCK_FILE, RunLock } from "../../src/train/run-lock.ts";
import { inMemory, scratchFolders } from "../scratch.ts";
import { FakeModel } from "./fake-model.ts";
import { failureOf, resultFile, run } from "./short-runs.ts";

const newFolder = scratchFolders(inMemory);

const straight = newFolder();
await run({ output: straight }).trainer.train();

/** A run killed after step 11: checkpoints 4 and 8. */
async function killedRun(tune: "lora" | "full" = "lora"): Promise<string> {
  const output = newFolder();
  const reporter = {
    onStep: ({ step }: { step: number }) => {
      if (step === 11) throw new Error("killed");
    },
  };
  await expect(run({ output, reporter }, new FakeModel(tune)).trainer.train()).rejects.toThrow("killed");
  return output;
}

const checkpoint = (output: string, step: number) =>
  join(output, "checkpoints", `step-${String(step).padStart(8, "0")}`);

type Damage = (dir: string) => void;
const halve = (path: string) => truncateSync(path, Math.floor(readFileSync(path).length / 2));
const damages: [string, Damage, string][] = [
  [
    "an empty folder",
    (dir) => {
      for (const name of readdirSync(dir)) rmSync(join(dir, name));
    },
    "progress.json",
  ],
  ["no progress.json", (dir) => rmSync(join(dir, "progress.json")), "progress.json"],
  ["half a progress.json", (dir) => halve(join(dir, "progress.json")), "progress.json"],
  [
    "a progress.json of other fields",
    (dir) => writeFileSync(join(dir, "progress.json"), '{"format_version":1,"step":-1}'),
    "step is -1",
  ],
  [
    "a progress.json whose version is an object",
    (dir) => writeFileSync(join(dir, "progress.json"), '{"format_version":{"a":1}}'),
    'format_version is {"a":1}',
  ],
  [
    "a progress.json without a version",
    (dir) => writeFileSync(join(dir, "progress.json"), "{}"),
    "format_version is null",
  ],
  ["no optimizer", (dir) => rmSync(join(dir, "optimizer.safetensors")), "optimizer.safetensors"],
  ["half an optimizer", (dir) => halve(join(dir, "optimizer.safetensors")), "optimizer.safetensors"],
  ["half an adapter", (dir) => halve(join(dir, "adapter_model.safetensors")), "adapter_model.safetensors"],
  [
    "an adapter of zeros",
    (dir) => {
      const path = join(dir, "adapter_model.safetensors");
      writeFileSync(path, new Uint8Array(readFileSync(path).length));
    },
    "adapter_model.safetensors",
  ],
  [
    "the adapter's tensors for the optimizer's",
    (dir) => cpSync(join(dir, "adapter_model.safetensors"), join(dir, "optimizer.safetensors")),
    "there is no tensor m.",
  ],
  ["no adapter config", (dir) => rmSync(join(dir, "adapter_config.json")), "adapter_config.json"],
];

describe("damaged checkpoints", () => {
  test.each(damages)(
    "%s: the one before is gone on with, to the same bits, and a note says so",
    async (...row) => {
      const [, damage, reason] = row;
      const output = await killedRun();
      damage(checkpoint(output, 8));
      const starts: unknown[] = [];
      const reporter = {
        onPlan: (plan: { startStep: number; resumedFrom: string | null }) =>
          starts.push(plan.startStep, plan.resumedFrom),
      };
      const { trainer, notes } = run({ output, resume: true, reporter });
      await trainer.train();
      expect(starts).toEqual([4, checkpoint(output, 4)]);
      expect(notes).toHaveLength(1);
      expect(notes[0]).toContain(`${checkpoint(output, 8)} is incomplete or damaged`);
      expect(notes[0]).toContain(reason);
      expect(resultFile(output)).toBe(resultFile(straight));
      expect(readdirSync(join(output, "checkpoints")).sort()).toEqual([
        "damaged-step-00000008",
        "step-00000008",
        "step-00000012",
      ]);
    },
  );

  test("full training: a missing model is passed over too", async () => {
    const output = await killedRun("full");
    rmSync(join(checkpoint(output, 8), "model.safetensors"));
    const { trainer, notes } = run({ output, resume: true }, new FakeModel("full"));
    expect(await trainer.train()).toMatchObject({ steps: 12 });
    expect(notes[0]).toContain("model.safetensors");
  });

  test("a device or a rank that fails while a checkpoint is read says nothing about the checkpoint", async () => {
    const output = await killedRun();
    const model = new FakeModel();
    const failure = new NativeError("comm_all_reduce", 1, "comm_all_reduce: a rank is gone");
    model.parameters.write = () => {
      throw failure;
    };
    await expect(run({ output, resume: true }, model).trainer.train()).rejects.toBe(failure);
    expect(readdirSync(join(output, "checkpoints")).sort()).toEqual(["step-00000004", "step-00000008"]);
  });

  test("none is whole: an error names them all and nothing is changed", async () => {
    const output = await killedRun();
    rmSync(join(checkpoint(output, 8), "progress.json"));
    halve(join(checkpoint(output, 4), "optimizer.safetensors"));
    const metrics = readFileSync(join(output, "metrics.jsonl"), "utf8");
    const error = await failureOf(run({ output, resume: true }).trainer.train());
    expect(error).toMatchObject({ code: "checkpoint", exitStatus: 1 });
    expect(error.message).toContain(checkpoint(output, 8));
    expect(error.message).toContain(checkpoint(output, 4));
    expect(readFileSync(join(output, "metrics.jsonl"), "utf8")).toBe(metrics);
    expect(readdirSync(join(output, "checkpoints"))).toHaveLength(2);
    expect(existsSync(join(output, LOCK_FILE))).toBe(false);
  });
});

const ownStart = () => {
  const stat = readFileSync("/proc/self/stat", "utf8");
  return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
};

describe("the lock", () => {
  test("a second run in the folder is refused while the first goes on, and changes nothing", async () => {
    const output = newFolder();
    let second: Promise<NeftuneError> | null = null;
    let before: string[] = [];
    const reporter = {
      onStep: ({ step }: { step: number }) => {
        if (step !== 5) return;
        before = readdirSync(output).sort();
        expect(before).toContain(LOCK_FILE);
        second = failureOf(run({ output, resume: true }).trainer.train());
        expect(readdirSync(output).sort()).toEqual(before);
        const check = () => RunFolder.check(output, { resume: true, tune: "lora" });
        expect(check).toThrow(`in use by process ${process.pid}`);
      },
    };
    await run({ output, reporter }).trainer.train();
    const error = await second!;
    expect(error).toMatchObject({ code: "busy", exitStatus: 1 });
    expect(error.message).toContain(`--output ${output} is in use by process ${process.pid}`);
    expect(resultFile(output)).toBe(resultFile(straight));
    expect(existsSync(join(output, LOCK_FILE))).toBe(false);
  });

  test("it is gone after an error, before and in the first step", async () => {
    const output = await killedRun();
    expect(existsSync(join(output, LOCK_FILE))).toBe(false);
    const other = run({ output, resume: true, options: { seed: 7 } });
    await expect(other.trainer.train()).rejects.toThrow("--seed was 42");
    expect(existsSync(join(output, LOCK_FILE))).toBe(false);
  });

  const dead = Bun.spawnSync(["true"]).pid;
  const host = hostname();
  test.each([
    ["of a process that is gone", { pid: dead, host, start: "1" }],
    ["of another process of the same id", { pid: process.pid, host, start: "1" }],
  ])("a lock %s is taken over", (_name, holder) => {
    const folder = newFolder();
    mkdirSync(folder);
    writeFileSync(join(folder, LOCK_FILE), JSON.stringify(holder));
    const lock = RunLock.acquire(folder);
    const taken = JSON.parse(readFileSync(join(folder, LOCK_FILE), "utf8"));
    expect(taken).toEqual({ pid: process.pid, host, start: ownStart()! });
    lock.release();
    expect(readdirSync(folder)).toEqual([]);
  });

  test.each([
    [
      "a running process's",
      JSON.stringify({ pid: process.ppid, host, start: null }),
      `process ${process.ppid}`,
    ],
    [
      "another machine's",
      JSON.stringify({ pid: dead, host: "elsewhere", start: "1" }),
      "if that one is gone, remove",
    ],
  ])("%s lock is kept", (_name, text, message) => {
    const folder = newFolder();
    mkdirSync(folder);
    writeFileSync(join(folder, LOCK_FILE), text);
    expect(() => RunLock.acquire(folder)).toThrow(message);
    expect(readFileSync(join(folder, LOCK_FILE), "utf8")).toBe(text);
    expect(readdirSync(folder)).toHaveLength(1);
  });

  test("one that a crash emptied is taken over; a foreign one is not released", () => {
    const folder = newFolder();
    const path = join(folder, LOCK_FILE);
    mkdirSync(folder);
    writeFileSync(path, "");
    const lock = RunLock.acquire(folder);
    writeFileSync(path, "another's");
    lock.release();
    expect(readFileSync(path, "utf8")).toBe("another's");
  });

  test("a process killed with -9 leaves its lock; the run resumes at once", async () => {
    const output = newFolder();
    const child = join(import.meta.dir, "child-run.ts");
    const first = Bun.spawn([process.execPath, child, output, "500", "2", "2", "20"], { stdout: "pipe" });
    while (!existsSync(checkpoint(output, 2))) await Bun.sleep(5);
    const busy = Bun.spawn([process.execPath, child, output, "500", "2", "2", "0"], { stderr: "pipe" });
    expect(await new Response(busy.stderr).text()).toContain(`in use by process ${first.pid}`);
    expect(await busy.exited).toBe(1);
    first.kill("SIGKILL");
    await first.exited;
    expect(existsSync(join(output, LOCK_FILE))).toBe(true);
    const second = Bun.spawn([process.execPath, child, output, "8", "2", "2", "0"], { stderr: "pipe" });
    const message = await new Response(second.stderr).text();
    // Other numbers of steps are another run: the refusal shows that the lock was no obstacle.
    expect(message).toContain("steps in all");
    expect(existsSync(join(output, LOCK_FILE))).toBe(false);
  }, 30_000);
});

describe("metrics that were cut", () => {
  const cut = (output: string, keep: (step: number) => boolean) => {
    const path = join(output, "metrics.jsonl");
    const lines = readFileSync(path, "utf8").trimEnd().split("\n");
    writeFileSync(
      path,
      lines
        .filter((line) => keep(JSON.parse(line).step))
        .map((line) => `${line}\n`)
        .join(""),
    );
  };

  test("a note names the steps that are missing; the run goes on", async () => {
    const output = await killedRun();
    cut(output, (step) => ![2, 3, 4, 7].includes(step));
    const { trainer, notes } = run({ output, resume: true });
    await trainer.train();
    expect(notes).toHaveLength(1);
    expect(notes[0]).toContain("metrics.jsonl lacks the lines of 4 steps (2-4, 7)");
    expect(resultFile(output)).toBe(resultFile(straight));
  });

  test("a missing file lacks them all", async () => {
    const output = await killedRun();
    rmSync(join(output, "metrics.jsonl"));
    const { trainer, notes } = run({ output, resume: true });
    await trainer.train();
    expect(notes[0]).toContain("lacks the lines of 8 steps (1-8)");
  });

  test("what logging-steps left out, also an earlier session's, is not missing", async () => {
    const output = newFolder();
    const stopAt = (last: number, resume: boolean, loggingSteps: number) => {
      const stop = new AbortController();
      const reporter = { onStep: ({ step }: { step: number }) => step === last && stop.abort() };
      return run({ output, resume, reporter, signal: stop.signal, options: { loggingSteps } });
    };
    await expect(stopAt(5, false, 2).trainer.train()).rejects.toThrow("stopped after step 5");
    const second = stopAt(10, true, 3);
    await expect(second.trainer.train()).rejects.toThrow("stopped after step 10");
    expect(second.notes).toEqual([]);
    cut(output, (step) => ![4, 9].includes(step));
    const third = run({ output, resume: true });
    await third.trainer.train();
    expect(third.notes).toHaveLength(1);
    expect(third.notes[0]).toContain("2 steps (4, 9)");
  });
});

describe("other circumstances", () => {
  class OtherModel extends FakeModel {
    override readonly device = {
      info: { backend: "fake", isa: "avx2", threads: 3 },
      peakMemory: () => 0,
      expectFilesUnchanged: () => {},
      matmulChoices: () => "",
      useMatmulChoices: (_text: string) => {},
    };
  }

  test("the same: no note", async () => {
    const { trainer, notes } = run({ output: await killedRun(), resume: true });
    await trainer.train();
    expect(notes).toEqual([]);
  });

  test.each([
    [{ packing: false }, new FakeModel(), "--packing was true, is now false"],
    [{ batchSize: 2, gradientAccumulationSteps: 2 }, new FakeModel(), "--batch-size was 4, is now 2"],
    [{}, new OtherModel(), "instruction set was none, is now avx2; threads was none, is now 3"],
  ])("%j: a note says that the bits may differ", async (options, model, message) => {
    const { trainer, notes } = run({ output: await killedRun(), resume: true, options }, model);
    expect(await trainer.train()).toMatchObject({ steps: 12 });
    expect(notes).toHaveLength(1);
    expect(notes[0]).toContain(message);
    expect(notes[0]).toContain("within float32 tolerance but not bit for bit");
  });
});

describe("a run that never learns", () => {
  test("ends with an error, without a result or a checkpoint", async () => {
    const output = newFolder();
    const { trainer, model } = run({ output });
    for (let call = 0; call < 12; call++) model.faults.set(call, Number.NaN);
    const error = await failureOf(trainer.train());
    expect(error).toMatchObject({ code: "diverged", exitStatus: 1 });
    expect(error.message).toContain("diverged at step 1: the loss is NaN, and steps 1 to 5 made no update");
    expect(error.message).toContain("No checkpoint had been saved");
    expect(readdirSync(output).sort()).toEqual(["config.json", "metrics.jsonl"]);
    expect(model.parameters.updates).toEqual([]);
  });

  test("an update every fifth step is enough; the result counts the others", async () => {
    const output = newFolder();
    const { trainer, model } = run({ output });
    for (let call = 0; call < 12; call++) if (call !== 4 && call !== 9) model.faults.set(call, Number.NaN);
    expect(await trainer.train()).toMatchObject({ steps: 12, skipped: 10 });
    expect(readdirSync(output)).toContain("adapter_model.safetensors");
  });
});
