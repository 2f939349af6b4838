// What ptxas and the emulator say of kernels, read into tables.

/** What one kernel takes on one architecture. Bytes, but for registers (a thread's). */
export interface Resources {
  registers: number;
  spilled: number;
  stack: number;
  /** Static shared memory. */
  shared: number;
}

export interface CompiledKernel {
  kernel: string;
  architecture: string;
  resources: Resources;
}

/** A kernel's name as C++ spells it, without return type, namespaces and parameters. */
function shortName(demangled: string): string {
  const name = demangled
    .replace(/^void /, "")
    .replace(/\(anonymous namespace\)::|nt::/g, "")
    .replaceAll("__nv_bfloat16", "bf16");
  let depth = 0;
  for (let i = 0; i < name.length; i++) {
    if (name[i] === "<") depth++;
    if (name[i] === ">") depth--;
    if (name[i] === "(" && depth === 0) return name.slice(0, i);
  }
  return name;
}

async function demangle(names: string[]): Promise<string[]> {
  const child = Bun.spawn(["c++filt"], { stdin: new Blob([names.join("\n")]), stdout: "pipe" });
  const text = await new Response(child.stdout).text();
  if ((await child.exited) !== 0) throw new Error("c++filt failed: it comes with g++'s binutils");
  return text.trimEnd().split("\n");
}

/** Reads what `ptxas -v` printed. */
export async function parseReport(log: string): Promise<CompiledKernel[]> {
  const sections = log.split("Compiling entry function ").slice(1);
  if (sections.length === 0) return [];
  const names = await demangle(sections.map((section) => /^'(\S+)'/.exec(section)![1]!));
  return sections.map((section, i) => {
    const number = (pattern: RegExp) => Number(pattern.exec(section)?.[1] ?? 0);
    return {
      kernel: shortName(names[i]!),
      architecture: /for 'sm_(\d+)'/.exec(section)![1]!,
      resources: {
        registers: number(/Used (\d+) registers/),
        spilled: number(/(\d+) bytes spill stores/) + number(/(\d+) bytes spill loads/),
        stack: number(/(\d+) bytes stack frame/),
        shared: number(/(\d+) bytes smem/),
      },
    };
  });
}

/** Times the least number of shared-memory phases; 0: none was counted. */
interface Conflicts {
  worst_conflicts: number;
  mean_conflicts: number;
}

/** What the emulator counted of a kernel over all its launches. */
export interface KernelCounts {
  name: string;
  launches: number;
  threads: number;
  dynamic_shared_bytes: number;
  sectors: number;
  ideal_sectors: number;
  worst_sector_ratio: number;
  ldmatrix: Conflicts;
  shared: Conflicts;
}

export function parseCounts(text: string): Map<string, KernelCounts> {
  const { kernels } = JSON.parse(text) as { kernels: KernelCounts[] };
  return new Map(kernels.map((counts) => [shortName(counts.name), counts]));
}

/** Of a multiprocessor: KiB of shared memory, threads. Registers are 65,536 on all, at most 32 blocks. */
const multiprocessors: Record<string, { shared: number; threads: number }> = {
  "80": { shared: 164, threads: 2048 },
  "86": { shared: 100, threads: 1536 },
  "89": { shared: 100, threads: 1536 },
  "90": { shared: 228, threads: 2048 },
  "100": { shared: 228, threads: 2048 },
  "120": { shared: 100, threads: 1536 },
};

/** Registers of a block, which are given to a warp 256 at a time; a multiprocessor has 65,536. */
export const blockRegisters = (registers: number, threads: number) =>
  Math.ceil(registers / 8) * 8 * 32 * Math.ceil(threads / 32);

/** How many blocks of a kernel fit a multiprocessor at once; 0: more than it has. */
export function occupancy(sm: string, resources: Resources, threads: number, dynamicShared: number): number {
  const limits = multiprocessors[sm]!;
  const warps = Math.ceil(threads / 32);
  // 1 KiB of a block's shared memory is the system's.
  const byRegisters = Math.floor(65536 / blockRegisters(resources.registers, threads));
  const byShared = Math.floor((limits.shared * 1024) / (resources.shared + dynamicShared + 1024));
  return Math.min(32, byRegisters, byShared, Math.floor(limits.threads / (warps * 32)));
}
