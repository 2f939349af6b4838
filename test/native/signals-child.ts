// Evaluates a model over and over while its parent sends signals; prints how many arrived and how many losses changed.

import { makeBatch } from "../../src/data/batch.ts";
import { Llama, parseConfig, randomSource } from "../../src/model/index.ts";
import { Device } from "../../src/native/index.ts";

let signals = 0;
process.on("SIGUSR2", () => {
  signals++;
});

const config = parseConfig("test", {
  model_type: "llama",
  hidden_size: 128,
  intermediate_size: 352,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 954,
  tie_word_embeddings: true,
});
const ids = Int32Array.from({ length: 40 }, (_, i) => (i * 37) % 954);
const samples = Array.from({ length: 16 }, () => ({ ids, labels: ids, truncated: false }));
const batch = makeBatch(samples, { packing: true });
const device = Device.open({ threads: 1 });
const model = Llama.load(device, randomSource(config), {
  dtype: "f32",
  tune: "none",
  recompute: "none",
  maxTokens: batch.ids.length,
  maxTargets: batch.targets.length,
  maxPosition: 40,
  seed: 0,
});
const expected = model.evaluate(batch).slice();
console.log("ready");
let changed = 0;
for (const end = performance.now() + 1500; performance.now() < end; ) {
  const losses = model.evaluate(batch);
  changed += losses.filter((loss, i) => loss !== expected[i]).length;
  await new Promise((resolve) => setImmediate(resolve));
}
model.close();
device.close();
console.log(JSON.stringify({ signals, changed }));
