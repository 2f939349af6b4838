// Samples while training, from inside; test/e2e/samples.test.ts has the command.

import { expect, test } from "bun:test";
import { runTraining, type Sampling, samplingLimits, samplingReporter } from "../../src/train/index.ts";
import { makeTinyRun, openDevice } from "./tiny-run.ts";

test("whoever watches hears how long the answers are so far, never beyond the most", async () => {
  const { request } = makeTinyRun();
  const heard: number[] = [];
  const sampling: Sampling = {
    prompts: [4, 300].map((length) => {
      return { ids: new Int32Array(length).fill(5), text: "", references: [] };
    }),
    ...{ every: 2, maxNewTokens: 3, eosIds: [], decode: () => "" },
    onProgress: (tokens) => heard.push(tokens),
  };
  const asked = request("sampled", { trainer: { maxSteps: 2 } });
  await runTraining({ ...asked, extraLimits: samplingLimits(sampling) }, openDevice, {
    reporter: samplingReporter(asked.output, sampling),
  });
  expect(heard).toEqual([0, 1, 2, 3]);
});
