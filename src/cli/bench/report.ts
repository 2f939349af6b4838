// What a benchmark prints: one object, and the same as text.

import type { DeviceInfo } from "../../native/index.ts";
import { countOf, formatBytes, formatCount, formatList, formatTable } from "../terminal/format.ts";
import { type KernelRow, kernelRows, kernelTable } from "./kernels.ts";
import type { Measured, Step } from "./measure.ts";
import type { deviceRates } from "./rates.ts";
import { median } from "./work.ts";

export function summarize(
  measured: Measured,
  rates: ReturnType<typeof deviceRates>,
  values: {
    shape: string;
    mode: string;
    dtype: string;
    optim: string;
    data: string;
    warmup: number;
  } & Record<"batch-size" | "max-length", number>,
  device: DeviceInfo,
  ranks: number,
) {
  const timed = measured.steps.slice(values.warmup);
  const total = (value: (step: Step) => number) => timed.reduce((sum, step) => sum + value(step), 0);
  const seconds = median(timed.map((step) => step.seconds));
  // Dense steps are equal, so the median stands for all; a file's differ in length, so their sum does.
  const span = values.data === "dense" ? seconds * timed.length : total((step) => step.seconds);
  const flops = total((step) => step.flops) / span;
  const { matmuls } = rates;
  const ceiling = matmuls[0]!.gflops;
  return {
    shape: values.shape,
    mode: values.mode,
    dtype: values.dtype,
    optim: values.optim,
    data: values.data,
    batch_size: values["batch-size"],
    max_length: values["max-length"],
    device: device.name,
    isa: device.isa,
    threads: device.threads,
    load_seconds: measured.load_seconds,
    step_seconds_median: seconds,
    tokens_per_step: total((step) => step.tokens) / timed.length,
    tokens_per_second: total((step) => step.tokens) / span,
    ...(ranks === 1 ? {} : { ranks: rankRates(timed, ranks) }),
    model_gflops_per_second: flops / 1e9,
    matmul_gflops_per_second: matmuls.map(({ shape, gflops }) => ({ shape: shape.join("x"), gflops })),
    share_of_matmul_rate: flops / 1e9 / ceiling,
    recompute: measured.planned.recompute,
    planned_bytes: measured.planned,
    resident_before_bytes: measured.resident_before_bytes,
    peak_bytes: measured.peak_bytes,
    seconds_by_operation: measured.seconds_by_operation,
    gpu: gpuUse(measured, timed, rates),
    steps: measured.steps.map(({ seconds, loss, grad_norm }) => ({ seconds, loss, grad_norm })),
  };
}

/** On a GPU: where a step's time goes, on the device and on the host. */
function gpuUse({ recorded }: Measured, timed: readonly Step[], rates: ReturnType<typeof deviceRates>) {
  if (recorded === null || rates.copy === null) return null;
  const { calls, kernels } = recorded;
  const matmul = Math.max(...rates.matmuls.map(({ gflops }) => gflops)) * 1e9;
  const rows: KernelRow[] = kernelRows(kernels, { copy: rates.copy, matmul });
  return {
    /** Of one step, by events around each kernel. */
    step_seconds: kernels.reduce((sum, { seconds }) => sum + seconds, 0),
    host_seconds: median(timed.map(({ host }) => host)),
    calls,
    launches: kernels.reduce((sum, { launches }) => sum + launches, 0),
    copy_bytes_per_second: rates.copy,
    kernels: rows,
  };
}

function gpuRows(gpu: ReturnType<typeof gpuUse>): [string, string][] {
  if (gpu === null) return [];
  const milliseconds = (seconds: number) => `${(1e3 * seconds).toFixed(2)} ms`;
  return [
    [
      "on the GPU",
      `${milliseconds(gpu.step_seconds)} per step in ${formatCount(gpu.launches)} kernels and copies`,
    ],
    [
      "on the host",
      `${milliseconds(gpu.host_seconds)} per step in ${formatCount(gpu.calls)} calls, waits left out`,
    ],
    ["copy", `${formatCount(gpu.copy_bytes_per_second / 1e9)} GB/s, reads and writes`],
  ];
}

