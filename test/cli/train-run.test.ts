// What a run checks before any work, and what it remembers for --resume.

import { afterAll, describe, expect, setDefaultTimeout, setSystemTime, test } from "bun:test";
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runTraining, type TrainRequest } from "../../src/cli/train-run.ts";
import { Device } from "../../src/native/index.ts";
import { llamaTokenizerJson } from "../data/tiny-tokenizer.ts";
import { folder } from "../golden/support.ts";
import { quietContext } from "./quiet-context.ts";

setDefaultTimeout(60_000);
const root = mkdtempSync(join(tmpdir(), "neftune-run-"));
const cacheHome = process.env.XDG_CACHE_HOME;
process.env.XDG_CACHE_HOME = join(root, "cache");
afterAll(() => {
  setSystemTime();
  if (cacheHome === undefined) delete process.env.XDG_CACHE_HOME;
  else process.env.XDG_CACHE_HOME = cacheHome;
  rmSync(root, { recursive: true });
});

const model = mkdtempSync(join(root, "model-"));
const source = join(folder, "models", "tiny-mha-f32");
for (const name of readdirSync(source)) copyFileSync(join(source, name), join(model, name));
writeFileSync(join(model, "tokenizer.json"), JSON.stringify(llamaTokenizerJson()));
const dataset = join(root, "rows.json");
const rows = Array.from({ length: 6 }, (_, i) => ({ prompt: `hello ${i}`, completion: " world" }));
writeFileSync(dataset, JSON.stringify(rows));
const template = join(root, "dated.jinja");
writeFileSync(
  template,
  "{{ strftime_now('%d %b') }} {{ messages[0]['content'] }}{{ messages[1]['content'] }}",
);

const context = quietContext();

function request(output: string, changes: Partial<TrainRequest> = {}): TrainRequest {
  return {
    model: { dir: model, name: "tiny" },
    datasets: [{ name: dataset, files: [dataset], weight: 1 }],
    evalDatasets: [],
    evalSplit: null,
    encoding: {
      "prompt-template": template,
      "max-length": 64,
      "skip-bad-rows": false,
      "parse-special": false,
    },
    tune: "lora",
    dtype: "f32",
    recompute: "none",
    lora: { r: 2, alpha: 2, dropout: 0, targetModules: ["q_proj"], useRslora: false },
    adapter: undefined,
    trainer: { maxSteps: 2, batchSize: 2, saveSteps: 1 },
    output: join(root, output),
    resume: false,
    record: {},
    ...changes,
  };
}

const train = (asked: TrainRequest) => runTraining(asked, () => Device.open({ threads: 1 }), context, {});
const recorded = (output: string) =>
  JSON.parse(readFileSync(join(root, output, "config.json"), "utf8")) as {
    template_date: string;
    dataset_fingerprint: { sha256: string };
  };

test("--resume tells templates the day that the run began on; a new run, today", async () => {
  setSystemTime(new Date(2024, 6, 26, 12));
  await train(request("first"));
  const first = recorded("first");
  expect(first.template_date).toBe("2024-07-26");
  setSystemTime(new Date(2024, 6, 27, 12));
  await train(request("first", { resume: true }));
  expect(recorded("first").template_date).toBe("2024-07-26");
  expect(recorded("first").dataset_fingerprint).toEqual(first.dataset_fingerprint);
  await train(request("second"));
  expect(recorded("second").template_date).toBe("2024-07-27");
  expect(recorded("second").dataset_fingerprint.sha256).not.toBe(first.dataset_fingerprint.sha256);
  setSystemTime();
});

describe("what is evaluated", () => {
  const noted = async (output: string, changes: Partial<TrainRequest>) => {
    const notes: string[] = [];
    const noting = { ...context, note: (text: string) => void notes.push(text) };
    const asked = request(output, changes);
    await runTraining(asked, () => Device.open({ threads: 1 }), noting, {
      onPlan: ({ samples, evalSamples }) => void notes.push(`${samples} and ${evalSamples}`),
    });
    return notes.join("\n");
  };
  const evaluation = [{ name: dataset, files: [dataset], weight: 1 }];
  const encoding = { ...request("any").encoding, samples: 3 };

  test("samples that are trained on, too, are counted", async () => {
    const few = join(root, "few.json");
    writeFileSync(few, JSON.stringify([...rows.slice(0, 2), { prompt: "other", completion: " text" }]));
    const other = [{ name: few, files: [few], weight: 1 }];
    expect(await noted("same", { evalDatasets: evaluation })).toContain(
      "evaluation: the training data also has 6 of its 6 samples;",
    );
    expect(await noted("some", { evalDatasets: other })).toContain("also has 2 of its 3 samples;");
    const apart = await noted("apart", { datasets: other, evalDatasets: evaluation, evalSamples: 1 });
    expect(apart).toContain("also has 1 of its 1 sample;");
    expect(await noted("held", { evalSplit: 2 })).not.toContain("also has");
  });

  test("--samples limits training, --eval-samples evaluation", async () => {
    const evalDatasets = evaluation;
    expect(await noted("a", { encoding, evalDatasets })).toContain("3 and 6");
    expect(await noted("b", { encoding, evalDatasets, evalSamples: 2 })).toContain("3 and 2");
    expect(await noted("c", { evalDatasets, evalSamples: 100 })).toContain("6 and 6");
    expect(await noted("d", { evalSplit: 3, evalSamples: 2 })).toContain("3 and 2");
    expect(await noted("e", { encoding, evalSplit: 1 })).toContain("2 and 1");
  });

  test("a number held out that twins do not allow is said", async () => {
    const twins = join(root, "twins.json");
    writeFileSync(twins, JSON.stringify([...rows, ...rows, ...rows]));
    const datasets = [{ name: twins, files: [twins], weight: 1 }];
    const notes = await noted("twins", { datasets, evalSplit: 5 });
    expect(notes).toContain("--eval-split: 6 samples held out, not 5: samples with equal tokens stay");
    expect(notes).toContain("12 and 6");
    expect(await noted("fits", { datasets, evalSplit: 6 })).not.toContain("stay together");
  });
});

describe("refused before data or model are opened", () => {
  // Both would throw something else as soon as they are touched.
  const nothing = {
    model: { dir: join(root, "no-model"), name: "none" },
    datasets: [{ name: "none", files: [join(root, "no-data")], weight: 1 }],
  };
  const early = (asked: TrainRequest) =>
    runTraining(
      asked,
      () => {
        throw new Error("the device was opened");
      },
      context,
      {},
    );

  test("an output that is taken", async () => {
    await train(request("taken"));
    await expect(early(request("taken", nothing))).rejects.toThrow(
      "taken holds another run; give another folder, or --resume",
    );
    await expect(early(request("taken", { ...nothing, tune: "full", resume: true }))).rejects.toThrow(
      "holds files of another kind of run",
    );
  });

  test("--eval-steps with nothing to evaluate on", async () => {
    const trainer = { evalSteps: 5 };
    await expect(early(request("free", { ...nothing, trainer }))).rejects.toThrow(
      "--eval-steps needs something to evaluate on",
    );
    await expect(early(request("free", { ...nothing, trainer, evalSplit: 0.5 }))).rejects.toThrow(
      "config.json",
    );
    expect(readdirSync(root)).not.toContain("free");
  });
});
