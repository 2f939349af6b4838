// The simulated clock: what a training step takes on GPUs that nobody has at hand, by arithmetic. The calls, launches,
// products, grids and the memory plan are the trainer's own, recorded on the emulator as each card (recorded-step.ts);
// the bytes and FLOPs of each are those of src/native/work.ts; what a card can do is assumed (cards.ts).
//
// A kernel's bound is its bytes at the speed of a copy or its FLOPs at that of a product, whichever is longer. The
// estimate adds what is known to keep kernels from it: streaming below a copy's speed, grids that leave multiprocessors
// idle, whole tiles of causal attention, the read of what a product adds to, the gap between two launches.

import { join } from "node:path";
import {
  attentionBlock,
  type Card,
  cardEnvironment,
  cards,
  hostPerLaunch,
  launchGap,
  streaming,
} from "./cards.ts";
import { output, root } from "./compile.ts";
import type { RecordedStep, StepKernel } from "./recorded-step.ts";

/** What runs beside the GPU's memory: over the bus. */
const isTransfer = ({ kernel }: StepKernel) => kernel.startsWith("copy to the");

export function boundSeconds(kernel: StepKernel, card: Card): number {
  if (isTransfer(kernel)) return 0;
  return Math.max(kernel.bytes / card.copy, kernel.flops / card.matmul);
}

/** Tiles that cuBLASLt chooses among, and their speed beside the largest. */
const productTiles = [
  { rows: 128, columns: 256, speed: 1 },
  { rows: 128, columns: 128, speed: 0.85 },
  { rows: 64, columns: 128, speed: 0.7 },
] as const;

/** What a card's rate for products has of the loss in the last wave of tiles already. */
const usualWave = 1.03;

/** How much longer a product takes than at the card's rate: the last wave of its tiles is not full. */
export function waveFactor(m: number, n: number, multiprocessors: number): number {
  const factors = productTiles.map(({ rows, columns, speed }) => {
    const tiles = Math.ceil(m / rows) * Math.ceil(n / columns);
    const whole = (m * n) / (rows * columns);
    return (Math.ceil(tiles / multiprocessors) * multiprocessors) / whole / speed;
  });
  return Math.max(1, Math.min(...factors) / usualWave);
}

/** Scores that attention computes, in whole tiles, for each that counts: 128 queries by 64 keys, rows of `length`. */
export function causalWaste(length: number): number {
  let scores = 0;
  for (let row = 0; row < length; row += 128)
    scores += 128 * 64 * Math.ceil(Math.min(row + 128, length) / 64);
  return scores / ((length * (length + 1)) / 2);
}

/** Attention's kernels on tensor cores: their rate, and how many blocks run on a multiprocessor at once. */
function attentionOf(kernel: StepKernel, card: Card): { rate: number; together: number } | null {
  if (kernel.kernel.startsWith("attention_forward")) return { rate: card.attention.forward, together: 2 };
  if (/^attention_backward_(kv|q)/.test(kernel.kernel)) return { rate: card.attention.backward, together: 1 };
  return null;
}

/** Kernels for what the fast ones cannot take, without tensor cores: no card's rates are theirs. */
const isPlain = ({ kernel }: StepKernel) => /_plain\b/.test(kernel);

export function estimatedSeconds(kernel: StepKernel, card: Card, length: number): number {
  if (isPlain(kernel))
    throw new Error(`${kernel.kernel}: no rate in build/cards.ts is that of plain kernels`);
  const gaps = kernel.launches * launchGap;
  if (isTransfer(kernel)) return gaps;
  const bandwidth = streaming * card.copy;
  const { product } = kernel;
  if (product !== null) {
    const factor = waveFactor(product.m, product.n, card.multiprocessors);
    const computing = (kernel.flops / card.matmul) * factor;
    const added = (kernel.launches * product.added) / bandwidth;
    return Math.max(computing + added, kernel.bytes / bandwidth) + gaps;
  }
  const attention = attentionOf(kernel, card);
  if (attention !== null) {
    const tiles = (kernel.flops * causalWaste(length)) / attention.rate;
    const blocks = (kernel.blocks * attentionBlock) / (card.multiprocessors * attention.together);
    return tiles + blocks + gaps;
  }
  const filled =
    kernel.blocks === 0 ? 1 : Math.min(1, kernel.blocks / kernel.launches / card.multiprocessors);
  return Math.max(kernel.bytes / (bandwidth * filled), kernel.flops / card.matmul) + gaps;
}

export interface ClockStep {
  bound: number;
  /** What the GPU is taken to need, and the host. */
  device: number;
  host: number;
  /** The longer of the two. */
  seconds: number;
  launches: number;
}

export function clockStep(step: RecordedStep, card: Card): ClockStep {
  const sum = (value: (kernel: StepKernel) => number) =>
    step.kernels.reduce((total, kernel) => total + value(kernel), 0);
  const launches = sum((kernel) => kernel.launches);
  const device = sum((kernel) => estimatedSeconds(kernel, card, step.length));
  const host = launches * hostPerLaunch;
  return {
    ...{ launches, device, host, seconds: Math.max(device, host) },
    bound: sum((kernel) => boundSeconds(kernel, card)),
  };
}

/** What the trainer asks of each card, by the card's name. */
export async function recordedSteps(): Promise<Map<string, RecordedStep[]>> {
  const steps = new Map<string, RecordedStep[]>();
  for (const card of cards) {
    const child = Bun.spawn([process.execPath, join(import.meta.dir, "recorded-step.ts")], {
      cwd: root,
      env: {
        ...process.env,
        ...cardEnvironment(card),
        NEFTUNE_CUDA_LIBRARY: join(output, "libneftune-emulated.so"),
      },
      stdout: "pipe",
      stderr: "pipe",
    });
    const [printed, said] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
    ]);
    if ((await child.exited) !== 0) throw new Error(`recording a step as ${card.name} fails:\n${said}`);
    steps.set(card.name, JSON.parse(printed) as RecordedStep[]);
  }
  return steps;
}

