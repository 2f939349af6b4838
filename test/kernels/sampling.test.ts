import { expect, test } from "bun:test";
import { type Device, gatherRows, type SamplingOptions, sample } from "../../src/native/index.ts";
import { forEachBackend, poisoned, upload } from "./harness.ts";
import { expectClose, Random, roundTo } from "./numbers.ts";
import { block, drawWords } from "./philox-reference.ts";

const off: SamplingOptions = { temperature: 1, topK: 0, topP: 1, repetitionPenalty: 1, seed: 11 };

/** The probabilities that Transformers' processors leave, in float64: penalty, temperature, top-k, top-p, min-p. */
function probabilities(row: Float32Array, history: number[], o: SamplingOptions): number[] {
  const scores = Array.from(row);
  for (const id of new Set(history)) {
    const score = scores[id]!;
    scores[id] = score > 0 ? score / o.repetitionPenalty : score * o.repetitionPenalty;
  }
  const order = scores.map((_, id) => id).sort((a, b) => scores[b]! - scores[a]! || a - b);
  const least = o.topK > 0 && o.topK < order.length ? scores[order[o.topK - 1]!]! : Number.NEGATIVE_INFINITY;
  const top = scores[order[0]!]!;
  const weights = scores.map((s) => (s < least ? 0 : Math.exp((s - top) / o.temperature)));
  const total = weights.reduce((a, b) => a + b, 0);
  let above = 0;
  for (const [rank, id] of order.entries()) {
    const weight = weights[id]!;
    if (rank > 0 && o.topP < 1 && above >= o.topP * total) weights[id] = 0;
    above += weight;
  }
  const greatest = Math.max(...weights);
  const kept = weights.map((w) => (w < (o.minP ?? 0) * greatest ? 0 : w));
  const sum = kept.reduce((a, b) => a + b, 0);
  return kept.map((w) => w / sum);
}

/** The token that the draw takes out of them: the first, by id, whose running sum passes u. */
function choose(p: number[], seed: number, draw: bigint, step: number): number {
  const [low, high] = drawWords(draw);
  const u = block(seed, [step, 0, low, ((4 << 16) | high) >>> 0])[0]! * 2 ** -32;
  let sum = 0;
  return p.findIndex((value) => {
    sum += value;
    return value > 0 && sum > u;
  });
}

/** Tokens of the rows, each by its own options where `o` is a list. */
function run(
  device: Device,
  rows: Float32Array[],
  o: SamplingOptions | SamplingOptions[],
  draws: bigint[],
  step: number | number[],
  histories: number[][] = rows.map(() => []),
): number[] {
  const [B, V] = [rows.length, rows[0]!.length];
  const values = new Float32Array(B * V);
  for (const [b, row] of rows.entries()) values.set(row, b * V);
  const logits = upload(device, "f32", [B, V], values);
  const tokens = poisoned(device, "i32", [B]);
  const offsets = new BigInt64Array(B + 1);
  for (const [b, ids] of histories.entries()) offsets[b + 1] = offsets[b]! + BigInt(ids.length);
  const history = { ids: Int32Array.from([...histories.flat(), 0]), offsets };
  const rowSampling = draws.map((draw, b) => ({
    options: Array.isArray(o) ? o[b]! : o,
    draw: Number(draw),
    step: Array.isArray(step) ? step[b]! : step,
  }));
  sample(device, tokens, logits, rowSampling, history);
  const got = Array.from(device.readInts(tokens));
  device.free(logits.ptr);
  device.free(tokens.ptr);
  return got;
}

