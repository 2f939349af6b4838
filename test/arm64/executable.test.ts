// The executable for arm64 under qemu: it trains to the losses of this machine's, and loads its CUDA library. Runs with
// NEFTUNE_TEST_ARM64=1 (npm run test:arm64 builds it first).

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { emulator, ensureDebian } from "../../build/arm64/debian.ts";
import { arm64 } from "../../build/platform.ts";
import { makeModel, metricsOf, Place } from "../e2e/support.ts";
import { spawned } from "../spawned.ts";

const cuda = join(arm64.native, "libneftune-cuda.so.zst");
/** An empty file stands for a library that was not built. */
const hasCuda = existsSync(cuda) && statSync(cuda).size > 0;

const place = new Place();
afterAll(() => place.close());

describe.skipIf(process.env.NEFTUNE_TEST_ARM64 !== "1")(
  "arm64 (skipped without NEFTUNE_TEST_ARM64=1; npm run test:arm64 builds it)",
  () => {
    let program: string[];
    beforeAll(async () => {
      program = [...emulator(await ensureDebian()), arm64.executable];
      await makeModel(place);
    }, 300_000);

    /** Runs the executable under qemu; throws with standard error where it fails. */
    async function emulated(...args: string[]): Promise<string> {
      const { status, stdout, stderr } = await spawned([...program, ...args], place);
      if (status !== 0) throw new Error(`neftune ${args.join(" ")}: ${stderr}`);
      return stdout;
    }

    test("--version", async () => {
      expect(await emulated("--version")).toContain("\nplatform  linux-arm64\n");
    }, 60_000);

    test("doctor loads the kernels", async () => {
      const found = JSON.parse(await emulated("doctor", "--json"));
      expect(found.cpu.isas).toEqual(["neon"]);
      expect(found.device.isa).toBe("neon");
      expect(found.problems).toEqual([]);
    }, 120_000);

    test.skipIf(!hasCuda)(
      "doctor loads the CUDA library (skipped where it was not built)",
      async () => {
        const found = JSON.parse(await emulated("doctor", "--json"));
        expect(found.cuda.problem).toContain("no NVIDIA driver");
        expect(found.cuda.probe.architectures).toEqual(arm64.cudaArchitectures.map(Number));
      },
      120_000,
    );

    const recipe = ["--model", "model", "--dataset", "train.json", "--max-steps", "6", "--batch-size", "4"];
    /** The losses of a run here and of the same one under qemu. */
    async function losses(name: string, ...options: string[]): Promise<[here: number, there: number][]> {
      const args = [...recipe, "--quiet", "--device", "cpu", "--threads", "2", ...options];
      await place.must("train", ...args, "--output", `${name}-x64`);
      await emulated("train", ...args, "--output", `${name}-arm64`);
      const there = metricsOf(place, `${name}-arm64`);
      return metricsOf(place, `${name}-x64`).map(({ loss }, i) => [loss, there[i]!.loss]);
    }

    test("LoRA in float32: the losses of x86-64 within 1e-5", async () => {
      const pairs = await losses("f32", "--dtype", "f32", "--alpha", "5");
      expect(pairs).toHaveLength(6);
      for (const [here, there] of pairs) expect(Math.abs(there / here - 1)).toBeLessThan(1e-5);
    }, 300_000);

    test("LoRA in bfloat16: within 1 %", async () => {
      const pairs = await losses("bf16", "--dtype", "bf16", "--alpha", "5");
      expect(pairs).toHaveLength(6);
      for (const [here, there] of pairs) expect(Math.abs(there / here - 1)).toBeLessThan(0.01);
    }, 300_000);
  },
);