const milliseconds = (seconds: number) => (1e3 * seconds).toFixed(seconds < 0.01 ? 2 : 1);

export const titleOf = ({ shape, mode, batch, length, dropout }: RecordedStep) =>
  `${shape}, ${mode === "qlora" ? "NF4" : "LoRA"}${dropout > 0 ? `, dropout ${dropout}` : ""}, ${batch} × ${length}`;

/** A kernel of an operation, products of all shapes together. */
const rowOf = ({ operation, kernel, product }: StepKernel) =>
  `${operation} ${product === null ? kernel : "matmul"}`;

/** One work's table: kernels with the bound on each card, then the steps they add up to. */
export function clockTable(steps: ReadonlyMap<string, readonly RecordedStep[]>, index: number): string[][] {
  const all = cards.map((card) => ({ card, step: steps.get(card.name)![index]! }));
  const first = all.find(({ step }) => step.problem === null);
  if (first === undefined) return [];
  const of = (step: RecordedStep, row: string) => step.kernels.filter((kernel) => rowOf(kernel) === row);
  const sum = (kernels: readonly StepKernel[], value: (kernel: StepKernel) => number) =>
    kernels.reduce((total, kernel) => total + value(kernel), 0);
  const rows = [...new Set(first.step.kernels.map(rowOf))].map((row) => {
    const kernels = of(first.step, row);
    return [
      row,
      String(sum(kernels, ({ launches }) => launches)),
      (sum(kernels, ({ bytes }) => bytes) / 1e9).toFixed(2),
      (sum(kernels, ({ flops }) => flops) / 1e12).toFixed(2),
      ...all.map(({ card, step }) =>
        milliseconds(sum(of(step, row), (kernel) => boundSeconds(kernel, card))),
      ),
    ];
  });
  const line = (name: string, value: (clock: ClockStep, step: RecordedStep) => string) => [
    ...[name, "", "", ""],
    ...all.map(({ card, step }) => (step.problem === null ? value(clockStep(step, card), step) : "–")),
  ];
  const { batch, length } = first.step;
  return [
    ...rows,
    line("bound, ms", ({ bound }) => milliseconds(bound)),
    line("estimate, ms", ({ device }) => milliseconds(device)),
    line("on the host, ms", ({ host }) => milliseconds(host)),
    line("tokens/s", ({ seconds }) => Math.round((batch * length) / seconds).toLocaleString("en")),
    line("launches", ({ launches }) => String(launches)),
    line("recomputed", (_, { recompute }) => recompute),
  ];
}

export const clockHead = ["kernel", "launches", "GB", "TFLOP", ...cards.map(({ name }) => name)];

/** What a step's time goes into. */
const partOf = ({ operation, kernel, product }: StepKernel): string => {
  if (operation === "linear_cross_entropy") return "head and loss";
  if (product !== null) return "products of the layers";
  if (kernel.includes("attention")) return "attention";
  if (/rmsnorm|rope|swiglu/.test(kernel)) return "norms, RoPE, SwiGLU"; // SwiGLU's backward pass with LoRA's dA, too
  if (/lora|dropout/.test(kernel)) return "LoRA's own kernels";
  return kernel === "dequantize" ? "NF4 to bf16" : "embedding, optimizer, copies";
};

/** Estimated milliseconds by part. */
function clockParts(step: RecordedStep, card: Card): Record<string, number> {
  const parts: Record<string, number> = {};
  for (const kernel of step.kernels)
    parts[partOf(kernel)] = (parts[partOf(kernel)] ?? 0) + 1e3 * estimatedSeconds(kernel, card, step.length);
  return Object.fromEntries(Object.entries(parts).map(([part, ms]) => [part, Number(ms.toFixed(2))]));
}

interface RecordedClock {
  ms: number;
  launches: number;
  /** On the first card. */
  parts?: Record<string, number>;
}

/** Of each work on each card; null: it does not fit. What is kept of a clock to compare with (clock.json). */
export type ClockRecord = Record<string, Record<string, RecordedClock | null>>;

export function clockRecord(steps: ReadonlyMap<string, readonly RecordedStep[]>): ClockRecord {
  const record: ClockRecord = {};
  for (const card of cards) {
    for (const step of steps.get(card.name)!) {
      const { seconds, launches } = clockStep(step, card);
      const parts = card === cards[0] ? { parts: clockParts(step, card) } : {};
      const clock = { ms: Number((1e3 * seconds).toFixed(2)), launches, ...parts };
      record[titleOf(step)] = {
        ...record[titleOf(step)],
        [card.name]: step.problem === null ? clock : null,
      };
    }
  }
  return record;
}

/** Steps that take half a percent longer than they did, or have two percent more launches, in sentences. */
export function slowerSteps(now: ClockRecord, before: ClockRecord): string[] {
  const found: string[] = [];
  for (const [work, byCard] of Object.entries(now)) {
    for (const [card, step] of Object.entries(byCard)) {
      const then = before[work]?.[card];
      if (then === undefined || then === null || step === null) continue;
      if (step.ms > 1.005 * then.ms || step.launches > 1.02 * then.launches)
        found.push(
          `${work} on ${card}: ${step.ms} ms with ${step.launches} launches by arithmetic, was ${then.ms} ms with ${then.launches}`,
        );
    }
  }
  return found;
}