forEachBackend((device) => {
  test("greedy takes the greatest logit, the lowest id among equals, and passes over NaN", () => {
    const greedy = { ...off, temperature: 0 };
    for (const V of [1, 3, 17, 65, 129]) {
      const rows = [1, 2, 3].map((seed) => new Random(seed * V).floats(V, 9));
      const want = rows.map((row) => row.indexOf(Math.max(...row)));
      expect(run(device, rows, greedy, [0n, 0n, 0n], 0)).toEqual(want);
    }
    const equal = new Float32Array(100).fill(-3);
    equal.fill(2, 40, 90);
    expect(run(device, [equal, new Float32Array(40).fill(1)].slice(0, 1), greedy, [0n], 0)).toEqual([40]);
    equal.fill(Number.NaN, 0, 50);
    equal[99] = Number.NaN;
    expect(run(device, [equal], greedy, [0n], 0)).toEqual([50]);
    expect(run(device, [new Float32Array(20).fill(Number.NEGATIVE_INFINITY)], greedy, [0n], 0)).toEqual([0]);
  });

  const settings: [string, Partial<SamplingOptions>][] = [
    ["plain", {}],
    ["temperature", { temperature: 0.6 }],
    ["top-k", { temperature: 1.5, topK: 4 }],
    ["top-k above V", { topK: 1000 }],
    ["top-p", { temperature: 1.2, topP: 0.7 }],
    ["top-k, then top-p", { topK: 7, topP: 0.6 }],
    ["min-p", { temperature: 1.3, minP: 0.2 }],
    ["min-p of 1", { minP: 1 }],
    ["top-p, then min-p", { temperature: 1.5, topP: 0.9, minP: 0.05 }],
    ["everything", { temperature: 0.8, topK: 9, topP: 0.9, minP: 0.1, repetitionPenalty: 1.4 }],
  ];
  for (const [name, change] of settings) {
    test(`draws as Transformers' processors leave them: ${name}`, () => {
      const o = { ...off, ...change };
      for (const V of [1, 3, 17, 65, 129, 3000]) {
        const random = new Random(V);
        const rows = Array.from({ length: 12 }, () => random.floats(V, 5));
        const histories = rows.map((_, b) => Array.from({ length: 2 * b }, () => random.integer(V)));
        const draws = rows.map((_, b) => 2n ** 40n + BigInt(b));
        const want = rows.map((row, b) => choose(probabilities(row, histories[b]!, o), o.seed, draws[b]!, 3));
        expect(run(device, rows, o, draws, 3, histories), `V ${V}`).toEqual(want);
      }
    });
  }

  test("each row goes by its own options, whatever the others' are", () => {
    const random = new Random(5);
    const all = [{ temperature: 0 }, ...settings.map(([, change]) => change), { temperature: 0 }].map(
      (change, b) => ({ ...off, ...change, seed: 11 + b }),
    );
    const rows = all.map(() => random.floats(301, 5));
    const histories = all.map((_, b) => Array.from({ length: 3 * b }, () => random.integer(301)));
    const draws = all.map((_, b) => BigInt(7 * b));
    const steps = all.map((_, b) => b % 4);
    const alone = all.map((o, b) => run(device, [rows[b]!], o, [draws[b]!], steps[b]!, [histories[b]!])[0]);
    expect(run(device, rows, all, draws, steps, histories)).toEqual(alone as number[]);
  });

  test("ties: top-k keeps all equal to the k-th, top-p the lowest ids", () => {
    const row = Float32Array.from([0, 1, 1, 1, 0, 1]);
    const draws = Array.from({ length: 400 }, (_, i) => BigInt(i));
    const rows = draws.map(() => row);
    const seen = (o: Partial<SamplingOptions>) =>
      [...new Set(run(device, rows, { ...off, ...o }, draws, 0))].sort((a, b) => a - b);
    expect(seen({ topK: 2 })).toEqual([1, 2, 3, 5]);
    expect(seen({ topK: 4, topP: 0.4 })).toEqual([1, 2]);
    expect(seen({ topP: 0 })).toEqual([1]);
    expect(seen({})).toEqual([0, 1, 2, 3, 4, 5]);
  });

  test("frequencies follow the probabilities", () => {
    const row = Float32Array.from([0, Math.log(2), Math.log(3), Number.NEGATIVE_INFINITY, Number.NaN]);
    const counts = [0, 0, 0, 0, 0];
    const draws = Array.from({ length: 20000 }, (_, i) => BigInt(i));
    const tokens = run(
      device,
      draws.map(() => row),
      off,
      draws,
      0,
    );
    for (const token of tokens) counts[token]! += 1;
    for (const [token, share] of [1 / 6, 2 / 6, 3 / 6, 0, 0].entries())
      expect(Math.abs(counts[token]! / draws.length - share)).toBeLessThanOrEqual(share === 0 ? 0 : 0.015);
  });

  test("a repetition penalty counts a token once, divides positive and multiplies negative logits", () => {
    const logits = upload(device, "f32", [1, 4], Float32Array.of(2, -2, 1.5, 0));
    const tokens = poisoned(device, "i32", [1]);
    const history = { ids: Int32Array.of(0, 0, 1, 0, 3), offsets: BigInt64Array.of(0n, 5n) };
    const greedy = { ...off, temperature: 0, repetitionPenalty: 2 };
    sample(device, tokens, logits, [{ options: greedy, draw: 0, step: 0 }], history);
    expect(device.readInts(tokens)[0]).toBe(2);
    expectClose(device.readFloats(logits), [1, -4, 1.5, 0], 0);
  });

  test("a vocabulary of 128256 with everything on", () => {
    const V = 128256;
    const o = { ...off, temperature: 0.7, topK: 200, topP: 0.8, repetitionPenalty: 1.1 };
    const rows = [1, 2].map((seed) => new Random(seed).floats(V, 12));
    const histories = [[5, 7, 5], [V - 1]];
    const want = rows.map((row, b) => choose(probabilities(row, histories[b]!, o), o.seed, BigInt(b), 9));
    expect(run(device, rows, o, [0n, 1n], 9, histories)).toEqual(want);
  });

  for (const dtype of ["f32", "bf16"] as const) {
    test(`gather_rows ${dtype}`, () => {
      for (const columns of [1, 3, 17, 65, 129, 5000]) {
        const values = roundTo(dtype, new Random(columns).floats(6 * columns));
        const rows = Int32Array.of(5, 0, 0, 3, 2, 5, 1);
        const y = poisoned(device, dtype, [rows.length, columns]);
        gatherRows(device, y, upload(device, dtype, [6, columns], values), rows);
        const want = Array.from(rows).flatMap((row) =>
          Array.from(values.subarray(row * columns, (row + 1) * columns)),
        );
        expect(device.readFloats(y)).toEqual(Float32Array.from(want));
      }
    });
  }

  test("zero sizes write nothing; bad arguments are refused", () => {
    const x = upload(device, "f32", [1, 3], Float32Array.of(1, 2, 3));
    const tokens = poisoned(device, "i32", [1]);
    const call = (change: Partial<SamplingOptions>, ids = [0], draw = 0, step = 0) => {
      const history = { ids: Int32Array.from(ids), offsets: BigInt64Array.of(0n, BigInt(ids.length)) };
      return () => sample(device, tokens, x, [{ options: { ...off, ...change }, draw, step }], history);
    };
    expect(call({ temperature: -1 })).toThrow("sample: temperature must be ≥ 0, got -1");
    expect(call({ temperature: Number.NaN })).toThrow("sample: temperature must be ≥ 0");
    expect(call({ topK: -1 })).toThrow("sample: top_k must be ≥ 0 (0: off), got -1");
    expect(call({ topP: -0.5 })).toThrow("sample: top_p must be ≥ 0 (1: off), got -0.5");
    expect(call({ minP: 1.5 })).toThrow("sample: min_p must be in [0, 1] (0: off), got 1.5");
    expect(call({ repetitionPenalty: 0 })).toThrow("sample: repetition_penalty must be > 0, got 0");
    expect(call({ repetitionPenalty: 2 }, [3])).toThrow("sample: history tokens must be in [0, 3), got 3");
    expect(call({}, [0], -1)).toThrow("sample: draws must be in [0, 2^48), got -1");
    expect(call({}, [0], 0, -1)).toThrow("sample: step must be in [0, 2^32), got -1");
    device.call("nt_sample", tokens.ptr, x.ptr, 0, 3, null, null, null);
    device.call("nt_gather_rows", 0, x.ptr, x.ptr, Int32Array.of(0), 0, 3);
    expect(device.readInts(tokens)[0]).toBe(-1);
    expect(device.readFloats(x)).toEqual(Float32Array.of(1, 2, 3));
    const gather = (rows: number[]) => () =>
      gatherRows(device, poisoned(device, "f32", [1, 3]), x, Int32Array.from(rows));
    expect(gather([-1])).toThrow("gather_rows: rows must be ≥ 0, got -1 at 0");
  });
});
