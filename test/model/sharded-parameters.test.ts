// The calls of a backward pass where ranks divide the parameters: what one of two ranks asks of a communicator that only
// writes them down.

import { afterAll, describe, expect, test } from "bun:test";
import { makeBatch } from "../../src/data/batch.ts";
import { Llama, type Partners, parseConfig, randomSource } from "../../src/model/index.ts";
import { type Communicator, Device, type Tensor } from "../../src/native/index.ts";

const device = Device.open({ threads: 1 });
afterAll(() => device.close());

const calls: string[] = [];
const written = {
  overlap: (_: Device, on: boolean) => calls.push(on ? "beside" : "wait for all"),
  reduceScatter: (_: Device, y: Tensor, x: Tensor) => calls.push(`reduce ${x.ptr} to ${y.ptr}`),
  wait: () => calls.push("wait"),
};
const partners: Partners = { rank: 1, size: 2, seconds: 0, comm: written as unknown as Communicator };
const fill = device.fill.bind(device);
device.fill = (tensor, byte) => {
  calls.push(`fill ${tensor.ptr}`);
  fill(tensor, byte);
};

describe.each([true, false])("with the embedding as head: %p", (isTied) => {
  const config = parseConfig("config.json", {
    ...{ model_type: "llama", hidden_size: 32, intermediate_size: 48, num_hidden_layers: 3 },
    ...{ num_attention_heads: 2, num_key_value_heads: 2, vocab_size: 40, tie_word_embeddings: isTied },
  });
  const model = Llama.load(device, randomSource({ ...config, dtype: "f32" }), {
    ...({ dtype: "f32", tune: "full", recompute: "layer", seed: 1, partners } as const),
    ...{ maxTokens: 8, maxTargets: 8, maxPosition: 8 },
  });
  afterAll(() => model.close());
  const sample = { ids: Int32Array.of(1, 2, 3, 4), labels: Int32Array.of(1, 2, 3, 4), truncated: false };
  const callsOf = (work: () => unknown) => {
    calls.length = 0;
    work();
    return calls.slice();
  };
  const ofBatch = callsOf(() =>
    model.trainBatch(makeBatch([sample], { packing: true }), 1, { draws: BigInt64Array.of(0n) }),
  );

  test("a rank without a micro-batch makes the exchanges of one that has one, in its order", () => {
    const exchanges = (all: readonly string[]) => all.filter((call) => !call.startsWith("fill"));
    const ofNone = callsOf(() => model.parameters!.skipBatch());
    expect(exchanges(ofNone)).toEqual(exchanges(ofBatch));
    expect(ofBatch.filter((call) => call.startsWith("reduce"))).toHaveLength(3 * 2 + (isTied ? 1 : 2));
  });

  test("no gradient is written where an earlier bucket is still on its way", () => {
    const underWay = new Set<string>();
    for (const call of [...ofBatch, ...ofBatch]) {
      const [what, buffer] = call.split(" ");
      if (call === "wait for all") underWay.clear();
      if (what === "fill") expect(underWay.has(buffer!)).toBe(false);
      if (what === "reduce") underWay.add(buffer!);
    }
    expect(underWay.size).toBe(0);
    // One layer's bucket is on its way while the next is made.
    const reduces = ofBatch.flatMap((call, i) => (call.startsWith("reduce") ? [i] : []));
    expect(ofBatch.slice(reduces[2], reduces[3]).filter((call) => call === "wait for all")).toHaveLength(1);
    expect(ofBatch[reduces[2]! + 1]).toStartWith("fill");
  });
});
