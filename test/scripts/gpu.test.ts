// What scripts/gpu-check.sh makes of its results, from results made up here: no GPU is needed.

import { expect, test } from "bun:test";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";

const scripts = join(import.meta.dir, "../../scripts");

function run(command: string[], env = process.env): { status: number; text: string; errors: string } {
  const { exitCode, stdout, stderr } = Bun.spawnSync(command, { env });
  return { status: exitCode, text: stdout.toString(), errors: stderr.toString() };
}

function withResults(files: Record<string, unknown>, body: (folder: string) => void): void {
  const folder = mkdtempSync(join(tmpdir(), "neftune-gpu-"));
  try {
    for (const [name, value] of Object.entries(files))
      writeFileSync(join(folder, name), typeof value === "string" ? value : JSON.stringify(value));
    body(folder);
  } finally {
    rmSync(folder, { recursive: true });
    rmSync(`${folder}.tar.gz`, { force: true });
  }
}

const work = { shape: "s135m", mode: "lora", batch_size: 4, max_length: 512 };
const report = {
  ...work,
  device: "GPU",
  ...{ tokens_per_second: 3000, step_seconds_median: 0.01, model_gflops_per_second: 50_000 },
  matmul_gflops_per_second: [
    { shape: "8192x8192x8192", gflops: 200_000 },
    { shape: "2048x576x960", gflops: 100_000 },
  ],
  ...{ share_of_matmul_rate: 0.25, peak_bytes: 2 ** 30, planned_bytes: { total: 2 ** 29 } },
  gpu: {
    ...{ step_seconds: 0.008, host_seconds: 0.006, calls: 10, launches: 20, copy_bytes_per_second: 3e12 },
    kernels: [
      {
        ...{ operation: "rope", kernel: "rope", launches: 20, seconds: 0.008, bytes: 1.2e10, flops: 0 },
        ...{ bound_seconds: 0.004, share_of_bound: 0.5 },
      },
    ],
  },
};

test("the table: our speed beside another program's on the same work, kernels beside their bound", () => {
  const peer = { ...work, program: "peft", tokens_per_second: 1500, peak_bytes: 0 };
  const files = {
    "bench-s135m-lora-4x512.json": report,
    "bench-cut.json": "{",
    "peer-peft-s135m.json": peer,
    "peer-peft-other.json": { ...peer, batch_size: 8, tokens_per_second: 9 },
  };
  withResults(files, (folder) => {
    const { status, text } = run([process.execPath, join(scripts, "gpu-table.ts"), folder]);
    expect(status).toBe(0);
    expect(text).toMatch(
      /s135m, lora, 4 × 512 +3,000 +1,500 +2\.00 × +50\.0 +25\.0 % +50\.0 % +1\.0 +0\.5\n/,
    );
    expect(text).toContain(
      "8.0 ms on the GPU in 20 launches, 6.0 ms on the host in 10 calls; bounds at 200 TFLOP/s and 3.00 TB/s",
    );
    expect(text).toMatch(/rope +rope +20 +8\.000 +100\.0 % +1500 +– +50\.0 %\n/);
    const { text: page } = run([process.execPath, join(scripts, "gpu-table.ts"), folder, "--markdown"]);
    expect(page.split("\n")[0]).toStartWith("| shape, work | tokens/s | peft | ratio |");
    expect(page).toContain("| s135m, lora, 4 × 512 | 3,000 | 1,500 | 2.00 × |");
  });
  withResults({}, (folder) => {
    const { status, text } = run([process.execPath, join(scripts, "gpu-table.ts"), folder]);
    expect([status, text.split("\n")[0]]).toEqual([0, "no benchmark ran"]);
  });
});

test("losses: as near the CPU's as bf16 lets them be, or a failure", () => {
  const losses = (...values: number[]) => ({
    device: "GPU",
    steps: values.map((loss) => ({ loss, grad_norm: 1 })),
  });
  const files = {
    "losses-lora-cpu.json": losses(10, 9),
    "losses-lora-cuda.json": losses(10.01, 9),
    "losses-qlora-cpu.json": losses(8),
    "losses-qlora-cuda.json": losses(8),
  };
  const compare = (folder: string) => run([process.execPath, join(scripts, "gpu-losses.ts"), folder]);
  withResults(files, (folder) => {
    const { status, text } = compare(folder);
    expect(status).toBe(0);
    expect(text).not.toContain("too far apart");
  });
  for (const wrong of [losses(10.05, 9), losses(Number.NaN, 9), losses(10)])
    withResults({ ...files, "losses-lora-cuda.json": wrong }, (folder) => {
      const { status, text } = compare(folder);
      expect(status).toBe(1);
      expect(text).toContain("too far apart");
    });
});

