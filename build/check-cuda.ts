// npm run check:cuda: what can be said of the CUDA kernels without a GPU. Compiles them for every architecture, runs
// their tests under the emulator with its counters on, and prints
//
//   - per kernel and architecture: registers, spills, stack, shared memory, blocks that fit a multiprocessor;
//   - per kernel: bank conflicts and memory sectors beyond the least, as the emulator counted them;
//   - per kernel of a training step: bytes, FLOPs, launches and the least time they take on several cards, and the step
//     that they add up to (check-clock.ts, which also runs alone).
//
// Fails on any spill or stack frame, on registers or shared memory beyond kernels/cuda/resources.json, and on steps that
// take longer than kernels/cuda/clock.json says; --update rewrites both.

import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { checkClock } from "./check-clock.ts";
import { kernels, objects, output, root } from "./compile.ts";
import { architectures, buildCuda, buildEmulated, cudaObject, cudaSources } from "./cuda.ts";
import {
  blockRegisters,
  type KernelCounts,
  occupancy,
  parseCounts,
  parseReport,
  type Resources,
} from "./kernel-report.ts";
import { print } from "./table.ts";

const baselineFile = join(kernels, "cuda", "resources.json");

/** By kernel, then by architecture. */
type Table = Record<string, Record<string, Resources>>;

/** What is kept of it: registers and static shared memory. */
type Baseline = Record<string, Record<string, [registers: number, shared: number]>>;

async function compiledResources(): Promise<Table> {
  await buildCuda();
  const table: Table = {};
  for (const source of cudaSources()) {
    const log = readFileSync(join(objects, `${basename(cudaObject(source))}.log`), "utf8");
    for (const { kernel, architecture, resources } of await parseReport(log)) {
      table[kernel] = { ...table[kernel], [architecture]: resources };
    }
  }
  return table;
}

/** Runs the kernel tests on the emulated backend, with threads and blocks in another order than `npm test` has. */
async function countedAccesses(): Promise<Map<string, KernelCounts>> {
  await buildEmulated();
  const folder = mkdtempSync(join(tmpdir(), "neftune-check-"));
  const file = join(folder, "counts.json");
  try {
    const child = Bun.spawn([process.execPath, "test", "--timeout", "120000", "test/kernels"], {
      cwd: root,
      env: {
        ...process.env,
        NEFTUNE_TEST_BACKENDS: "emulated",
        NEFTUNE_CUDA_LIBRARY: join(output, "libneftune-emulated.so"),
        NEFTUNE_EMULATOR_COUNT: file,
        NEFTUNE_EMULATOR_SEED: "1",
      },
      stdout: "ignore",
      stderr: "pipe",
    });
    const said = await new Response(child.stderr).text();
    if ((await child.exited) !== 0)
      throw new Error(`the kernel tests fail under the emulator:\n${said.slice(-4000)}`);
    return parseCounts(readFileSync(file, "utf8"));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** What is worse than it may be, in sentences. */
function complaints(table: Table, baseline: Baseline, counts: Map<string, KernelCounts>): string[] {
  const found: string[] = [];
  for (const [kernel, byArchitecture] of Object.entries(table)) {
    for (const [sm, { registers, spilled, stack, shared }] of Object.entries(byArchitecture)) {
      const where = `${kernel}, sm_${sm}`;
      if (spilled > 0) found.push(`${where}: ${spilled} bytes spilled`);
      if (stack > 0) found.push(`${where}: a stack frame of ${stack} bytes`);
      const threads = counts.get(kernel)?.threads ?? 0;
      if (blockRegisters(registers, threads) > 65536)
        found.push(`${where}: ${threads} threads of ${registers} registers cannot be launched`);
      const before = baseline[kernel]?.[sm];
      if (before === undefined)
        found.push(`${where}: not in resources.json (npm run check:cuda -- --update)`);
      else if (registers > before[0] || shared > before[1]) {
        found.push(
          `${where}: ${registers} registers and ${shared} bytes of shared memory, were ${before[0]} and ${before[1]}`,
        );
      }
    }
  }
  return found;
}

const table = await compiledResources();
const counts = await countedAccesses();
const names = Object.keys(table).sort();
const of = (kernel: string, sm: string, value: (resources: Resources) => number) => {
  const resources = table[kernel]?.[sm];
  return resources === undefined ? "–" : String(value(resources));
};
print(
  "Registers, by architecture; static and dynamic shared memory of a block; blocks that fit a multiprocessor",
  [
    "kernel",
    ...architectures.map((sm) => `sm_${sm}`),
    "threads",
    "static",
    "dynamic",
    ...architectures.map((sm) => `fit ${sm}`),
  ],
  names.map((kernel) => {
    const counted = counts.get(kernel);
    return [
      kernel,
      ...architectures.map((sm) => of(kernel, sm, ({ registers }) => registers)),
      counted === undefined ? "–" : String(counted.threads),
      of(kernel, "90", ({ shared }) => shared),
      counted === undefined ? "–" : String(counted.dynamic_shared_bytes),
      ...architectures.map((sm) =>
        counted === undefined
          ? "–"
          : of(kernel, sm, (resources) =>
              occupancy(sm, resources, counted.threads, counted.dynamic_shared_bytes),
            ),
      ),
    ];
  }),
);
print(
  "Under the emulator: times the least of shared-memory phases and of global-memory sectors",
  ["kernel", "launches", "ldmatrix worst", "mean", "shared worst", "mean", "sectors worst", "mean"],
  [...counts]
    .sort(([a], [b]) => a.localeCompare(b))
    .map(([kernel, c]) => [
      kernel,
      String(c.launches),
      ...[c.ldmatrix, c.shared].flatMap(({ worst_conflicts, mean_conflicts }) =>
        [worst_conflicts, mean_conflicts].map((value) => (value === 0 ? "–" : value.toFixed(2))),
      ),
      ...(c.ideal_sectors === 0
        ? ["–", "–"]
        : [c.worst_sector_ratio.toFixed(2), (c.sectors / c.ideal_sectors).toFixed(2)]),
    ]),
);
const slower = await checkClock();

if (process.argv.includes("--update")) {
  // A line for each kernel, so that a change shows where it is.
  const lines = names.map((name) => {
    const kept = Object.entries(table[name]!).map(([sm, { registers, shared }]) => [sm, [registers, shared]]);
    return `${JSON.stringify(name)}: ${JSON.stringify(Object.fromEntries(kept))}`;
  });
  writeFileSync(baselineFile, `{\n${lines.join(",\n")}\n}\n`);
  console.log(`\nwrote ${baselineFile}`);
} else {
  const baseline = existsSync(baselineFile)
    ? (JSON.parse(readFileSync(baselineFile, "utf8")) as Baseline)
    : {};
  const found = [...complaints(table, baseline, counts), ...slower];
  console.log(found.length === 0 ? "\nno spills, no growth" : `\n${found.join("\n")}`);
  process.exitCode = found.length === 0 ? 0 : 1;
}
