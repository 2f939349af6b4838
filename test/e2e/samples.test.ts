import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { samplingReporter } from "../../src/train/index.ts";
import { modelPlace } from "./support.ts";

const place = modelPlace();

const training = [
  ...["--model", "model", "--dataset", "train.json", "--eval-dataset", "held-out.json", "--dtype", "f32"],
  ...["--max-steps", "7", "--learning-rate", "1e-2"],
];
const linesOf = (run: string) =>
  place
    .read(run, "samples.jsonl")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));

test("answers every N steps and after the last; the run's numbers stay the same", async () => {
  const rows = JSON.parse(place.read("held-out.json")).slice(0, 2);
  place.write("ask.json", JSON.stringify([rows[0], { prompt: "Name a color." }]));
  await place.must(...training, "--output", "asked", "--sample-prompts", "ask.json", "--sample-steps", "3");
  await place.must(...training, "--output", "plain");
  const weights = (run: string) => readFileSync(place.path(run, "adapter_model.safetensors"));
  expect(weights("asked").equals(weights("plain"))).toBe(true);
  const lines = linesOf("asked");
  expect(lines.map(({ step }) => step)).toEqual([3, 3, 6, 6, 7, 7]);
  expect(lines[0].references).toEqual([rows[0].output]);
  expect(lines[1].references).toBeUndefined();
  expect(lines[1].prompt).toContain("Name a color.");
  expect(place.read("asked/report.html")).toContain("Name a color.");
});

test("a resumed run cuts off the lines after its checkpoint", () => {
  const sampling = { prompts: [], every: 3, maxNewTokens: 1, eosIds: [], decode: () => "" };
  samplingReporter(place.path("asked"), sampling).onPlan!({ startStep: 5 } as never);
  expect(linesOf("asked").map(({ step }) => step)).toEqual([3, 3]);
});

test("a file without rows is refused before the model is loaded", async () => {
  place.write("none.json", "[]");
  const { status, stderr } = await place.run(
    ...training,
    "--output",
    "none",
    "--sample-prompts",
    "none.json",
  );
  expect(status).not.toBe(0);
  expect(stderr).toContain("none.json");
});
