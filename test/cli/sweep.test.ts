import { describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readQuestions } from "../../src/cli/inputs/questions.ts";
import { expectSameHeldOut, settingsOf } from "../../src/cli/sweep/grid.ts";
import { questionOf, type RunMeasures } from "../../src/cli/sweep/measure.ts";
import { type SettingResult, summaryOf, sweepTable, verdict } from "../../src/cli/sweep/results.ts";
import { SweepRunner } from "../../src/cli/sweep/runs.ts";
import type { Tokenizer } from "../../src/data/tokenizer.ts";
import { DivergedError, runTraining } from "../../src/train/index.ts";
import { makeTinyRun, openDevice } from "../train/tiny-run.ts";
import { quietContext } from "./quiet-context.ts";

describe("settings", () => {
  const names = (...args: Parameters<typeof settingsOf>) => settingsOf(...args).map(({ name }) => name);

  test("the paper's alphas unless something else is swept", () => {
    expect(settingsOf(undefined, []).map(({ values }) => values.alpha)).toEqual([0, 5, 10, 15]);
    expect(names(undefined, ["lora-r=4,8"])).toEqual(["lora-r-4", "lora-r-8"]);
  });

  test("values cross, in the order given", () => {
    expect(names(["0", "5"], ["learning-rate=1e-4,2e-4"])).toEqual([
      ...["alpha-0-learning-rate-1e-4", "alpha-0-learning-rate-2e-4"],
      ...["alpha-5-learning-rate-1e-4", "alpha-5-learning-rate-2e-4"],
    ]);
    expect(settingsOf(["5"], ["lr=1e-4"])[0]!.values).toEqual({ alpha: 5, "learning-rate": 1e-4 });
  });

  test.each([
    [undefined, ["learning-rate"], "--sweep expects OPTION=VALUE"],
    [undefined, ["learning-rat=1"], "unknown option --learning-rat"],
    [undefined, ["learning-rate=fast"], "expects a number of at least 0"],
    [["-1"], [], "expects a number of at least 0"],
    [["5"], ["alpha=3"], "alpha is swept twice"],
    [["5", "5"], [], "alpha-5 is in the sweep twice"],
    [["5", "5.0"], [], "alpha-5.0 is in the sweep twice"],
    [undefined, ["dataset=a/b,a_b"], "dataset-a_b is in the sweep twice"],
    [undefined, ["lr=1e-4,0.0001"], "learning-rate-0.0001 is in the sweep twice"],
    [undefined, ["seed=1,2"], "cannot be swept"],
    [undefined, ["output=a,b"], "cannot be swept"],
    [undefined, ["val-size=0.1,0.2"], "--sweep eval-split cannot be swept: runs are compared on the same"],
    [undefined, ["eval-dataset=a,b"], "cannot be swept: runs are compared on the same"],
  ] as const)("%j %j: %s", (alphas, sweeps, message) =>
    expect(() => settingsOf(alphas, sweeps)).toThrow(message),
  );

  test.each(["dataset=a,b", "max-samples=1,2", "columns=text=a,text=b", "split=train,test"])(
    "--eval-split would hold out different samples for each of %s",
    (swept) =>
      expect(() => expectSameHeldOut(settingsOf(undefined, [swept]))).toThrow("give --eval-dataset instead"),
  );

  test("other options leave the held-out samples as they are", () =>
    expectSameHeldOut(settingsOf(["0", "5"], ["lr=1,2", "max-length=8,9"])));
});

test("a held-out sample asks for its last answer", () => {
  const tokenizer = { decode: (ids: ArrayLike<number>) => Array.from(ids).join(" ") } as unknown as Tokenizer;
  const of = (labels: number[]) =>
    questionOf(
      { ids: Int32Array.from(labels, (_, i) => i), labels: Int32Array.from(labels), truncated: false },
      tokenizer,
    );
  expect(of([-100, -100, 2, 3])).toMatchObject({ text: "0 1", references: ["2 3"] });
  expect(of([-100, 1, -100, 3, 4, -100])).toMatchObject({ text: "0 1 2", references: ["3 4"] });
  expect([of([-100, -100]), of([0, 1]), of([])]).toEqual([null, null, null]);
});

