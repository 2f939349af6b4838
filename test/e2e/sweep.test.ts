import { expect, test } from "bun:test";
import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { metricsOf, modelPlace } from "./support.ts";

const place = modelPlace();

const sweep = [
  ...[
    "sweep",
    "--model",
    "model",
    "--dataset",
    "train.json",
    "--eval-dataset",
    "held-out.json",
    "--dtype",
    "f32",
  ],
  ...["--alpha", "0,5", "--seeds", "2", "--max-steps", "4"],
  ...["--output", "sweep"],
];
const chosen = ["--learning-rate", "1e-2", "--max-new-tokens", "8"];
const runs = ["alpha-0-seed-1", "alpha-0-seed-2", "alpha-5-seed-1", "alpha-5-seed-2"];

test("one run a value and seed, measured and compared; --resume does what is missing and nothing else", async () => {
  const { stdout, stderr } = await place.must(...sweep, ...chosen, "--json");
  const summary = JSON.parse(stdout);
  expect(summary.settings.map(({ name }: { name: string }) => name)).toEqual(["alpha-0", "alpha-5"]);
  // Tokenized once: the data is described for the first run alone.
  expect(stderr.match(/^data: /gm)).toHaveLength(1);
  expect(stderr.match(/^template: /gm)).toHaveLength(1);
  expect(stderr).not.toMatch(/^(?:model|noise|learning rate|batch): /m);
  expect(stderr.match(/^sweep: 4 runs/gm)).toHaveLength(1);
  for (const name of runs) {
    const config = JSON.parse(readFileSync(place.path("sweep", name, "config.json"), "utf8"));
    expect([config.alpha, config.seed]).toEqual([Number(name[6]), 41 + Number(name.at(-1))]);
    expect(existsSync(place.path("sweep", name, "answers.jsonl"))).toBe(true);
  }
  const [first] = summary.settings;
  const evaluated = metricsOf(place, "sweep/alpha-0-seed-1").at(-1)!.eval_loss!;
  expect(first.runs[0].measures.held_out_loss).toBeCloseTo(evaluated, 4);
  expect(first.summary.held_out_loss.n).toBe(2);
  expect(place.read("sweep/report.html")).toContain("alpha-5-seed-2");
  expect(JSON.parse(place.read("sweep/sweep.json")).verdict).toBe(summary.verdict);

  expect((await place.run(...sweep, ...chosen)).status).toBe(2);
  const kept = statSync(place.path("sweep/alpha-0-seed-1/adapter_model.safetensors")).mtimeMs;
  rmSync(place.path("sweep/alpha-5-seed-2"), { recursive: true });
  const again = await place.must(...sweep, ...chosen, "--json", "--resume");
  expect(JSON.parse(again.stdout).settings).toEqual(summary.settings);
  expect(statSync(place.path("sweep/alpha-0-seed-1/adapter_model.safetensors")).mtimeMs).toBe(kept);

  // Other answers are measured anew; other training is another sweep.
  const shorter = JSON.parse(
    (await place.must(...sweep, ...chosen.slice(0, 2), "--json", "--resume", "--max-new-tokens", "2")).stdout,
  );
  const charactersOf = ({ settings }: typeof summary) => settings[0].runs[0].measures.answers.characters;
  expect(charactersOf(shorter)).toBeLessThan(charactersOf(summary));
  // So is other held-out data of the same name.
  const data = place.read("held-out.json");
  writeFileSync(place.path("held-out.json"), JSON.stringify(JSON.parse(data).slice(1)));
  await place.mustFail(
    [...sweep, ...chosen, "--resume"],
    "belongs to a different run: the evaluation data set was",
    2,
  );
  writeFileSync(place.path("held-out.json"), data);
  await place.mustFail(
    [...sweep, "--resume", "--learning-rate", "2e-2"],
    "belongs to a different run: --learning-rate was 0.01, is now 0.02",
    2,
  );
}, 120_000);

test("a run that diverges is a result, too: the others go on, and the status is 1", async () => {
  const plain = sweep.slice(0, sweep.indexOf("--alpha"));
  const rates = ["--sweep", "learning-rate=1e30,1e-2,1e-3", "--max-steps", "8", "--max-new-tokens", "2"];
  const { status, stdout, stderr } = await place.run(...plain, ...rates, "--output", "rates", "--json");
  expect(status).toBe(1);
  expect(stderr).toMatch(/^learning-rate-1e30-seed-1: diverged at step \d: .*; the sweep goes on/m);
  expect(stderr).toContain(
    "error: 1 of 3 runs diverged (rates/learning-rate-1e30-seed-1); the report compares the others",
  );
  const [lost, ...others] = JSON.parse(stdout).settings;
  expect([lost.runs, lost.diverged[0].path]).toEqual([[], "rates/learning-rate-1e30-seed-1"]);
  expect(others.map(({ runs, diverged }: typeof lost) => [runs.length, diverged])).toEqual([
    [1, undefined],
    [1, undefined],
  ]);
  expect(place.read("rates/report.html")).toContain("learning-rate-1e30 (1 of 1 diverged)");
}, 60_000);

test("--sweep prompt-template asks --prompts in each run's own template", async () => {
  writeFileSync(place.path("ask.jsonl"), '{"instruction":"Name a color."}\n');
  const plain = sweep.slice(0, sweep.indexOf("--alpha"));
  const own = ["--sweep", "prompt-template=alpaca,vicuna", "--prompts", "ask.jsonl", "--max-steps", "1"];
  await place.must(...plain, ...own, "--max-new-tokens", "2", "--output", "templates");
  const asked = (name: string) =>
    JSON.parse(place.read(`templates/prompt-template-${name}-seed-1/answers.jsonl`)).instruction;
  expect(asked("alpaca")).toContain("### Instruction:");
  expect(asked("vicuna")).toContain("USER:");
}, 60_000);

test("without data to compare on it is refused before anything is made", async () => {
  const { status, stderr } = await place.run(
    "sweep",
    "--model",
    "model",
    "--dataset",
    "train.json",
    "--output",
    "other",
  );
  expect(status).toBe(2);
  expect(stderr).toContain("--eval-split or --eval-dataset");
  expect(existsSync(place.path("other"))).toBe(false);
});
