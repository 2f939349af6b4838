// One training step of each clockWork on the emulated card that the environment names (cards.ts), which runs nothing:
// prints what the trainer asked of it, as JSON. A process of its own, as a process has one emulated card.

import { loadModel, timedStep } from "../src/cli/bench/measure.ts";
import { denseSamples, makeBatches } from "../src/cli/bench/work.ts";
import { NeftuneError } from "../src/errors.ts";
import { linearModules } from "../src/model/index.ts";
import { Device, kernelRuns, type RecordedCall } from "../src/native/index.ts";
import { readShape } from "../src/presets/shapes.ts";
import { type ClockWork, clockWork } from "./cards.ts";

/** A kernel, or the products of one shape, of an operation over the step. */
export interface StepKernel {
  operation: string;
  kernel: string;
  launches: number;
  blocks: number;
  bytes: number;
  flops: number;
  /** m, n, k of a product, and the bytes that it reads of what it adds to. */
  product: { m: number; n: number; added: number } | null;
}

export interface RecordedStep extends ClockWork {
  /** Why it cannot be trained on this card; the rest is empty then. */
  problem: string | null;
  recompute: string;
  calls: number;
  kernels: StepKernel[];
}

function sumKernels(calls: readonly RecordedCall[]): StepKernel[] {
  const kernels = new Map<string, StepKernel>();
  for (const call of calls) {
    const operation = call.name.replace(/^nt_/, "");
    for (const { name, work, launches } of kernelRuns(call)) {
      if (work === null)
        throw new Error(`${name}, launched by ${call.name}, has no bytes and FLOPs in src/native/work.ts`);
      const { product } = launches[0]!;
      const kernel = kernels.get(`${operation} ${name}`) ?? {
        ...{ operation, kernel: name.replace(/_kernel$/, ""), launches: 0, blocks: 0, bytes: 0, flops: 0 },
        product: product && {
          ...{ m: product.m, n: product.n },
          added: product.accumulates ? product.m * product.n * product.resultBytes : 0,
        },
      };
      kernel.launches += launches.length;
      kernel.blocks += launches.reduce((sum, { blocks }) => sum + blocks, 0);
      kernel.bytes += work.bytes;
      kernel.flops += work.flops;
      kernels.set(`${operation} ${name}`, kernel);
    }
  }
  return [...kernels.values()];
}

function recordStep(device: Device, work: ClockWork): RecordedStep {
  const config = readShape(work.shape);
  const samples = denseSamples(work.batch, work.length, config.vocabSize, 1);
  const batches = makeBatches(samples, 1, work.batch, 1);
  const { dropout } = work;
  const lora = { r: 16, alpha: 16, dropout, targetModules: [...linearModules], useRslora: false };
  const quantization = work.mode === "qlora" ? { double: true } : null;
  try {
    const model = loadModel(device, config, batches, {
      ...({ tune: "lora", dtype: "bf16", recompute: "auto", optim: "adamw", seed: 1 } as const),
      ...{ lora, quantization },
    });
    try {
      const [batch] = batches;
      const context = { signal: new AbortController().signal };
      const counts = { samples: work.batch, tokens: batch!.tokens, targetTokens: batch!.targets.length };
      const step = (number: number) => timedStep(model, batch!, 1e-4, number, counts, context);
      step(1); // what a first step copies once is there
      const { calls } = device.record(() => step(2));
      return {
        ...work,
        ...{
          problem: null,
          recompute: model.plan.recompute,
          calls: calls.length,
          kernels: sumKernels(calls),
        },
      };
    } finally {
      model.close();
    }
  } catch (error) {
    if (!(error instanceof NeftuneError)) throw error;
    return { ...work, problem: error.message, recompute: "", calls: 0, kernels: [] };
  }
}

if (import.meta.main) {
  const device = Device.open({ kind: "cuda" });
  console.log(JSON.stringify(clockWork.map((work) => recordStep(device, work))));
}
