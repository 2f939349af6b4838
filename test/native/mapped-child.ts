// Trains or evaluates a model while its file is cut short, on the thread that calls and on those of the pool; prints what
// is thrown. Arguments: a folder to work in, threads, dtype, and bytes that are to be left.

import { truncateSync } from "node:fs";
import { join } from "node:path";
import { writeRandomModel } from "../../src/cli/init.ts";
import { makeBatch } from "../../src/data/batch.ts";
import { NeftuneError } from "../../src/errors.ts";
import { checkpointSource, Llama, parseConfig } from "../../src/model/index.ts";
import { Device } from "../../src/native/index.ts";

const [dir = "", threads = "1", dtype = "bf16", left = "4096"] = process.argv.slice(2);
const config = parseConfig("test", {
  ...{ model_type: "llama", hidden_size: 256, intermediate_size: 704, num_hidden_layers: 3 },
  ...{ num_attention_heads: 4, num_key_value_heads: 2, vocab_size: 954, tie_word_embeddings: true },
});
const ids = Int32Array.from({ length: 40 }, (_, i) => (i * 37) % 954);
const samples = Array.from({ length: 8 }, () => ({ ids, labels: ids, truncated: false }));
const batch = makeBatch(samples, { packing: true });
const device = Device.open({ threads: Number(threads) });
writeRandomModel(device, dir, { ...config, dtype: dtype as "bf16" | "f32" }, 1);
const model = Llama.load(device, checkpointSource(dir), {
  ...{ dtype: dtype as "bf16" | "f32", tune: "none", recompute: "none", seed: 0 },
  ...{ maxTokens: batch.ids.length, maxTargets: batch.targets.length, maxPosition: 40 },
});
model.evaluate(batch);
truncateSync(join(dir, "model.safetensors"), Number(left));
try {
  for (let i = 0; i < 3; i++) model.evaluate(batch);
  device.expectFilesUnchanged("in place");
  console.log("nothing was thrown");
} catch (error) {
  console.log(error instanceof NeftuneError ? `${error.code}: ${error.message}` : `${error}`);
}
// Everything is given back all the same, and another file is none the worse.
model.close();
const other = device.mapFile(process.execPath);
device.expectFilesUnchanged("all");
device.unmapFile(other);
device.close();
console.log("closed");
