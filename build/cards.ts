// What the simulated clock (clock.ts) takes GPUs to be capable of. Multiprocessors, memory and the architecture are
// facts. All rates are assumed: what a kernel reaches of the datasheet's or paper's figure beside them, where one is
// named. They stand in this one place.

export interface Card {
  name: string;
  /** As NEFTUNE_EMULATOR_DEVICE has it: what kernels choose their tiles by. */
  architecture: string;
  multiprocessors: number;
  memoryGiB: number;
  /** Bytes per second of a large copy, reads and writes both counted. */
  copy: number;
  /** FLOP/s of bf16 products of a model's sizes by cuBLASLt. */
  matmul: number;
  /** FLOP/s of attention's own products (mma.sync), tiles counted whole, forward and backward. */
  attention: { forward: number; backward: number };
}

const tera = 1e12;

/** The share of a copy's speed that kernels of ours are taken to reach, assumed: 2.64 TB/s of an H100's 3.0. */
export const streaming = 0.88;

/** Seconds that pass between two kernels in a stream, assumed: the first drains, the second fills the device. */
export const launchGap = 1e-6;

/**
 * Seconds of host time a kernel or copy. TypeScript, calls and our C++ take 1.2 µs of them (s135m's steps on the emulator
 * with nothing run, on an idle Xeon); the rest, for the driver, is assumed.
 */
export const hostPerLaunch = 6e-6;

/** Seconds that a block of attention spends before its first product and behind its last, assumed. */
export const attentionBlock = 8e-6;

export const cards: readonly Card[] = [
  {
    // 3.35 TB/s and 989 TFLOP/s by the datasheet.
    ...{ name: "H100", architecture: "90", multiprocessors: 132, memoryGiB: 80 },
    ...{ copy: 3.0 * tera, matmul: 690 * tera, attention: { forward: 353 * tera, backward: 300 * tera } },
  },
  {
    // 4.8 TB/s by the datasheet; the processor is the H100's.
    ...{ name: "H200", architecture: "90", multiprocessors: 132, memoryGiB: 139 },
    ...{ copy: 4.3 * tera, matmul: 690 * tera, attention: { forward: 353 * tera, backward: 300 * tera } },
  },
  {
    // 2.04 TB/s and 312 TFLOP/s by the datasheet; attention about as in FlashAttention-2's paper.
    ...{ name: "A100", architecture: "80", multiprocessors: 108, memoryGiB: 80 },
    ...{ copy: 1.75 * tera, matmul: 250 * tera, attention: { forward: 190 * tera, backward: 165 * tera } },
  },
  {
    // 1.01 TB/s and 165 TFLOP/s with float32 sums by the datasheet; 99 KB of shared memory a block.
    ...{ name: "RTX 4090", architecture: "89", multiprocessors: 128, memoryGiB: 24 },
    ...{ copy: 0.92 * tera, matmul: 150 * tera, attention: { forward: 130 * tera, backward: 110 * tera } },
  },
  {
    // 8 TB/s and 2,250 TFLOP/s by the datasheet; mma.sync is taken to run there at about Hopper's rate.
    ...{ name: "B200", architecture: "100", multiprocessors: 148, memoryGiB: 179 },
    ...{ copy: 6.8 * tera, matmul: 1500 * tera, attention: { forward: 400 * tera, backward: 340 * tera } },
  },
  {
    // 273 GB/s of memory shared with the CPU; 125 TFLOP/s by the datasheet. sm_121 runs what is built for sm_120.
    ...{ name: "Spark", architecture: "120", multiprocessors: 48, memoryGiB: 119 },
    ...{ copy: 0.24 * tera, matmul: 90 * tera, attention: { forward: 70 * tera, backward: 60 * tera } },
  },
];

/** How the emulator shows a card, running nothing. */
export const cardEnvironment = ({ architecture, multiprocessors, memoryGiB }: Card) => ({
  NEFTUNE_EMULATOR_DRY: "1",
  NEFTUNE_EMULATOR_DEVICE: architecture,
  NEFTUNE_EMULATOR_MULTIPROCESSORS: String(multiprocessors),
  NEFTUNE_EMULATOR_MEMORY: String(memoryGiB * 1024),
});

export interface ClockWork {
  shape: string;
  mode: "lora" | "qlora";
  batch: number;
  length: number;
  /** Of LoRA's input. */
  dropout: number;
}

export const clockWork: readonly ClockWork[] = [
  { shape: "llama2-7b", mode: "lora", batch: 8, length: 512, dropout: 0 },
  { shape: "llama2-7b", mode: "lora", batch: 8, length: 512, dropout: 0.05 },
  { shape: "llama3-8b", mode: "lora", batch: 2, length: 4096, dropout: 0 },
  { shape: "llama3-8b", mode: "qlora", batch: 2, length: 4096, dropout: 0 },
  { shape: "l1b", mode: "lora", batch: 8, length: 512, dropout: 0 },
  { shape: "s135m", mode: "lora", batch: 4, length: 512, dropout: 0 },
];
