// Parameters that ranks divide, beside the same values undivided: each rank steps both, and says where they differ.

import type { Optimizer, Partners } from "../../src/model/index.ts";
import { Parameters } from "../../src/model/parameters.ts";
import { ShardedParameters } from "../../src/model/sharded-parameters.ts";
import { Arena, type Device, MemoryPlan } from "../../src/native/index.ts";

export interface Compared {
  /** What differs; nothing should. */
  differences: string[];
  /** Which tensor has a value, a first and a second moment that is not finite, once some are made so. */
  spoiled: (string | null)[];
}

/** Some with moments in 8 bits and some without, of sizes that neither blocks of 256 nor the ranks divide. */
const specs = [
  { name: "embedding", shape: [67, 101] },
  { name: "gate", shape: [64, 65] },
  { name: "up", shape: [67, 63] },
  { name: "down", shape: [31, 9] },
  { name: "q", shape: [64, 64] },
  { name: "o", shape: [1, 1] },
  { name: "norm", shape: [300] },
];
const names = {
  head: null,
  layers: [{ mlp: ["gate", "up", "down"], attention: ["q", "o"] }],
  embedding: ["embedding"],
};
const MICRO_BATCHES = 2;
const options = { learningRate: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1 };

const startOf = (size: number, seed: number) =>
  Float32Array.from({ length: size }, (_, i) => Math.sin(i * 0.3 + seed));
/** Multiples of 1/64: their sums have the same bits in any order. */
const gradientOf = (size: number, seed: number) =>
  Float32Array.from({ length: size }, (_, i) => (((i * 31 + seed * 7) % 97) - 48) / 64);
const sumOf = (all: Float32Array<ArrayBuffer>[]) =>
  all.reduce((sum, values) => sum.map((value, i) => value + values[i]!));

export function compareDivided(
  device: Device,
  partners: Partners,
  dtype: "f32" | "bf16",
  optimizer: Optimizer,
): Compared {
  const { rank, size } = partners;
  const parts = [{ name: "weights" as const, specs }];
  const plan = new MemoryPlan();
  new ShardedParameters(device, plan, parts, names, dtype, { rank, size }, optimizer);
  const arena = new Arena(device, plan.total);
  const sharded = new ShardedParameters(device, arena, parts, names, dtype, partners, optimizer);
  const other = new Arena(device, 2 ** 21);
  const whole = new Parameters(device, other, parts, dtype, true, optimizer);
  const both = [sharded, whole];
  for (const [i, { name }] of specs.entries())
    for (const parameters of both)
      parameters.load(name, (values) => device.writeFloats(values, startOf(values.size, i)));
  for (const parameters of both) parameters.initialize(0);

  const differences: string[] = [];
  const expectEqual = (what: string, ours: unknown, theirs: unknown) => {
    if (!Bun.deepEquals(ours, theirs)) differences.push(what);
  };
  const { layers, embedding } = sharded.buckets;
  const ordered = [layers[0]!.mlp, layers[0]!.attention, embedding];
  // The last rank has no second micro-batch.
  const has = (r: number, micro: number) => micro === 0 || r < size - 1;
  const seedOf = (step: number, micro: number, r: number) => step + 10 * micro + 100 * r;
  for (let step = 1; step <= 3; step++) {
    sharded.zeroGradients();
    for (let micro = 0; micro < MICRO_BATCHES; micro++) {
      if (!has(rank, micro)) {
        sharded.skipBatch();
        continue;
      }
      for (const bucket of ordered) {
        sharded.collect(bucket, () => {
          for (const { name, size: n } of bucket.layout.tensors) {
            const gradient = sharded.gradient(name);
            const own = gradientOf(n, seedOf(step, micro, rank));
            device.writeFloats(gradient, sumOf([device.readFloats(gradient), own]));
          }
        });
      }
      sharded.finishBackward();
    }
    for (const { name, size: n } of whole.tensors) {
      const all = Array.from(
        { length: size * MICRO_BATCHES },
        (_, i) => [i % size, Math.floor(i / size)] as const,
      );
      const sum = sumOf(
        all.flatMap(([r, micro]) => (has(r, micro) ? [gradientOf(n, seedOf(step, micro, r))] : [])),
      );
      device.writeFloats(whole.gradient(name), sum);
      if (name === "norm") device.writeFloats(sharded.gradient(name), sum);
    }
    const [norm, expected] = [sharded.startGradientNorm(0)(), whole.startGradientNorm(0)()];
    if (!(Math.abs(norm / expected - 1) < 1e-6)) differences.push(`norm ${norm}, not ${expected}`);
    for (const parameters of both) parameters.adamwStep({ ...options, step });
  }

  const compare = (when: string) => {
    for (const { name } of whole.tensors) {
      expectEqual(`${name} ${when}`, sharded.read(name), whole.read(name));
      const working = both.map((parameters) => device.readBytes(parameters.working(name)));
      if (name !== "norm") expectEqual(`${name} as products read it ${when}`, working[0], working[1]);
    }
    expectEqual("the state's tensors", sharded.stateTensors.map(plain), whole.stateTensors);
    for (const { name } of whole.stateTensors)
      expectEqual(`${name} ${when}`, sharded.readState(name), whole.readState(name));
  };
  const plain = ({ name, dtype, shape }: (typeof sharded.stateTensors)[number]) => ({ name, dtype, shape });
  compare("after steps");

  // Rank 0 alone knows what it reads and writes.
  const rewrite = (parameters: (typeof both)[number]) => {
    parameters.write(
      "q",
      parameters.read("q").map((value) => 2 * value),
    );
    for (const { name } of parameters.stateTensors)
      if (name.startsWith("v.up"))
        parameters.writeState(name, parameters.readState(name.replace("v.", "m.")));
    parameters.afterWrite();
    expectEqual("what is not finite", parameters.findNonFinite(), null);
  };
  rewrite(whole);
  if (rank === 0) sharded.lead(() => rewrite(sharded));
  else sharded.follow();
  compare("after writing");

  const spoil = () => {
    sharded.write("up", sharded.read("up").fill(Number.NaN, -1));
    const name = optimizer === "adamw8bit" ? "m.gate.absmax" : "m.gate";
    const state = new Float32Array(sharded.readState(name).slice().buffer).fill(Number.NaN, 0, 1);
    sharded.writeState(name, new Uint8Array(state.buffer));
  };
  if (rank === 0) sharded.lead(spoil);
  else sharded.follow();
  if (rank === size - 1) device.writeFloats(embedding.gradient.rows(0, 1), Float32Array.of(Number.NaN));
  expectEqual("a norm with a gradient of one rank that is NaN", sharded.startGradientNorm(1)(), Number.NaN);
  const spoiled = (["values", "m", "v"] as const).map((kind) => sharded.findNonFinite(kind));
  arena.free();
  other.free();
  return { differences, spoiled };
}
