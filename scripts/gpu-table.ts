// The table of a GPU check: speeds by shape, beside those of other programs on the same card where they ran, and for each
// shape the time of every kernel beside the least it could take at the rates that the same run measured.
//   bun scripts/gpu-table.ts RESULTS [--markdown]

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type KernelRow, kernelTable } from "../src/cli/bench/kernels.ts";
import { formatTable } from "../src/cli/terminal/format.ts";

interface Report {
  shape: string;
  mode: string;
  device: string;
  batch_size: number;
  max_length: number;
  tokens_per_second: number;
  step_seconds_median: number;
  model_gflops_per_second: number;
  matmul_gflops_per_second: { shape: string; gflops: number }[];
  share_of_matmul_rate: number;
  peak_bytes: number;
  planned_bytes: { total: number };
  gpu: {
    step_seconds: number;
    host_seconds: number;
    calls: number;
    launches: number;
    copy_bytes_per_second: number;
    kernels: KernelRow[];
  } | null;
}

/** What scripts/gpu-peer.py prints. */
interface PeerReport {
  program: string;
  shape: string;
  mode: string;
  batch_size: number;
  max_length: number;
  tokens_per_second: number;
  peak_bytes: number;
}

/** The JSON files of a step; those of steps that failed, which said so, cannot be read. */
function readAll<T>(folder: string, kind: string): T[] {
  return readdirSync(folder)
    .filter((name) => name.startsWith(`${kind}-`) && name.endsWith(".json"))
    .sort()
    .flatMap((name) => {
      try {
        return [JSON.parse(readFileSync(join(folder, name), "utf8")) as T];
      } catch {
        return [];
      }
    });
}

const gib = (bytes: number) => (bytes / 2 ** 30).toFixed(1);
const workOf = ({ shape, mode, batch_size, max_length }: Report | PeerReport) =>
  `${shape}, ${mode}, ${batch_size} × ${max_length}`;
const ofCeiling = (share: number) => `${(100 * share).toFixed(1)} %`;

function speedRows(reports: readonly Report[], peers: readonly PeerReport[]): string[][] {
  const programs = [...new Set(peers.map(({ program }) => program))].sort();
  const rows = reports.map((report) => {
    const shapes = report.matmul_gflops_per_second.slice(1).map(({ gflops }) => gflops);
    const mean = shapes.reduce((sum, rate) => sum + rate, 0) / Math.max(1, shapes.length);
    const others = programs.flatMap((program) => {
      const peer = peers.find((one) => one.program === program && workOf(one) === workOf(report));
      if (peer === undefined) return ["–", "–"];
      return [
        Math.round(peer.tokens_per_second).toLocaleString("en"),
        `${(report.tokens_per_second / peer.tokens_per_second).toFixed(2)} ×`,
      ];
    });
    return [
      workOf(report),
      Math.round(report.tokens_per_second).toLocaleString("en"),
      ...others,
      (report.model_gflops_per_second / 1e3).toFixed(1),
      ofCeiling(report.share_of_matmul_rate),
      ofCeiling(report.model_gflops_per_second / mean),
      gib(report.peak_bytes),
      gib(report.planned_bytes.total),
    ];
  });
  return [
    [
      ...["shape, work", "tokens/s", ...programs.flatMap((program) => [program, "ratio"])],
      ...["TFLOP/s", "of ceiling", "of own shapes", "peak GiB", "planned"],
    ],
    ...rows,
  ];
}

function markdown(rows: readonly string[][]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  const [head = [], ...body] = rows;
  return [line(head), line(head.map(() => "---")), ...body.map(line)].join("\n");
}

const folder = process.argv[2] ?? "gpu-results";
const reports = readAll<Report>(folder, "bench");
const rows = speedRows(reports, readAll<PeerReport>(folder, "peer"));
if (process.argv.includes("--markdown")) {
  console.log(markdown(rows));
} else {
  console.log(reports[0] === undefined ? "no benchmark ran" : `\n${reports[0].device}\n`);
  console.log(
    formatTable(
      rows,
      rows[0]!.map((_, i) => i).filter((i) => i > 0),
    ),
  );
  for (const report of reports) {
    const { gpu, matmul_gflops_per_second: rates } = report;
    if (gpu === null) continue;
    const best = Math.max(...rates.map(({ gflops }) => gflops));
    console.log(
      `\n${workOf(report)}: a step of ${(1e3 * report.step_seconds_median).toFixed(1)} ms; ` +
        `${(1e3 * gpu.step_seconds).toFixed(1)} ms on the GPU in ${gpu.launches} launches, ` +
        `${(1e3 * gpu.host_seconds).toFixed(1)} ms on the host in ${gpu.calls} calls; ` +
        `bounds at ${(best / 1e3).toFixed(0)} TFLOP/s and ${(gpu.copy_bytes_per_second / 1e12).toFixed(2)} TB/s, measured in the same run\n`,
    );
    console.log(kernelTable(gpu.kernels));
  }
}
