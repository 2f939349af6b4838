// A whole run from a request: what it checks before any work, what is evaluated, what it remembers for --resume.

import { afterAll, describe, expect, setDefaultTimeout, setSystemTime, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { loadRunData, type RunRequest, runTraining, splitData, trainOn } from "../../src/train/index.ts";
import { makeTinyRun, openDevice } from "./tiny-run.ts";

setDefaultTimeout(60_000);
afterAll(() => void setSystemTime());
const { root, rows, datasets, dataOf, request, recorded } = makeTinyRun();
const train = (asked: RunRequest) => runTraining(asked, openDevice);
/** The day that the notes on the rows say: null where something fixed it. */
const notedDate = async (asked: RunRequest) => {
  const { data } = await loadRunData(asked, {});
  return data.dataset.notes[0]!.date ?? null;
};

test("--resume tells templates the day that the run began on; a new run, today", async () => {
  setSystemTime(new Date(2024, 6, 26, 12));
  await train(request("first"));
  const first = recorded("first");
  expect(first["template-date"]).toBe("2024-07-26");
  setSystemTime(new Date(2024, 6, 27, 12));
  expect(await notedDate(request("first", { resume: true }))).toBeNull();
  await train(request("first", { resume: true }));
  expect(recorded("first")["template-date"]).toBe("2024-07-26");
  expect(recorded("first").dataset_fingerprint).toEqual(first.dataset_fingerprint);
  expect(await notedDate(request("second"))).toBe("2024-07-27");
  await train(request("second"));
  expect(recorded("second")["template-date"]).toBe("2024-07-27");
  expect(recorded("second").dataset_fingerprint.sha256).not.toBe(first.dataset_fingerprint.sha256);
  const { template, maxLength } = request("second").encoding;
  const encoding = { template, maxLength, templateDate: "2024-07-26" };
  expect(await notedDate(request("third", { encoding }))).toBeNull();
  await train(request("third", { encoding }));
  expect(recorded("third")["template-date"]).toBe("2024-07-26");
  expect(recorded("third").dataset_fingerprint).toEqual(first.dataset_fingerprint);
  const changed = { ...encoding, templateDate: "2024-07-28" };
  await expect(train(request("third", { encoding: changed, resume: true }))).rejects.toThrow(
    "the data set (--dataset and how it is read)",
  );
  setSystemTime();
});

test("runs that share data loaded once end as runs of their own", async () => {
  const trainers = [1, 5].map((alpha) => ({ alpha, maxSteps: 2, batchSize: 2, learningRate: 0.1 }));
  const loaded = await loadRunData(request("shared"), {});
  const device = openDevice();
  for (const [i, trainer] of trainers.entries()) {
    const asked = request(`shared-${i}`, { trainer });
    await trainOn(device, splitData(loaded, asked, {}), asked, {});
    await train(request(`own-${i}`, { trainer }));
  }
  device.close();
  const bytes = (name: string) => readFileSync(join(root, name, "adapter_model.safetensors"));
  expect(bytes("shared-0").equals(bytes("own-0"))).toBe(true);
  expect(bytes("shared-1").equals(bytes("own-1"))).toBe(true);
  expect(bytes("shared-0").equals(bytes("shared-1"))).toBe(false);
});

describe("what is evaluated", () => {
  /** What is told of a run's data: samples of training and evaluation, those in both, those held out. */
  const told = async (output: string, changes: Partial<RunRequest>) => {
    const facts = new Map<string, number[]>();
    await runTraining(request(output, changes), openDevice, {
      reporter: {
        onPlan: ({ samples, evalSamples }) => facts.set("sizes", [samples, evalSamples]),
        onShared: (shared, { length }) => facts.set("shared", [shared, length]),
        onHoldout: (count, asked) => facts.set("holdout", [count, asked]),
      },
    });
    return Object.fromEntries(facts);
  };
  const encoding = { ...request("any").encoding, samples: 3 };

  test("samples that are trained on, too, are counted", async () => {
    const other = dataOf("few", [...rows.slice(0, 2), { prompt: "other", completion: " text" }]);
    expect(await told("same", { evalDatasets: datasets })).toMatchObject({ shared: [6, 6] });
    expect(await told("some", { evalDatasets: other })).toMatchObject({ shared: [2, 3] });
    const apart = await told("apart", { datasets: other, evalDatasets: datasets, evalSamples: 1 });
    expect(apart).toMatchObject({ shared: [1, 1] });
    expect(await told("held", { evalSplit: 2 })).toEqual({ sizes: [4, 2] });
  });

  test("--samples limits training, --eval-samples evaluation", async () => {
    const evalDatasets = datasets;
    expect((await told("a", { encoding, evalDatasets })).sizes).toEqual([3, 6]);
    expect((await told("b", { encoding, evalDatasets, evalSamples: 2 })).sizes).toEqual([3, 2]);
    expect((await told("c", { evalDatasets, evalSamples: 100 })).sizes).toEqual([6, 6]);
    expect((await told("d", { evalSplit: 3, evalSamples: 2 })).sizes).toEqual([3, 2]);
    expect((await told("e", { encoding, evalSplit: 1 })).sizes).toEqual([2, 1]);
  });

  test("a number held out that twins do not allow is said", async () => {
    const twins = dataOf("twins", [...rows, ...rows, ...rows]);
    const some = await told("twins", { datasets: twins, evalSplit: 5 });
    expect(some).toEqual({ holdout: [6, 5], sizes: [12, 6] });
    expect(await told("fits", { datasets: twins, evalSplit: 6 })).toEqual({ sizes: [12, 6] });
  });
});

describe("refused before data or model are opened", () => {
  // Both would throw something else as soon as they are touched.
  const nothing = {
    model: { dir: join(root, "no-model"), name: "none" },
    datasets: [{ name: "none", files: [join(root, "no-data")], weight: 1 }],
  };
  const early = (asked: RunRequest) =>
    runTraining(asked, () => {
      throw new Error("the device was opened");
    });

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

  test("two ways to evaluate at once", async () => {
    await expect(
      early(request("free", { ...nothing, evalDatasets: datasets, evalSplit: 2 })),
    ).rejects.toThrow("--eval-split and --eval-dataset exclude each other");
  });
});
