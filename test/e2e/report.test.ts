import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, writeFileSync } from "node:fs";
import { makeRun } from "../report/support.ts";
import { Place } from "./support.ts";

const place = new Place();
beforeAll(() => {
  makeRun(place.path("plain"), { steps: 40, alpha: 0 });
  makeRun(place.path("noisy"), { steps: 40, alpha: 5, shift: -0.1 });
});
afterAll(() => place.close());

describe("report", () => {
  test("writes a page, by default report.html", async () => {
    const { stdout } = await place.must("report", "plain", "noisy");
    expect(stdout).toBe("report: report.html\n");
    expect(place.read("report.html")).toContain("Options that differ");
    await place.must("report", "noisy", "--output", "own.html");
    expect(place.read("own.html")).toContain("<title>noisy");
  });

  test("--json: figures of each run, and the options that differ", async () => {
    const { stdout } = await place.must("report", "plain", "noisy", "--json", "--output", "json.html");
    const { report, runs, differing_options } = JSON.parse(stdout);
    expect(report).toBe("json.html");
    expect(runs.map(({ name, steps }: { name: string; steps: number }) => [name, steps])).toEqual([
      ["plain", 40],
      ["noisy", 40],
    ]);
    expect(runs[1].difference).toBeLessThan(0);
    expect(runs[1].difference_interval.high).toBeLessThan(0);
    expect(differing_options).toEqual({ alpha: ["0", "5"], "neft-noise": ["none", "uniform"] });
  });

  test("--text: a curve and a table, and no page", async () => {
    const { stdout } = await place.must("report", "plain", "noisy", "--text", "--output", "none.html");
    expect(stdout).toContain("training loss\n");
    expect(stdout).toMatch(/evaluation loss +\d\.\d{4} +\d\.\d{4}/);
    expect(existsSync(place.path("none.html"))).toBe(false);
  });

  test("--outputs: other answers than the folders hold, measured as analyze does", async () => {
    const rows = (answer: string) =>
      [1, 2].map(
        (i) => `${JSON.stringify({ prompt: `Question ${i}`, output: answer, reference: "a b c d" })}\n`,
      );
    writeFileSync(place.path("plain.jsonl"), rows("a b c d").join(""));
    writeFileSync(place.path("noisy.jsonl"), rows("x x x x x").join(""));
    const outputs = ["--outputs", "plain.jsonl", "--outputs", "noisy.jsonl"];
    const { stdout } = await place.must("report", "plain", "noisy", ...outputs, "--json");
    const analyzed = await place.must("analyze", "plain.jsonl", "noisy.jsonl", "--json");
    const { file: _file, generator: _generator, ...measures } = JSON.parse(analyzed.stdout).files[1];
    expect(JSON.parse(stdout).runs[1].answers).toEqual(measures);
    expect(place.read("report.html")).toMatch(
      /Answers, measured[\s\S]*ROUGE-L[\s\S]*1\.0000[\s\S]*Question 1/,
    );
    const text = await place.must("report", "plain", "noisy", ...outputs, "--text");
    expect(text.stdout).toMatch(/^2-gram repetition +0\.00 % +75\.00 %$/m);
    // Told before the runs are read, so that a folder that is not there is not complained of first.
    await place.mustFail(
      ["report", "plain", "nowhere", "--outputs", "plain.jsonl"],
      "--outputs is given 1 time for 2 runs; give it once per run, in the same order",
      2,
    );
  });

  test("a folder without a run is refused, with its name", async () => {
    const { status, stderr } = await place.run("report", "plain", "nowhere");
    expect(status).toBe(2);
    expect(stderr).toContain("nowhere does not exist; expected the folder of a training run");
  });
});