const measures = (held: number, rouge: number | null = 0.5): RunMeasures => ({
  ...{ train_loss: 1, held_out_loss: held, held_out: "same", exact: 0.25 },
  answers: {
    outputs: 2,
    words: 3,
    characters: 9,
    repetition_2: 0.1,
    log_diversity: 5,
    rouge_l: rouge,
    bleu: null,
  },
});
const result = (name: string, ...losses: number[]): SettingResult => ({
  ...{ name, values: {} },
  runs: losses.map((loss, i) => ({ path: `${name}-${i}`, seed: i, measures: measures(loss) })),
});

describe("results", () => {
  test("mean and sample deviation over seeds", () => {
    expect(summaryOf(result("a", 1, 2, 4)).held_out_loss).toEqual({
      ...{ mean: 7 / 3, n: 3, deviation: expect.closeTo(1.5275252316519468, 12) },
    });
    expect(summaryOf(result("a", 1)).held_out_loss.deviation).toBeNull();
    expect(summaryOf(result("a", 1)).bleu).toEqual({ mean: null, deviation: null, n: 0 });
    expect(summaryOf(result("a", 1, Number.NaN)).held_out_loss).toEqual({ mean: 1, deviation: null, n: 1 });
  });

  test("the table has a row for each setting, and a dash for what was not measured", () => {
    const { head, rows } = sweepTable([result("alpha-0", 1, 2), result("alpha-5", 3, 3)]);
    expect(rows.map((row) => row[head.indexOf("held-out loss")])).toEqual([
      "1.5000 ± 0.7071",
      "3.0000 ± 0.0000",
    ]);
    expect(rows[0]![head.indexOf("BLEU")]).toBe("–");
  });

  test("says a difference only where seeds bear it out", () => {
    expect(verdict([result("alpha-0", 1.5, 1.52, 1.51), result("alpha-5", 1.4, 1.41, 1.4)])).toBe(
      "The held-out loss of alpha-5 is 0.1067 lower than that of alpha-0 (1.4033 and 1.5100); over 3 seeds, the 95 % interval of the difference is −0.1272 to −0.0862.",
    );
    expect(verdict([result("alpha-0", 0.806, 0.838), result("alpha-5", 0.862, 0.87)])).toBe(
      "The held-out loss of alpha-5 is 0.0440 higher than that of alpha-0 (0.8660 and 0.8220), which 2 seeds cannot tell from chance: the 95 % interval of the difference is −0.1179 to +0.2059.",
    );
    expect(verdict([result("a", 2), result("b", 1.5), result("c", 1), result("d", 1.2)])).toStartWith(
      "The held-out loss of c, the lowest of 3, is 1.0000 lower than that of a (1.0000 and 2.0000). With a single seed",
    );
    expect(verdict([result("a", 1.00001, 1.00003), result("b", 1, 1.00002)])).toStartWith(
      "The held-out losses of a and b are equal (1.0000), which 2 seeds cannot tell",
    );
    expect(verdict([result("a", 1, 1), result("b", 1, 1)])).toEndWith("is 0.0000 to 0.0000.");
    expect(verdict([result("a", 1, 1), result("b", 2, 2.0001)])).toContain(
      "is 1.0000 higher than that of a (2.0000 and 1.0000); over 2 seeds, the",
    );
    // Of a setting whose other runs diverged, fewer seeds are left.
    expect(verdict([result("a", 1, 1.01, 1.02), result("b", 0.5, 0.51)])).toContain("; over 2 seeds, the");
    expect(verdict([result("alpha-0", 1.5), result("alpha-5", 1.6)])).toContain("try --seeds 3");
    expect(verdict([result("alpha-0", 1.5), result("alpha-5", 1.6, 1.7)])).toContain("With a single seed");
    expect(verdict([result("alpha-0", 1.5, 1.6), result("alpha-5", 1.7)])).toContain("With a single seed");
    expect(verdict([result("alpha-0", 1.5)])).toBe("");
  });

  test("losses over other tokens are not compared", () => {
    const over = (held_out: string, { runs, ...rest }: SettingResult): SettingResult => ({
      ...rest,
      runs: runs.map((run) => ({ ...run, measures: { ...run.measures, held_out } })),
    });
    expect(verdict([result("a", 2), over("cut", result("b", 1))])).toBe(
      "1 other setting was evaluated on different held-out tokens than a, so its loss cannot be compared.",
    );
    const all = [result("a", 2), over("cut", result("b", 1)), result("c", 3), over("cut", result("d", 1))];
    expect(verdict(all)).toStartWith("The held-out loss of c is 1.0000 higher than that of a");
    expect(verdict(all)).toEndWith(
      " try --seeds 3. 2 other settings were evaluated on different held-out tokens than a, so their losses cannot be compared.",
    );
  });

  test("settings that diverged are named, and compared with nothing", () => {
    const lost = { path: "p", seed: 1, reason: "the loss is NaN" };
    const results = [
      { ...result("a"), diverged: [lost, lost] },
      { ...result("b", 2), diverged: [lost] },
      result("c", 1, 2),
    ];
    expect(sweepTable(results).rows.map(([name, , held]) => [name, held])).toEqual([
      ["a (2 of 2 diverged)", "–"],
      ["b (1 of 2 diverged)", "2.0000"],
      ["c", "1.5000 ± 0.7071"],
    ]);
    expect(verdict(results)).toStartWith("The held-out loss of c is 0.5000 lower than that of b");
    expect(verdict(results.slice(0, 2))).toBe("");
  });
});

