// A run that is killed at any moment, interrupted by a signal or runs out of disk, and then goes on, leaves the same
// bits as one that never stopped.

import { describe, expect, test } from "bun:test";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { NeftuneError } from "../../src/errors.ts";
import { CheckpointFolder, readProgress, startProgress } from "../../src/train/checkpoint.ts";
import { scratchFolder } from "../scratch.ts";

const root = scratchFolder();
const child = join(import.meta.dir, "child-run.ts");
const command = (output: string, ...numbers: number[]) => [
  process.execPath,
  child,
  output,
  ...numbers.map(String),
];

/** Metrics without times and memory, and the adapter. */
function resultOf(output: string) {
  const lines = readFileSync(join(output, "metrics.jsonl"), "utf8").trimEnd().split("\n");
  const metrics = lines.map((line) => {
    const { seconds, tokens_per_second, peak_memory_bytes, ...rest } = JSON.parse(line);
    return rest as Record<string, unknown>;
  });
  return { metrics, adapter: readFileSync(join(output, "adapter_model.safetensors")).toHex() };
}

async function runToEnd(output: string, steps: number, save: number, limit = 2): Promise<void> {
  const process = Bun.spawn(command(output, steps, save, limit, 0), { stdout: "ignore", stderr: "pipe" });
  const message = await new Response(process.stderr).text();
  expect({ status: await process.exited, message }).toEqual({ status: 0, message: "" });
}

describe("kill -9", () => {
  test("at random moments, again and again: the same metrics and adapter", async () => {
    const [straight, output] = [join(root, "straight"), join(root, "killed")];
    await runToEnd(straight, 60, 2);
    const steps: number[] = [];
    for (let kills = 0; kills < 12; kills++) {
      const run = Bun.spawn(command(output, 60, 2, 2, 2), { stdout: "pipe", stderr: "inherit" });
      // From the first step on (or, now and then, from the start), saving is most of what it does.
      if (kills % 4 !== 3) await run.stdout.getReader().read();
      await Bun.sleep(Math.random() * 120);
      run.kill("SIGKILL");
      await run.exited;
      const newest = new CheckpointFolder(join(output, "checkpoints")).all().at(-1);
      if (newest !== undefined) steps.push(readProgress(newest).progress.step);
    }
    expect(steps).toEqual(steps.toSorted((a, b) => a - b));
    expect(steps.at(-1)).toBeGreaterThan(0);
    await runToEnd(output, 60, 2);
    expect(resultOf(output)).toEqual(resultOf(straight));
    expect(readdirSync(join(output, "checkpoints")).sort()).toEqual(["step-00000058", "step-00000060"]);
    expect(readdirSync(output)).toHaveLength(6);
  }, 60_000);
});

describe("SIGINT", () => {
  test("ends the step, saves, exits 130; the run goes on to the same bits", async () => {
    const [straight, output] = [join(root, "straight-2"), join(root, "interrupted")];
    await runToEnd(straight, 20, 500);
    const run = Bun.spawn(command(output, 20, 500, 2, 30), { stdout: "pipe", stderr: "pipe" });
    await run.stdout.getReader().read();
    run.kill("SIGINT");
    expect(await new Response(run.stderr).text()).toContain("--resume");
    expect(await run.exited).toBe(130);
    expect(readdirSync(join(output, "checkpoints"))).toHaveLength(1);
    await runToEnd(output, 20, 500);
    expect(resultOf(output)).toEqual(resultOf(straight));
  }, 60_000);
});

describe("a full disk", () => {
  test("writes that fail leave no half checkpoint, earlier ones as they were, and a message that says so", () => {
    const folder = new CheckpointFolder(join(root, "checkpoints"));
    const state = (dir: string) => writeFileSync(join(dir, "state"), "x");
    const marks = { identity: {}, rounding: {} };
    folder.save({ ...startProgress, step: 1 }, marks, { limit: 3 }, state);
    const full = Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
    const failing = () => {
      throw full;
    };
    expect(() => folder.save({ ...startProgress, step: 2 }, marks, { limit: 3 }, failing)).toThrow(
      NeftuneError,
    );
    expect(() => folder.save({ ...startProgress, step: 2 }, marks, { limit: 3 }, failing)).toThrow(
      /no space left.*earlier ones/,
    );
    expect(readdirSync(folder.path)).toEqual(["step-00000001"]);
    expect(readProgress(folder.all()[0]!).progress.step).toBe(1);
  });

  // A file system of its own of 192 KiB, in namespaces of its own: needs no root, but a kernel that allows it.
  const mount = 'mount -t tmpfs -o size=192k tmpfs "$0"';
  const probe = Bun.spawnSync(["unshare", "-rm", "sh", "-c", mount, root], { stderr: "pipe" });
  const name = "a real one: exit 1, a sentence, whole checkpoints, and a run that goes on elsewhere";
  test.skipIf(probe.exitCode !== 0)(
    probe.exitCode === 0 ? name : `${name} (skipped: unshare -rm cannot mount a tmpfs here)`,
    async () => {
      const [straight, small, output] = [
        join(root, "straight-3"),
        join(root, "small"),
        join(root, "rescued"),
      ];
      await runToEnd(straight, 40, 1, 100);
      mkdirSync(small);
      const copy = join(root, "copy");
      const script = `${mount} && "$@"; status=$?; cp -r "$0/run" "${copy}"; exit $status`;
      const inner = command(join(small, "run"), 40, 1, 100, 0);
      const run = Bun.spawn(["unshare", "-rm", "sh", "-c", script, small, ...inner], {
        stdout: "ignore",
        stderr: "pipe",
      });
      const message = await new Response(run.stderr).text();
      expect(await run.exited).toBe(1);
      expect(message).toMatch(/no space left on the device.*\(ENOSPC\)/);

      const saved = new CheckpointFolder(join(copy, "checkpoints")).all();
      expect(saved.length).toBeGreaterThan(2);
      expect(readdirSync(join(copy, "checkpoints"))).toHaveLength(saved.length);
      saved.forEach((path, i) => {
        expect(readProgress(path).progress.step).toBe(i + 1);
      });
      cpSync(copy, output, { recursive: true });
      await runToEnd(output, 40, 1, 100);
      expect(resultOf(output)).toEqual(resultOf(straight));
      expect(existsSync(join(output, "adapter_config.json"))).toBe(true);
    },
    60_000,
  );
});
