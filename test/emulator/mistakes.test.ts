// The emulator finds what it promises to find: every kind of mistake in mistakes.cu, and nothing in correct.cu.

import { beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Build, buildEmulatedProgram, emulatedCompiler, runEmulated } from "./support.ts";

const here = (file: string) => join(import.meta.dir, file);
const programs = {} as Record<Build, string>;

beforeAll(async () => {
  const sources = [here("main.cpp"), here("correct.cu"), here("mistakes.cu")];
  for (const build of ["plain", "address", "thread"] as const)
    programs[build] = await buildEmulatedProgram("selftest", build, sources);
}, 300_000);

describe("correct kernels", () => {
  for (const [build, seeds] of [
    ["plain", 40],
    ["address", 4],
    ["thread", 3],
  ] as const) {
    test(`pass in the ${build} build, in ${seeds} orders`, async () => {
      for (let seed = 0; seed < seeds; seed++) {
        const { status, text } = await runEmulated(programs[build], ["correct"], seed);
        expect(text.replaceAll(/^[a-z ]+: right\n/gm, "")).toBe("");
        expect(status).toBe(0);
      }
    }, 120_000);
  }

  test("pass on a device with less shared memory", async () => {
    const { status } = await runEmulated(programs.plain, ["correct"], 0, { NEFTUNE_EMULATOR_DEVICE: "86" });
    expect(status).toBe(0);
  });
});

/** What the output must say; "wrong" means wrong values without a report. */
type Found = RegExp | "wrong";
const race = /ThreadSanitizer: data race[\s\S]*mistakes\.cu:\d+/;
const line = String.raw`mistakes\.cu:\d+`;

const mistakes: Record<string, Partial<Record<Build, Found>>> = {
  "missing barrier": { plain: "wrong", address: "wrong", thread: race },
  "write after read": { plain: "wrong", thread: race },
  uninitialized: { plain: "wrong" },
  "shuffle as fence": { thread: race },
  "missing wait": { plain: "wrong", thread: race },
  "never awaited": { plain: /never_awaited_kernel: a thread ends with 1 cp\.async copies/ },
  "early prefetch": { plain: "wrong", thread: race },
  "divergent barrier": {
    plain: new RegExp(
      `divergent_barrier_kernel: deadlock: 40 of 64 threads wait.*\\n.*__syncthreads at .*${line}`,
    ),
  },
  "two barriers": {
    plain: new RegExp(`divergent __syncthreads: thread \\d+ at .*${line}, this one at .*${line}`),
  },
  "divergent shuffle": {
    plain: new RegExp(`deadlock: 32 of 64 threads wait for others\\n.*a warp collective at .*${line}`),
  },
  "foreign lane": { plain: /a shuffle reads lane 20, which mask 0000ffff does not name/ },
  "global overflow": {
    plain:
      /global_overflow_kernel: an access outside: byte 256 of a device allocation of 256 bytes[\s\S]*in block \(0, 0, 0\), thread \(0, 0, 0\)/,
    address: new RegExp(`AddressSanitizer: SEGV[\\s\\S]*global_overflow_kernel .*${line}`),
  },
  "global overread": {
    plain: /global_overread_kernel: an access outside: byte 256 .*[\s\S]*thread \(63, 0, 0\)/,
  },
  "global underflow": {
    plain: /wrote before the start of an allocation of 256 bytes/,
    address: new RegExp(`AddressSanitizer: use-after-poison[\\s\\S]*global_overflow_kernel .*${line}`),
  },
  "dynamic shared overflow": { plain: /an access outside: byte 256 of 256 bytes of dynamic shared memory/ },
  "odd dynamic shared overflow": {
    plain: /a write past the end of 260 bytes of dynamic shared memory/,
    address: new RegExp(`use-after-poison[\\s\\S]*dynamic_shared_kernel .*${line}`),
  },
  "no dynamic shared": { plain: /the launch gives no dynamic shared memory/ },
  "too much shared": { plain: /233472 bytes of dynamic shared memory, the device has 232448 a block/ },
  "static beside dynamic shared": {
    plain: /256 \+ 49152 bytes of shared memory, and no more than 49152 have been allowed/,
  },
  "static shared overflow": {
    plain: /a write to byte 256 of a shared variable of 256 bytes/,
    address: new RegExp(`${line}.*index 64 out of bounds`),
  },
  "local overflow": { address: new RegExp(`${line}.*index 8 out of bounds`) },
  misaligned: { plain: /misaligned_kernel: .*gpu\.h:\d+: an access of 16 bytes at \S+ is misaligned/ },
  "misaligned vector": { address: new RegExp(`${line}.*misaligned address`) },
  "misaligned row": { plain: new RegExp(`${line}: ldmatrix: a row is not 16-byte aligned`) },
  "matrix from global": { plain: new RegExp(`${line}: ldmatrix: a row is outside shared memory`) },
  "two blocks": { thread: race },
  null: { plain: /copy_kernel: an access to \(nil\), which is no device memory/ },
  "host pointer": { plain: /copy_kernel: an argument points to host memory/ },
  "deep recursion": { plain: /over 256 KiB of local memory/ },
  "division by zero": { plain: /divide_kernel: an integer division by zero/ },
  "pinned memory reused": { plain: "wrong" },
  "block too large": { plain: /invalid configuration/ },
};

