// Folders of runs in every state that a report may find them in.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { compare, differingOptions } from "../../src/report/compare.ts";
import { damagedNotes, plainMetricsLine } from "../../src/report/metrics.ts";
import { namesOf, readRun } from "../../src/report/run.ts";
import { plotText } from "../../src/report/text.ts";
import { makeRun } from "./support.ts";

const root = mkdtempSync(join(tmpdir(), "neftune-report-"));
const at = (name: string) => join(root, name);
beforeAll(() => {
  makeRun(at("plain"), { steps: 40, alpha: 0 });
  makeRun(at("noisy"), { steps: 40, alpha: 5, shift: -0.1 });
  makeRun(at("going"), { steps: 40, until: 13, alpha: 5 });
});
afterAll(() => rmSync(root, { recursive: true }));

describe("states", () => {
  test("finished, stopped, still running", () => {
    expect(readRun(at("plain")).state).toBe("finished");
    expect(readRun(at("going")).state).toBe("stopped");
    expect(readRun(at("going"), "going", true).state).toBe("running");
    expect([readRun(at("going")).metrics.lastStep, readRun(at("going")).totalSteps]).toEqual([13, 40]);
  });

  test("a line that is being written is left out; the ones before it count", () => {
    makeRun(at("torn"), { steps: 40, until: 20, alpha: 5 });
    appendFileSync(at("torn/metrics.jsonl"), '{"step":21,"loss":1.2');
    const { metrics, notes } = readRun(at("torn"));
    expect([metrics.lastStep, metrics.damaged, notes]).toEqual([20, [], []]);
  });

  test("of a step with two lines, as a resumed run may leave, the later one counts", () => {
    makeRun(at("resumed"), { steps: 40, alpha: 5 });
    appendFileSync(at("resumed/metrics.jsonl"), '{"step":39,"loss":9}\n{"step":40,"loss":8}\n');
    const { loss } = readRun(at("resumed")).metrics.curves;
    expect(loss.x).toHaveLength(40);
    expect(loss.y.slice(-2)).toEqual([9, 8]);
  });

  test("damaged lines are left out, and said", () => {
    makeRun(at("damaged"), { steps: 40, alpha: 5 });
    const lines = readFileSync(at("damaged/metrics.jsonl"), "utf8").split("\n");
    lines[2] = "\0\0\0";
    lines[5] = '{"loss":3}';
    lines[7] = "null";
    writeFileSync(at("damaged/metrics.jsonl"), lines.join("\n"));
    const { metrics, notes } = readRun(at("damaged"));
    expect(metrics.damaged).toEqual([3, 6, 8]);
    expect(notes.join()).toContain("metrics.jsonl: 3 damaged lines left out (3, 6, 8)");
  });

  test("numbers as other writers have them where they are not finite, too", () => {
    makeRun(at("python"), { steps: 10, alpha: 5 });
    const lines = ['{"step": 11, "loss": NaN, "grad_norm": -Infinity}', '{"step":11,"eval_loss":Infinity}'];
    appendFileSync(at("python/metrics.jsonl"), `${lines.join("\n")}\n`);
    const { curves, evalLoss, damaged } = readRun(at("python")).metrics;
    const last = [curves.loss, curves.grad_norm, evalLoss].map(({ x, y }) => [x.at(-1), y.at(-1)]);
    expect(last).toEqual([
      [11, null],
      [11, null],
      [11, null],
    ]);
    expect(damaged).toEqual([]);
    expect(plainMetricsLine('{"loss": NaN ,"skipped":"a loss:NaN; b","x":-Infinity}')).toBe(
      '{"loss":null ,"skipped":"a loss:NaN; b","x":null}',
    );
  });

  test("losses that were not finite are gaps", () => {
    makeRun(at("gap"), { steps: 10, alpha: 5, evalSamples: 0 });
    appendFileSync(at("gap/metrics.jsonl"), '{"step":11,"loss":null,"skipped":"the loss is NaN"}\n');
    const { metrics } = readRun(at("gap"));
    expect([metrics.curves.loss.y.at(-1), metrics.skipped]).toEqual([null, 1]);
  });

  test("a step without targets has no speed", () => {
    makeRun(at("idle"), { steps: 10, alpha: 5, evalSamples: 0 });
    const line = '{"step":11,"target_tokens":0,"tokens_per_second":43039,"peak_memory_bytes":1}\n';
    appendFileSync(at("idle/metrics.jsonl"), line);
    const { curves } = readRun(at("idle")).metrics;
    expect([curves.tokens_per_second.x.at(-1), curves.peak_memory_bytes.x.at(-1)]).toEqual([10, 11]);
  });

  test("without config.json there are curves, and a note", () => {
    makeRun(at("bare"), { steps: 10, alpha: 5 });
    rmSync(at("bare/config.json"));
    const run = readRun(at("bare"));
    expect([run.options.size, run.totalSteps, run.metrics.lastStep]).toEqual([0, null, 10]);
    expect(run.notes.join()).toContain("config.json");
  });

  test("a damaged answer leaves the others", () => {
    makeRun(at("answers"), { steps: 10, alpha: 5 });
    const row = (step: number) => JSON.stringify({ step, prompt: `p${step}`, output: "o" });
    const lines = [row(5), "x", row(10).slice(0, 20), '{"step":10}', row(10), ""];
    writeFileSync(at("answers/samples.jsonl"), lines.join("\n"));
    const { answers, notes } = readRun(at("answers"));
    expect(answers.last.map(({ question }) => question)).toEqual(["p10"]);
    expect(answers.earlier.map(({ question }) => question)).toEqual(["p5"]);
    expect(notes).toEqual(["samples.jsonl: 3 damaged lines left out (2, 3, 4)"]);
  });

  test("a last evaluation that is not finite is no loss, and has no interval; the best one stays", () => {
    makeRun(at("diverged"), { steps: 10, until: 9, alpha: 5, evalEvery: 3 });
    appendFileSync(at("diverged/metrics.jsonl"), '{"step":10,"eval_loss":null}\n');
    const losses = '{"step":10,"losses":[1,null,2],"target_tokens":[3,4,5]}\n';
    writeFileSync(at("diverged/eval_losses.json"), losses);
    const [figures] = compare([readRun(at("diverged"))]);
    expect(figures).toMatchObject({ eval_loss: null, eval_loss_interval: null, best_eval_step: 9 });
    // Nothing is a difference to it.
    const [, other] = compare([readRun(at("diverged")), readRun(at("plain"))]);
    expect(other).toMatchObject({ difference: null, difference_interval: null });
  });

  test("a loss over one sample has no interval, whatever samples without targets there are", () => {
    makeRun(at("single"), { steps: 10, alpha: 5 });
    writeFileSync(at("single/eval_losses.json"), '{"step":10,"losses":[1,0],"target_tokens":[3,0]}\n');
    expect(compare([readRun(at("single"))])[0]!.eval_loss_interval).toBeNull();
  });

  test("a sample without targets has no loss, which leaves the interval", () => {
    makeRun(at("targetless"), { steps: 10, alpha: 5 });
    const losses = '{"step":10,"losses":[1,null,2],"target_tokens":[3,0,5]}\n';
    writeFileSync(at("targetless/eval_losses.json"), losses);
    expect(compare([readRun(at("targetless"))])[0]!.eval_loss_interval).not.toBeNull();
  });

  test.each([
    [5, "5 damaged lines left out (1, 2, 3, 4, 5)"],
    [6, "6 damaged lines left out (1, 2, 3, 4, 5, …)"],
    [1, "1 damaged line left out (1)"],
  ])("of %d damaged lines, the first ones are named", (count, note) => {
    const lines = Array.from({ length: count }, (_, i) => i + 1);
    expect(damagedNotes("a.jsonl", lines)).toEqual([`a.jsonl: ${note}`]);
  });

  test("a list without items is an option that was not given, and what is no plain value is none", () => {
    const given = { "report-to": [], "target-modules": ["a", "b"], parts: [{ a: 1 }], packing: false };
    makeRun(at("lists"), { steps: 10, alpha: 5, options: given });
    const { options } = readRun(at("lists"));
    expect([options.has("report-to"), options.get("target-modules")]).toEqual([false, "a, b"]);
    expect([options.has("parts"), options.get("packing"), options.get("batch-size")]).toEqual([
      false,
      "off",
      "8",
    ]);
  });

  test.each(['{"step":10,"losses":[1,2],"target_tokens":[3]}\n', '{"step":10,"losses":[1,', ""])(
    "damaged losses of samples leave the loss without an interval: %j",
    (text) => {
      makeRun(at("half"), { steps: 10, alpha: 5 });
      writeFileSync(at("half/eval_losses.json"), text);
      const run = readRun(at("half"));
      expect(run.notes.join()).toContain("eval_losses.json");
      expect(compare([run])[0]!.eval_loss_interval).toBeNull();
    },
  );

  test.each([
    ["nowhere", "does not exist"],
    ["", "holds no metrics.jsonl"],
  ])("%j is no run: %s", (name, why) => {
    expect(() => readRun(name === "" ? root : at(name))).toThrow(why);
  });
});

