// Which build of the CPU kernels is loaded where AMX may not be used.

import { expect, test } from "bun:test";
import { join } from "node:path";
import { supportedIsas, usesAmx } from "../../src/native/cpu-isa.ts";
import { spawned } from "../spawned.ts";

const source = join(import.meta.dir, "..", "..", "src", "native");

/** Runs a script in a process of its own, which has loaded no library yet; what it prints. */
async function printed(script: string, env: Record<string, string | undefined>): Promise<string> {
  const where = { cwd: source, env: { ...process.env, ...env } };
  const { stdout, stderr } = await spawned([process.execPath, "-e", script], where);
  expect(stderr).toBe("");
  return stdout;
}

test("ONEDNN_MAX_CPU_ISA says whether AMX may be used", () => {
  const hasAmx = usesAmx({});
  for (const ceiling of ["", "ALL", "AVX512_CORE_AMX", "avx512_core_amx_fp16"])
    expect(usesAmx({ ONEDNN_MAX_CPU_ISA: ceiling })).toBe(hasAmx);
  for (const ceiling of ["AVX2", "AVX512_CORE", "AVX512_CORE_BF16", "AVX512_CORE_FP16"])
    expect(usesAmx({ ONEDNN_MAX_CPU_ISA: ceiling })).toBe(false);
});

test.skipIf(!supportedIsas().includes("avx512_bf16"))(
  "without AMX, kernels for pairs of bf16 are loaded where the CPU multiplies these faster than floats",
  async () => {
    const pairs = await printed(
      `import { loadCpuLibrary } from "./library.ts";
       import { probe } from "./probe.ts";
       console.log(probe(loadCpuLibrary()).pairs_are_faster);`,
      { NEFTUNE_CPU_ISA: "avx512_bf16" },
    );
    const isa = await printed(
      `import { Device } from "./index.ts";
       console.log(Device.open().info.isa);`,
      { NEFTUNE_CPU_ISA: "", ONEDNN_MAX_CPU_ISA: "AVX512_CORE_BF16" },
    );
    expect(`${pairs}${isa}`).toBe(pairs === "true\n" ? "true\navx512_bf16\n" : "false\navx512\n");
  },
);