/** Right in the natural order, in which everything runs at once. */
const onlyShuffled = ["pinned memory reused"];

describe("mistakes", () => {
  test("all are listed", () => {
    const names = readFileSync(here("mistakes.cu"), "utf8").matchAll(/^ {4}\{"([a-z ]+)"/gm);
    expect(Array.from(names, (match) => match[1]).sort()).toEqual(Object.keys(mistakes).sort());
  });

  for (const [name, builds] of Object.entries(mistakes)) {
    for (const [build, found] of Object.entries(builds) as [Build, Found][]) {
      test(`${name}: found by the ${build} build`, async () => {
        for (const seed of onlyShuffled.includes(name) ? [1, 2] : [0, 1, 2]) {
          const { status, text } = await runEmulated(programs[build], [name], seed);
          expect(status).not.toBe(0);
          if (found === "wrong") expect(text).toContain(`${name}: wrong`);
          // Which of two threads is named, and where a race is seen first, depends on the order.
          else if (seed === 0) expect(text).toMatch(found);
          // The launch after a failed one is as good as the first.
          if (build === "plain") expect(text).toContain("normalizes: right");
        }
      }, 30_000);
    }
  }
});

test("raw CUDA that the emulator cannot run is refused by the compiler", async () => {
  const folder = mkdtempSync(join(tmpdir(), "neftune-"));
  const refused: [string, RegExp][] = [
    ["__global__ void k(float *p) { atomicAdd(p, 1.0f); }", /float atomics have no fixed order/],
    ["__global__ void k() { __shared__ float x[4]; x[0] = 0; }", /NT_SHARED or NT_DYNAMIC_SHARED/],
  ];
  const compiler = await emulatedCompiler();
  try {
    for (const [body, message] of refused) {
      const file = join(folder, "refused.cu");
      writeFileSync(file, `#include "cuda/gpu.h"\n${body}\n`);
      const child = Bun.spawn([...compiler, "-fsyntax-only", file], { stderr: "pipe" });
      expect(await new Response(child.stderr).text()).toMatch(message);
      expect(await child.exited).not.toBe(0);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
}, 60_000);

test("counters: bytes, sectors, bank conflicts and products of each kernel", async () => {
  const folder = mkdtempSync(join(tmpdir(), "neftune-"));
  try {
    const file = join(folder, "counts.json");
    await runEmulated(programs.plain, ["correct"], 0, { NEFTUNE_EMULATOR_COUNT: file });
    const counted = JSON.parse(readFileSync(file, "utf8")) as { kernels: Record<string, unknown>[] };
    const kernel = (name: string) => counted.kernels.find((each) => each.name === name);
    expect(kernel("normalize_kernel")).toMatchObject({
      launches: 1,
      blocks: 3,
      loaded_bytes: 12288,
      stored_bytes: 12288,
      sectors: 768,
      ideal_sectors: 768,
      worst_sector_ratio: 1,
    });
    // Rows of 32 bytes lie in the same banks every fourth row: two-way conflicts, but for b's rows of 16 bytes.
    expect(kernel("product_kernel")).toMatchObject({
      mma: 2,
      loaded_bytes: 1024,
      ldmatrix: { phases: 12, worst_conflicts: 2 },
      shared: { phases: 8, mean_conflicts: 1, worst_conflicts: 1 },
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
});