function ranksRows(rates: ReturnType<typeof rankRates> | undefined): [string, string][] {
  if (rates === undefined) return [];
  return [
    [`tokens/s of ${rates.count} ranks`, formatCount(rates.tokens_per_second)],
    ["  of one alone", formatCount(rates.tokens_per_second_of_one)],
    ["  efficiency", `${(100 * rates.efficiency).toFixed(1)} %`],
    ["  communication", `${rates.communication_seconds_per_step.toFixed(4)} s per step`],
  ];
}

/** What ranks gain: their tokens/s together, one's without the exchanges, and the share of N times that. */
function rankRates(timed: readonly Step[], ranks: number) {
  const total = (value: (step: Step) => number) => timed.reduce((sum, step) => sum + value(step), 0);
  const [tokens, seconds] = [total((step) => step.tokens), total((step) => step.seconds)];
  const communication = total((step) => step.communication);
  const [all, one] = [(ranks * tokens) / seconds, tokens / (seconds - communication)];
  return {
    count: ranks,
    tokens_per_second: all,
    tokens_per_second_of_one: one,
    efficiency: all / (ranks * one),
    communication_seconds_per_step: communication / timed.length,
  };
}

/** For a terminal of `columns`; undefined: any. */
export function describe(report: ReturnType<typeof summarize>, columns: number | undefined): string {
  const { planned_bytes: planned } = report;
  const expected = report.resident_before_bytes + planned.total;
  const percent = (share: number) => `${(share * 100).toFixed(1)} %`;
  const rows: [string, string][] = [
    [
      "work",
      `${report.shape}, ${report.mode}, ${report.dtype}, ${report.optim}, ${report.data}, ${report.batch_size} × ${report.max_length}`,
    ],
    [
      "machine",
      `${report.device}, ${report.isa}, ${countOf(report.threads, report.isa.startsWith("sm_") ? "multiprocessor" : "thread")}`,
    ],
    ["median step", `${report.step_seconds_median.toFixed(3)} s`],
    ["tokens/s", formatCount(report.tokens_per_second)],
    ...gpuRows(report.gpu),
    ...ranksRows(report.ranks),
    ["model GFLOP/s", formatCount(report.model_gflops_per_second)],
    ...report.matmul_gflops_per_second.map(({ shape, gflops }): [string, string] => [
      `matmul ${shape}`,
      `${formatCount(gflops)} GFLOP/s`,
    ]),
    [
      `share of ${report.matmul_gflops_per_second[0]!.shape.split("x")[0]}³`,
      percent(report.share_of_matmul_rate),
    ],
    [
      "planned",
      `${formatBytes(planned.total)}: weights ${formatBytes(planned.weights)}, trained ${formatBytes(planned.trained)}, ` +
        `activations ${formatBytes(planned.activations)}, workspace ${formatBytes(planned.workspace)} (recompute ${report.recompute})`,
    ],
    [
      "peak memory",
      `${formatBytes(report.peak_bytes)}; ${formatBytes(expected)} planned, with ${formatBytes(report.resident_before_bytes)} of the program before`,
    ],
  ];
  const spent = Object.values(report.seconds_by_operation).reduce((sum, { seconds }) => sum + seconds, 0);
  const operations = Object.entries(report.seconds_by_operation).map(([name, { seconds, calls }]) => [
    `  ${name.replace(/^nt_/, "")}`,
    `${seconds.toFixed(3)} s`,
    percent(seconds / spent),
    `${calls} calls`,
  ]);
  const steps = report.steps.map(({ seconds, loss, grad_norm }, i) => [
    `  ${i + 1}`,
    `${seconds.toFixed(3)} s`,
    loss.toFixed(4),
    grad_norm.toPrecision(4),
  ]);
  return [
    formatList(rows, columns),
    "",
    ...(report.gpu === null
      ? ["by operation, measured steps:", formatTable(operations, [1, 2, 3])]
      : ["by kernel, one step:", kernelTable(report.gpu.kernels, columns)]),
    "",
    formatTable([["  step", "time", "loss", "gradient norm"], ...steps], [1, 2, 3]),
  ].join("\n");
}