describe("comparing", () => {
  const runs = () => [at("plain"), at("noisy"), at("going")].map((path) => readRun(path));

  test("options that differ, and no others", () => {
    expect(differingOptions(runs())).toEqual([
      ["alpha", "0", "5", "5"],
      ["neft-noise", "none", "uniform", "uniform"],
    ]);
  });

  test("the difference of the last evaluations, in its interval; the best and its step", () => {
    const [plain, noisy, going] = compare(runs());
    expect(noisy!.difference!).toBeCloseTo(noisy!.eval_loss! - plain!.eval_loss!, 12);
    const { low, high } = noisy!.difference_interval!;
    expect([low < -0.06, high > -0.1, high < 0]).toEqual([true, true, true]);
    expect(plain!.difference).toBeNull();
    expect([plain!.best_eval_step, plain!.best_eval_loss]).toEqual([40, plain!.eval_loss]);
    expect(going!.steps).toBe(13);
  });

  test("training loss is the mean of the last tenth of the steps", () => {
    makeRun(at("hundred"), { steps: 100, alpha: 5 });
    const losses = readFileSync(at("hundred/metrics.jsonl"), "utf8")
      .trimEnd()
      .split("\n")
      .flatMap((line) => JSON.parse(line).loss ?? []);
    const [figures] = compare([readRun(at("hundred"))]);
    expect(figures!.train_loss!).toBeCloseTo(losses.slice(-10).reduce((a, b) => a + b) / 10, 12);
  });

  test("a run on other evaluation data has a loss and no difference", () => {
    makeRun(at("other"), { steps: 40, alpha: 5, evalSamples: 60 });
    const [, other] = compare([readRun(at("plain")), readRun(at("other"))]);
    expect([other!.difference, other!.eval_loss_interval, other!.eval_loss === null]).toEqual([
      null,
      null,
      false,
    ]);
  });

  test("training time of a run that logs every tenth step", () => {
    makeRun(at("sparse"), { steps: 40, alpha: 5 });
    const lines = readFileSync(at("sparse/metrics.jsonl"), "utf8").trimEnd().split("\n");
    const kept = lines.filter((line) => JSON.parse(line).step % 10 === 0);
    writeFileSync(at("sparse/metrics.jsonl"), `${kept.join("\n")}\n`);
    const [all, sparse] = compare([readRun(at("noisy")), readRun(at("sparse"))]);
    expect(Math.abs(sparse!.seconds! - all!.seconds!)).toBeLessThan(0.05 * all!.seconds!);
  });
});

