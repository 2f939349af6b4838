import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { lastingMetrics, makeModel, metricsOf, Place } from "./support.ts";

const place = new Place();
const steps = 120;
const run = (output: string) => [
  ...["--model", "model", "--dataset", "train.json", "--eval-dataset", "held-out.json", "--dtype", "f32"],
  ...[
    "--threads",
    "1",
    "--batch-size",
    "4",
    "--learning-rate",
    "1e-3",
    "--epochs",
    "10",
    "--max-steps",
    `${steps}`,
  ],
  ...["--save-steps", "50", "--output", output],
];
const adapter = (output: string) => readFileSync(place.path(output, "adapter_model.safetensors"));

beforeAll(async () => {
  await makeModel(place);
  await place.must(...run("whole"), "--quiet");
}, 120_000);
afterAll(() => place.close());

/** Waits until a run has taken so many steps. */
async function waitForStep(output: string, step: number): Promise<void> {
  for (let waited = 0; waited < 30_000; waited += 5) {
    if (existsSync(place.path(output, "metrics.jsonl"))) {
      const text = place.read(output, "metrics.jsonl");
      if (text.includes(`{"step":${step},`)) return;
    }
    await Bun.sleep(5);
  }
  throw new Error(`${output} did not get to step ${step}`);
}

test("Ctrl-C: 130, a whole checkpoint, and --resume gives the bits of a run never stopped", async () => {
  const child = place.start(run("stopped"));
  await waitForStep("stopped", 7);
  child.kill("SIGINT");
  await child.exited;
  const stderr = await new Response(child.stderr).text();
  expect(child.exitCode).toBe(130);
  expect(stderr).toMatch(
    /stopped after step \d+ of 120; to continue, run the same command with --output stopped --resume/,
  );
  expect(existsSync(place.path("stopped/adapter_model.safetensors"))).toBe(false);
  const [checkpoint] = readdirSync(place.path("stopped/checkpoints"));
  const stoppedAt = metricsOf(place, "stopped").at(-1)!.step;
  expect(checkpoint).toBe(`step-${String(stoppedAt).padStart(8, "0")}`);
  expect(stoppedAt).toBeLessThan(steps);

  const { stderr: resumed } = await place.must(...run("stopped"), "--resume");
  expect(resumed).toContain(`resumed after step ${stoppedAt}`);
  expect(adapter("stopped")).toEqual(adapter("whole"));
  expect(lastingMetrics(place, "stopped")).toEqual(lastingMetrics(place, "whole"));
}, 120_000);

test("SIGTERM does the same", async () => {
  const child = place.start(run("terminated"));
  await waitForStep("terminated", 3);
  child.kill("SIGTERM");
  await child.exited;
  expect(child.exitCode).toBe(130);
  expect(readdirSync(place.path("terminated/checkpoints")).length).toBe(1);
}, 60_000);

test("kill -9 after a checkpoint: --resume gives the same bits", async () => {
  const child = place.start(run("killed"));
  await waitForStep("killed", 60);
  child.kill("SIGKILL");
  await child.exited;
  const { stderr } = await place.must(...run("killed"), "--resume");
  expect(stderr).toContain("resumed after step 50");
  expect(adapter("killed")).toEqual(adapter("whole"));
  expect(lastingMetrics(place, "killed")).toEqual(lastingMetrics(place, "whole"));
}, 120_000);

test("--resume with other settings is refused and names them", async () => {
  const { status, stderr } = await place.run(...run("killed"), "--resume", "--alpha", "9");
  expect(status).toBe(2);
  expect(stderr).toContain("--alpha was 5, is now 9");
}, 60_000);

test("--resume where there is nothing yet starts from the beginning", async () => {
  await place.must(...run("fresh"), "--resume", "--quiet");
  expect(adapter("fresh")).toEqual(adapter("whole"));
}, 120_000);