test("losses of no step are no comparison", () => {
  const nothing = { device: "GPU", steps: [] };
  const files = Object.fromEntries(
    ["lora-cpu", "lora-cuda", "qlora-cpu", "qlora-cuda"].map((name) => [`losses-${name}.json`, nothing]),
  );
  withResults(files, (folder) => {
    const { status, text } = run([process.execPath, join(scripts, "gpu-losses.ts"), folder]);
    expect(status).toBe(1);
    expect(text).toContain("lora: the CPU's report has no steps to compare with");
  });
});

test("gpu-check takes no result of an earlier run for its own", () => {
  const own = {
    check: ["doctor.json", "losses-lora-cpu.json", "losses-lora-cuda.json", "losses.log"],
    bench: ["bench-s135m-lora-4x512.json", "peer-peft-s135m-lora-4x512.json"],
  };
  const files = Object.fromEntries([...own.check, ...own.bench].map((name) => [name, {}]));
  for (const [part, others] of [
    ["check", own.bench],
    ["bench", own.check],
  ] as const)
    withResults(files, (folder) => {
      const time = { ...process.env, NEFTUNE_GPU_SECONDS: "0" };
      const { status, text } = run([join(scripts, "gpu-check.sh"), part, folder], time);
      expect(status).toBe(1);
      expect(text).toContain("left out");
      expect(
        readdirSync(folder)
          .filter((name) => name in files)
          .sort(),
      ).toEqual([...others].sort());
    });
});

test("gpu-check runs files with failed tests once more, alone, and tells their errors; all is in one archive", () => {
  const bun = `#!/bin/sh
    [ "$1" = test ] || exit 0
    for file in "$@"; do
      case "$file" in *.test.ts) ;; *) continue ;; esac
      printf '%s:\\n' "$file"
      case "$file$CUDA_LAUNCH_BLOCKING" in
        *rope.test.ts*) printf 'error: nt_rope failed: rope: CUDA error 716\\n(fail) rope > bf16\\n'; failed=1 ;;
        *swiglu.test.ts) printf 'error: a consequence\\n(fail) swiglu > bf16\\n'; failed=1 ;;
        *) echo "(pass) one" ;;
      esac
    done
    exit "\${failed:-0}"`;
  const program = "#!/bin/sh\necho '{}'";
  withResults({}, (folder) => {
    const place = join(folder, "checkout");
    for (const [path, text] of [
      ["node_modules/@oven/bun-linux-x64/bin/bun", bun],
      ["dist/neftune", program],
      ...["rope", "swiglu", "device", "lora"].map((name) => [`test/kernels/${name}.test.ts`, ""]),
    ] as const) {
      mkdirSync(join(place, dirname(path!)), { recursive: true });
      writeFileSync(join(place, path!), text!, { mode: 0o755 });
    }
    cpSync(join(scripts, "gpu-check.sh"), join(place, "scripts", "gpu-check.sh"));
    const results = join(folder, "results");
    const { status, text } = run([join(place, "scripts", "gpu-check.sh"), "check", results]);
    expect(status).toBe(1);
    expect(text).toMatch(/^ok +device /m);
    expect(text).toMatch(
      /^FAILED +kernels .*\n +error: nt_rope failed: rope: CUDA error 716\n +\(fail\) rope > bf16\n/m,
    );
    expect(text).toMatch(/^FAILED +kernels-again-rope /m);
    expect(text).toMatch(/^ok +kernels-again-swiglu /m);
    expect(text).not.toContain("again-lora");
    const archived = run(["tar", "-tzf", `${results}.tar.gz`]).text;
    expect(archived).toContain("./kernels.log");
    expect(archived).toContain("./kernels-again-rope.log");
  });
});

test("an executable is put together again from Bun and what differs", () => {
  const bun = readFileSync(process.execPath);
  const changed = Buffer.concat([bun, Buffer.from("the program")]);
  for (const at of [0, 5000, bun.length - 1]) changed[at]! ^= 1;
  for (const executable of [changed, bun.subarray(0, 9000)])
    withResults({}, (folder) => {
      const [whole, difference, again] = ["whole", "difference", "again"].map((name) => join(folder, name));
      writeFileSync(whole!, executable);
      const script = join(scripts, "gpu-executable.ts");
      expect(run([process.execPath, script, "split", whole!, difference!]).status).toBe(0);
      expect(statSync(difference!).size).toBeLessThan(20_000);
      expect(run([process.execPath, script, "join", difference!, again!]).status).toBe(0);
      expect(readFileSync(again!).equals(executable)).toBe(true);
      expect(statSync(again!).mode & 0o777).toBe(0o755);
    });
});

test("gpu-check says how it is called", () => {
  for (const given of [[], ["all"]]) {
    const { status, errors } = run([join(scripts, "gpu-check.sh"), ...given]);
    expect(status).toBe(2);
    expect(errors).toContain("scripts/gpu-check.sh bench [RESULTS]");
    expect(errors).not.toContain("pipefail");
  }
});
