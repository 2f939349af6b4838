// Which build of the CPU kernels is loaded where AMX may not be used.

import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { supportedIsas, usesAmx } from "../../src/native/cpu-isa.ts";
import { ceilingEffect, isaCeiling } from "../../src/native/isa-ceiling.ts";
import { spawned } from "../spawned.ts";

const source = join(import.meta.dir, "..", "..", "src", "native");

/** Runs a script in a process of its own, which has loaded no library yet; what it prints. */
async function printed(script: string, env: Record<string, string | undefined>): Promise<string> {
  const where = { cwd: source, env: { ...process.env, ...env } };
  const { stdout, stderr } = await spawned([process.execPath, "-e", script], where);
  expect(stderr).toBe("");
  return stdout;
}

test("a ceiling for oneDNN says whether AMX may be used; a value that it does not know says nothing", () => {
  const of = (ceiling: string, hasAmx = true) => usesAmx({ ONEDNN_MAX_CPU_ISA: ceiling }, hasAmx);
  for (const free of [
    "",
    "ALL",
    "default",
    "AVX512_CORE_AMX",
    "avx512_core_amx_fp16",
    "typo",
    "AMX",
    " AVX2",
  ])
    expect([of(free), of(free, false)]).toEqual([true, false]);
  for (const ceiling of ["AVX2", "avx2_vnni", "AVX512_CORE", "AVX512_CORE_BF16", "AVX512_CORE_FP16"])
    expect(of(ceiling)).toBe(false);
  expect(usesAmx({ ONEDNN_MAX_CPU_ISA: "", DNNL_MAX_CPU_ISA: "AVX2" }, true)).toBe(false);
  expect(usesAmx({ ONEDNN_MAX_CPU_ISA: "DEFAULT", DNNL_MAX_CPU_ISA: "AVX2" }, true)).toBe(true);
});

describe("the ceiling's effect, in words", () => {
  const effect = (value: string, hasAmx: boolean) =>
    ceilingEffect(isaCeiling({ ONEDNN_MAX_CPU_ISA: value })!, hasAmx);

  test("a limit; AMX, where the processor has it", () => {
    const limit = "ONEDNN_MAX_CPU_ISA=avx2 limits oneDNN to this instruction set and those before it";
    expect(effect("avx2", false)).toBe(limit);
    expect(effect("avx2", true)).toBe(`${limit}, and leaves AMX unused`);
    expect(effect("AVX512_CORE_AMX", true)).not.toContain("unused");
    expect(effect("DEFAULT", true)).toBe("ONEDNN_MAX_CPU_ISA=DEFAULT sets no limit");
  });

  test("a value that oneDNN does not know", () => {
    expect(effect("typo", true)).toStartWith(
      "ONEDNN_MAX_CPU_ISA=typo has no effect: oneDNN does not recognize the value; expected one of SSE41, AVX, ",
    );
    expect(isaCeiling({})).toBeNull();
    expect(isaCeiling({ ONEDNN_MAX_CPU_ISA: "" })).toBeNull();
  });

  test.skipIf(process.arch !== "x64")(
    "a forced instruction set holds where the value is misspelled",
    async () => {
      const script = `import { dlopen } from "bun:ffi";
      import { Device } from "./index.ts";
      Device.open();
      const { symbols } = dlopen("libc.so.6", { getenv: { args: ["cstring"], returns: "cstring" } });
      console.log(String(symbols.getenv(Buffer.from("ONEDNN_MAX_CPU_ISA\\0"))));`;
      for (const [given, held] of [
        ["typo", "AVX2"],
        ["", "AVX2"],
        ["SSE41", "SSE41"],
        ["DEFAULT", "DEFAULT"],
      ] as const) {
        const env = { NEFTUNE_CPU_ISA: "avx2", ONEDNN_MAX_CPU_ISA: given };
        expect(await printed(script, env)).toBe(`${held}\n`);
      }
    },
  );
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
