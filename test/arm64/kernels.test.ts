// The kernel tests, by Bun for arm64 under qemu. Runs with NEFTUNE_TEST_ARM64=1; NEFTUNE_ARM64_KERNELS names the files of
// test/kernels, by default those of the kernels that differ most from x86-64's.

import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { ensureBun } from "../../build/arm64/bun.ts";
import { emulator, ensureDebian } from "../../build/arm64/debian.ts";

const root = join(import.meta.dir, "../..");
const names = (process.env.NEFTUNE_ARM64_KERNELS ?? "linear,linear-rows,swiglu,random").split(",");

describe.skipIf(process.env.NEFTUNE_TEST_ARM64 !== "1")(
  "arm64 (skipped without NEFTUNE_TEST_ARM64=1; npm run test:arm64 builds it)",
  () => {
    test.each(names)(
      "test/kernels/%s",
      async (name) => {
        const bun = [
          ...emulator(await ensureDebian()),
          await ensureBun(),
          "--conditions=linux-arm64",
          "test",
        ];
        const env = { ...process.env, NEFTUNE_TEST_BACKENDS: "cpu", NEFTUNE_TEST_ARM64: "" };
        const child = Bun.spawn([...bun, "--timeout", "600000", `./test/kernels/${name}.test.ts`], {
          ...{ cwd: root, env, stdout: "ignore", stderr: "pipe" },
        });
        const said = await new Response(child.stderr).text();
        expect(await child.exited, said.slice(-4000)).toBe(0);
        expect(said).toMatch(/\n [1-9]\d* pass\n/);
      },
      3_600_000,
    );
  },
);
