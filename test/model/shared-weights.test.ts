// Models on one base: the frozen weights are on the device once.

import { expect, spyOn, test } from "bun:test";
import { join } from "node:path";
import { FiniteCheck } from "../../src/model/finite.ts";
import { generate, loadForInference } from "../../src/model/index.ts";
import { describeBackends } from "../backends.ts";
import { folder } from "../golden/support.ts";

const limits = { maxTokens: 32, maxTargets: 1, maxPosition: 64 };
const base = {
  dir: join(folder, "models", "tiny-gqa-bf16-sharded"),
  dtype: "f32" as const, // of bf16 weights: also a CPU needs memory of its own for them
};
const adapter = join(folder, "adapters", "tiny-gqa-bf16-sharded-all7-r4-final");
const prompt = Int32Array.of(3, 1, 4, 1, 5, 9, 2, 6);

describeBackends((device) => {
  // In bf16 a CPU reads matrices where the file is mapped.
  test.each(["f32", "bf16"] as const)("weights in %s are looked through for NaN once", (dtype) => {
    const counted = spyOn(FiniteCheck.prototype, "countOf");
    const first = loadForInference(device, { ...base, dtype }, limits);
    try {
      const names = counted.mock.calls.map(([name]) => name);
      expect(names).toContain("model.layers.0.mlp.down_proj.weight");
      counted.mockClear();
      loadForInference(device, { ...base, dtype, adapter, weightsOf: first }, limits).close();
      expect(counted.mock.calls.filter(([name]) => names.includes(name))).toEqual([]);
    } finally {
      first.close();
      counted.mockRestore();
    }
  });

  for (const quantization of [null, { double: true, cache: null }]) {
    test(`${quantization === null ? "plain" : "NF4"} weights: an adapter on another model's takes memory for itself alone`, () => {
      const load = (request: object) =>
        loadForInference(device, { ...base, quantization, ...request }, limits);
      const answer = (model: ReturnType<typeof load>) =>
        generate(model, [prompt], { maxNewTokens: 12, eosIds: [] })[0]!;
      const alone = load({ adapter });
      const wanted = answer(alone);
      alone.close();
      const first = load({});
      try {
        const before = answer(first);
        const second = load({ adapter, weightsOf: first });
        expect(second.plan.weights).toBe(0);
        expect(second.quantized.size).toBe(first.quantized.size);
        expect(answer(second)).toEqual(wanted);
        second.close();
        expect(answer(first)).toEqual(before);
        expect(before).not.toEqual(wanted);
      } finally {
        first.close();
      }
    });
  }
});