test("prompts are told the day that a run began on", async () => {
  const { root, rows, datasets, request } = makeTinyRun();
  const template = join(root, "day.jinja");
  writeFileSync(template, "{{ strftime_now('%d %b') }}: {{ messages[0]['content'] }}");
  const asked = request("dated", { encoding: { template, maxLength: 64 } });
  mkdirSync(asked.output);
  const record = { neftune_version: "0.1.0", "template-date": "2024-07-26" };
  writeFileSync(join(asked.output, "config.json"), JSON.stringify(record));
  const [first] = await readQuestions("prompts", datasets[0]!.name, asked, new AbortController().signal);
  expect(first!.text).toBe(`26 Jul: ${rows[0]!.prompt}`);
});

test("a run whose held-out loss is not finite has diverged, also where it was measured before", async () => {
  const { request } = makeTinyRun();
  const asked = request("lost", { evalSplit: 2, trainer: { maxSteps: 1, batchSize: 1 } });
  const options = { prompts: 1, maxNewTokens: 1, holdoutSeed: 42, openDevice };
  const runner = new SweepRunner(options, quietContext());
  let measured = 0;
  runner.measure = async () => {
    measured++;
    return measures(Number.NaN);
  };
  for (const resume of [false, true]) {
    const running = runner.run({ label: "lost", request: { ...asked, resume } });
    expect(await running.catch((error: unknown) => error)).toBeInstanceOf(DivergedError);
  }
  expect(measured).toBe(1);
  runner.close();
});

test("a run that was begun goes on with the --micro-batch-tokens that it chose", async () => {
  const { root, request } = makeTinyRun();
  const asked = (more: object) => {
    const trainer = { maxSteps: 2, batchSize: 1, gradientAccumulationSteps: 3, saveSteps: 1, ...more };
    return request("begun", { evalSplit: 2, trainer });
  };
  await runTraining(asked({ microBatchTokens: 40 }), openDevice);
  const options = { prompts: 1, maxNewTokens: 1, holdoutSeed: 42, openDevice };
  const runner = new SweepRunner(options, quietContext());
  await runner.run({ label: "begun", request: { ...asked({}), resume: true } });
  runner.close();
  const record = JSON.parse(readFileSync(join(root, "begun", "config.json"), "utf8"));
  expect(record["micro-batch-tokens"]).toBe(40);
});
