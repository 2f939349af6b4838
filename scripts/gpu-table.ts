// The table of a GPU check: speeds by shape, and for each the time of every operation beside the least it could take.
//   BUN_BE_BUN=1 dist/neftune scripts/gpu-table.ts RESULTS

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { floorSeconds, h200, type Rates, stepWork } from "../build/roofline.ts";
import { readShape } from "../src/presets/shapes.ts";

interface Report {
  shape: string;
  mode: string;
  dtype: string;
  device: string;
  batch_size: number;
  max_length: number;
  tokens_per_step: number;
  tokens_per_second: number;
  step_seconds_median: number;
  model_gflops_per_second: number;
  matmul_gflops_per_second: { shape: string; gflops: number }[];
  share_of_matmul_rate: number;
  peak_bytes: number;
  planned_bytes: { total: number };
  seconds_by_operation: Record<string, { seconds: number; calls: number }>;
}

const folder = process.argv[2] ?? "gpu-results";
const reports = readdirSync(folder)
  .filter((name) => /^(bench|qlora)-.*\.json$/.test(name))
  .sort()
  .flatMap((name) => {
    try {
      return [{ name, report: JSON.parse(readFileSync(join(folder, name), "utf8")) as Report }];
    } catch {
      return []; // the step failed, and said so
    }
  });

function print(rows: string[][]): void {
  const widths = rows[0]!.map((_, i) => Math.max(...rows.map((row) => (row[i] ?? "").length)));
  const pad = (cell: string, i: number) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!));
  for (const row of rows) console.log(row.map(pad).join("  "));
}

const gib = (bytes: number) => (bytes / 2 ** 30).toFixed(1);
console.log(reports[0] === undefined ? "no benchmark ran" : `\n${reports[0].report.device}\n`);
print([
  ["shape", "work", "tokens/s", "TFLOP/s", "of ceiling", "of own shapes", "peak GiB", "planned"],
  ...reports.map(({ report: r }) => {
    const shapes = r.matmul_gflops_per_second.slice(1).map(({ gflops }) => gflops);
    const mean = shapes.reduce((sum, rate) => sum + rate, 0) / Math.max(1, shapes.length);
    return [
      r.shape,
      `${r.mode}, ${r.batch_size} × ${r.max_length}`,
      Math.round(r.tokens_per_second).toLocaleString("en"),
      (r.model_gflops_per_second / 1e3).toFixed(1),
      `${(100 * r.share_of_matmul_rate).toFixed(1)} %`,
      `${((100 * r.model_gflops_per_second) / mean).toFixed(1)} %`,
      gib(r.peak_bytes),
      gib(r.planned_bytes.total),
    ];
  }),
]);

for (const { report } of reports.filter(({ report: { mode } }) => mode === "lora")) {
  const best = Math.max(...report.matmul_gflops_per_second.map(({ gflops }) => gflops)) * 1e9;
  const rates: Rates = { ...h200, matmul: best };
  const work = stepWork({
    config: readShape(report.shape),
    tokens: report.tokens_per_step,
    length: report.max_length,
    rank: 16,
  });
  const floor = new Map<string, number>();
  for (const one of work) {
    const name = `nt_${one.operation.replace(/ again$/, "")}`;
    floor.set(name, (floor.get(name) ?? 0) + one.calls * floorSeconds(one, rates));
  }
  const spent = Object.values(report.seconds_by_operation).reduce((sum, { seconds }) => sum + seconds, 0);
  console.log(
    `\n${report.shape}, ${report.batch_size} × ${report.max_length}: one step of ${(1e3 * report.step_seconds_median).toFixed(1)} ms; ` +
      `each operation waited for, ${(1e3 * spent).toFixed(1)} ms in all; least at ${(best / 1e12).toFixed(0)} TFLOP/s and ${rates.bandwidth / 1e12} TB/s (${rates.name}'s)\n`,
  );
  print([
    ["operation", "calls", "ms", "share", "least ms", "of least"],
    ...Object.entries(report.seconds_by_operation).map(([name, { seconds, calls }]) => {
      const least = floor.get(name);
      return [
        name.replace(/^nt_/, ""),
        String(calls),
        (1e3 * seconds).toFixed(2),
        `${((100 * seconds) / spent).toFixed(1)} %`,
        least === undefined ? "–" : (1e3 * least).toFixed(2),
        least === undefined ? "–" : `${((100 * least) / seconds).toFixed(0)} %`,
      ];
    }),
  ]);
}
