// A run in a process of its own, to be killed, interrupted or starved of disk: see killed.test.ts.
//   bun child-run.ts OUTPUT MAX_STEPS SAVE_STEPS SAVE_TOTAL_LIMIT MILLISECONDS_A_STEP

import { writeSync } from "node:fs";
import { NeftuneError } from "../../src/errors.ts";
import { NoisyTrainer } from "../../src/train/index.ts";
import { FakeModel, fakeSamples } from "./fake-model.ts";

const [output, ...numbers] = process.argv.slice(2);
const [maxSteps, saveSteps, saveTotalLimit, milliseconds] = numbers.map(Number);

const model = new FakeModel();
const startBatch = model.startBatch.bind(model);
model.startBatch = (batch, gradientScale, context) => {
  const end = performance.now() + milliseconds!;
  while (performance.now() < end); // a native call does not let signals in either
  return startBatch(batch, gradientScale, context);
};
const stop = new AbortController();
process.once("SIGINT", () => stop.abort());
const trainer = new NoisyTrainer({
  model,
  dataset: fakeSamples(21),
  evalDataset: fakeSamples(6),
  output: output!,
  resume: true,
  signal: stop.signal,
  reporter: { onStep: ({ step }) => writeSync(1, `${step}\n`) },
  options: {
    batchSize: 4,
    learningRate: 0.02,
    epochs: 1000,
    maxSteps: maxSteps!,
    saveSteps: saveSteps!,
    saveTotalLimit: saveTotalLimit!,
  },
});
try {
  await trainer.train();
} catch (error) {
  if (!(error instanceof NeftuneError)) throw error;
  writeSync(2, `${error.message}\n`);
  process.exitCode = error.exitStatus;
}
