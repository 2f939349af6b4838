// What keeps oneDNN from using all instruction sets of an x86-64 processor: a variable of its own.

/** By preference; oneDNN takes the first that is not empty. */
const VARIABLES = ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"] as const;

/** As oneDNN 3.2 names them, in any case of letters. A ceiling allows what stands before it, too. */
const INSTRUCTION_SETS = [
  ...["SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2"],
  ...["AVX512_CORE", "AVX512_CORE_VNNI", "AVX512_CORE_BF16", "AVX512_CORE_FP16"],
  ...["AVX512_CORE_AMX", "AVX512_CORE_AMX_FP16"],
];
/** No ceiling; the second name is an older oneDNN's. */
const UNLIMITED = ["DEFAULT", "ALL"];

export interface IsaCeiling {
  variable: string;
  value: string;
  /** unknown: oneDNN passes over the value, as if there were none. */
  kind: "ceiling" | "none" | "unknown";
  /** AMX may be used where the processor has it. */
  allowsAmx: boolean;
}

/** Null where nothing is set. */
export function isaCeiling(env: Readonly<Record<string, string | undefined>>): IsaCeiling | null {
  const variable = VARIABLES.find((name) => env[name]);
  if (variable === undefined) return null;
  const value = env[variable]!;
  const name = value.toUpperCase();
  const isCeiling = INSTRUCTION_SETS.includes(name);
  const kind = isCeiling ? "ceiling" : UNLIMITED.includes(name) ? "none" : "unknown";
  return { variable, value, kind, allowsAmx: !isCeiling || name.includes("_AMX") };
}

/** What the variable does, as a sentence without its full stop. `hasAmx`: the processor does. */
export function ceilingEffect({ variable, value, kind, allowsAmx }: IsaCeiling, hasAmx: boolean): string {
  const setting = `${variable}=${value}`;
  switch (kind) {
    case "ceiling": {
      const lost = hasAmx && !allowsAmx ? ", and leaves AMX unused" : "";
      return `${setting} limits oneDNN to this instruction set and those before it${lost}`;
    }
    case "none":
      return `${setting} sets no limit`;
    case "unknown": {
      const known = [...INSTRUCTION_SETS, UNLIMITED[0]].join(", ");
      return `${setting} has no effect: oneDNN does not recognize the value; expected one of ${known}`;
    }
  }
}