test("names are as short as tells the runs apart", () => {
  expect(namesOf(["runs/a", "runs/b/"])).toEqual(["a", "b"]);
  expect(namesOf(["x/alpha-5", "y/alpha-5", "z"]).map((name) => name.split("/").slice(-2).join("/"))).toEqual(
    ["x/alpha-5", "y/alpha-5", expect.stringContaining("z")],
  );
  expect(namesOf(["same", "same"])).toHaveLength(2);
});

describe("the curve in a terminal", () => {
  test.each([40, 80, 120])("fits %d columns", (width) => {
    for (const line of plotText([readRun(at("plain")), readRun(at("noisy"))], width))
      expect(line.length).toBeLessThanOrEqual(width);
  });

  test("falls from the upper left to the lower right, each run with its mark", () => {
    const lines = plotText([readRun(at("plain")), readRun(at("noisy"))], 60);
    expect(lines.findIndex((line) => line.includes("b"))).toBeLessThan(4);
    expect(lines.join("\n")).toContain("a");
    expect(lines.at(-1)).toEndWith("step 40");
  });

  test("nothing where there is no loss", () => {
    makeRun(at("empty"), { steps: 5, until: 0, alpha: 5 });
    expect(plotText([readRun(at("empty"))], 80)).toEqual([]);
  });
});
