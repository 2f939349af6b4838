// Which build of the CPU kernels this machine can run.

import { readFileSync } from "node:fs";
import { NeftuneError, UsageError } from "../errors.ts";
import { isaCeiling } from "./isa-ceiling.ts";

export type CpuIsa = "avx2" | "avx512" | "avx512_bf16" | "neon";

/** The CPU's flags that each instruction set of x86-64 needs. */
const needed: Record<Exclude<CpuIsa, "neon">, string[]> = {
  avx2: ["avx2", "fma", "f16c", "bmi2"],
  avx512: ["avx2", "fma", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"],
  avx512_bf16: ["avx2", "fma", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_bf16"],
};

/** oneDNN's own ceiling (ONEDNN_MAX_CPU_ISA) that goes with a forced instruction set. */
export const dnnlCeiling: Partial<Record<CpuIsa, string>> = {
  avx2: "AVX2",
  avx512: "AVX512_CORE",
  avx512_bf16: "AVX512_CORE_BF16",
};

/** Whether products of bf16 go by AMX, so that its instruction for pairs of them matters little. */
export const usesAmx = (
  env: Record<string, string | undefined>,
  hasAmx = cpuFlags().has("amx_bf16"),
): boolean => hasAmx && isaCeiling(env)?.allowsAmx !== false;

function cpuFlags(): Set<string> {
  const line = /^flags\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"));
  return new Set(line?.[1]?.trim().split(/\s+/) ?? []);
}

/** The instruction sets this CPU has, least first. */
export function supportedIsas(): CpuIsa[] {
  if (process.arch === "arm64") return ["neon"]; // every arm64 processor has it
  const flags = cpuFlags();
  return (Object.keys(needed) as (keyof typeof needed)[]).filter((isa) =>
    needed[isa].every((flag) => flags.has(flag)),
  );
}

/** The best one, or the one that NEFTUNE_CPU_ISA forces. Throws where there is none. */
export function chooseIsa(forced: string | undefined): CpuIsa {
  const supported = supportedIsas();
  if (forced !== undefined && forced !== "") {
    const isa = supported.find((name) => name === forced);
    if (isa === undefined) {
      throw new UsageError(
        `NEFTUNE_CPU_ISA=${forced}: this CPU supports ${supported.join(", ") || "none of them"}; choose one of these or unset it`,
      );
    }
    return isa;
  }
  const best = supported.at(-1);
  if (best === undefined) {
    throw new NeftuneError(
      "cpu",
      "this CPU lacks AVX2 and FMA, which neftune needs (Intel Haswell, AMD Excavator or later)",
    );
  }
  return best;
}
