// QLoRA from outside: training, evaluation and generation on 4-bit weights, their cache, and what a run remembers.

import { describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, truncateSync } from "node:fs";
import { lastingMetrics, metricsOf, modelPlace } from "./support.ts";

const place = modelPlace();

const common = ["--model", "model", "--dtype", "f32", "--threads", "1"];
const nf4 = ["--quantization", "nf4"];
const training = [
  ...[...common, "--dataset", "train.json", "--eval-dataset", "held-out.json"],
  ...["--learning-rate", "5e-3", "--batch-size", "8", "--max-steps", "12"],
];
const adapter = (run: string) => readFileSync(place.path(run, "adapter_model.safetensors"));

const lossOf = async (...args: string[]) => {
  const { stdout } = await place.must("eval", ...common, "--dataset", "held-out.json", "--json", ...args);
  return (JSON.parse(stdout) as { loss: number }).loss;
};

describe("a run on 4-bit weights", () => {
  test("learns, and says in its files and on stderr what it trained on", async () => {
    const { stdout, stderr } = await place.must(...training, ...nf4, "--output", "run", "--save-steps", "5");
    expect(stderr).toContain("nf4 and f32");
    expect(stdout).toContain("--adapter run --quantization nf4 --prompt");
    const lines = metricsOf(place, "run").filter(({ eval_loss }) => eval_loss === undefined);
    expect(lines.at(-1)!.loss).toBeLessThan(lines[0]!.loss - 0.05);
    const config = JSON.parse(place.read("run/config.json")) as Record<string, unknown>;
    expect(config).toMatchObject({
      quantization: "nf4",
      "double-quantization": true,
      "quantized-cache": null,
    });
    const sources = config.option_sources as Record<string, string>;
    expect([sources.quantization, sources["double-quantization"]]).toEqual(["flag", "default"]);
  }, 60_000);

  test("eval of the adapter on 4-bit weights is the run's own evaluation; on the full ones it is near", async () => {
    const own = metricsOf(place, "run").findLast(({ eval_loss }) => eval_loss !== undefined)!.eval_loss!;
    const quantized = await lossOf(...nf4, "--adapter", "run");
    expect(quantized).toBeCloseTo(own, 5);
    const full = await lossOf("--adapter", "run");
    expect(full).not.toBe(quantized);
    expect(Math.abs(full - quantized)).toBeLessThan(0.1);
    expect(await lossOf(...nf4, "--double-quantization", "off", "--adapter", "run")).not.toBe(quantized);
  }, 60_000);

  test("generate", async () => {
    const args = ["--prompt", "Name a color.", "--max-new-tokens", "8", "--json", "--adapter", "run"];
    const { stdout } = await place.must("generate", ...common, ...nf4, ...args);
    const { output_ids } = JSON.parse(stdout) as { output_ids: number[] };
    expect(output_ids.length).toBeGreaterThan(0);
  }, 60_000);

  test("--resume gives the same bits, and goes on with the same weights alone", async () => {
    const stopped = [...training.slice(0, -1), "7", ...nf4, "--output", "stopped", "--save-steps", "5"];
    const constant = ["--lr-scheduler-type", "constant"];
    await place.must(...stopped, ...constant);
    await place.must(...training, ...nf4, ...constant, "--output", "straight");
    const again = [...training, ...constant, "--output", "stopped", "--resume"];
    const { status, stderr } = await place.run(...again);
    expect(stderr).toContain("--quantization was nf4, is now none");
    expect(status).toBe(2);
    const single = await place.run(...again, ...nf4, "--double-quantization", "off");
    expect(single.stderr).toContain("--double-quantization was true, is now false");
    await place.must(...again, ...nf4);
    expect(adapter("stopped")).toEqual(adapter("straight"));
  }, 60_000);

  test("--recipe qlora, where flags win", async () => {
    const recipe = ["--recipe", "qlora", "--lora-r", "4", "--output", "recipe", "--max-steps", "2"];
    const { stderr } = await place.must(...common, "--dataset", "train.json", ...recipe);
    expect(stderr).toContain("nf4 and f32");
    const config = JSON.parse(place.read("recipe/config.json")) as Record<string, unknown>;
    expect(config).toMatchObject({ quantization: "nf4", "lora-r": 4, "max-grad-norm": 0.3 });
  }, 60_000);
});

describe("a checkpoint that neftune quantize wrote", () => {
  const onIt = training.map((arg) => (arg === "model" ? "model-nf4" : arg));

  test("needs no flag, and trains to the same bits as one quantized on loading", async () => {
    await place.must("quantize", "--model", "model", "--output", "model-nf4");
    const { stderr } = await place.must(...onIt, "--output", "stored");
    expect(stderr).toContain("nf4 and f32");
    expect(adapter("stored")).toEqual(adapter("run"));
    const config = JSON.parse(place.read("stored/config.json")) as Record<string, unknown>;
    expect(config).toMatchObject({ quantization: "nf4", "double-quantization": true });
    expect(config.option_sources).toMatchObject({ quantization: "checkpoint" });
    const given = await place.must(...onIt, ...nf4, "--output", "stored", "--resume");
    expect(given.stderr).toContain("is quantized already");
    expect(given.stderr).toContain("resumed after step 12");
  }, 60_000);

  test("is not for --tune full", async () => {
    const { status, stderr } = await place.run(...onIt, "--tune", "full", "--output", "full");
    expect(stderr).toContain("model-nf4 has them in 4 bits; take the original weights");
    expect([status, existsSync(place.path("full"))]).toEqual([2, false]);
  }, 60_000);
});

describe("--quantized-cache", () => {
  const cached = [...training, ...nf4, "--quantized-cache", "cache"];

  test("is filled once, whole, and changes no bit", async () => {
    const first = await place.must(...cached, "--output", "filling");
    expect(first.stderr).toContain("quantized weights: kept as cache/");
    const files = readdirSync(place.path("cache"));
    expect(files).toHaveLength(1);
    expect(files[0]).toMatch(/^[0-9a-f]{32}\.safetensors$/);
    const second = await place.must(...cached, "--output", "using");
    expect(second.stderr).toContain(`quantized weights: cache/${files[0]}`);
    for (const run of ["filling", "using"]) {
      expect(adapter(run)).toEqual(adapter("run"));
      expect(lastingMetrics(place, run)).toEqual(lastingMetrics(place, "run"));
    }
    const loss = await lossOf(...nf4, "--quantized-cache", "cache", "--adapter", "run");
    expect(loss).toBe(await lossOf(...nf4, "--adapter", "run"));
    expect(readdirSync(place.path("cache"))).toEqual(files);
  }, 60_000);

  test("a file that is not whole is made anew; with --resume too", async () => {
    const [file] = readdirSync(place.path("cache"));
    truncateSync(place.path("cache", file!), 1000);
    const { stderr } = await place.must(...cached, "--output", "repaired");
    expect(stderr).toContain("kept as");
    expect(adapter("repaired")).toEqual(adapter("run"));
    const resumed = await place.must(...training, ...nf4, "--output", "repaired", "--resume");
    expect(resumed.stderr).toContain("resumed after step 12");
  }, 60_000);

  test("killed while it is filled, it holds no half file", async () => {
    for (const wait of [150, 250, 350]) {
      const child = place.start([
        ...training,
        ...nf4,
        "--quantized-cache",
        `killed-${wait}`,
        "--output",
        `k${wait}`,
      ]);
      await Bun.sleep(wait);
      child.kill("SIGKILL");
      await child.exited;
      const folder = place.path(`killed-${wait}`);
      const files = existsSync(folder) ? readdirSync(folder).filter((name) => !name.startsWith(".")) : [];
      for (const name of files) await place.must("inspect", `killed-${wait}/${name}`);
    }
  }, 60_000);

  test("needs a folder that can be written to", async () => {
    place.write("file", "");
    const { status, stderr } = await place.run(
      ...training,
      ...nf4,
      "--quantized-cache",
      "file/x",
      "--output",
      "no",
    );
    expect(stderr).toContain("cannot be used as --quantized-cache");
    expect(status).toBe(1);
  }, 60_000);
});

test("bench --mode qlora", async () => {
  const args = [
    "--shape",
    "shape.json",
    "--steps",
    "2",
    "--warmup",
    "1",
    "--batch-size",
    "1",
    "--max-length",
    "32",
  ];
  const { stdout } = await place.must("bench", "--mode", "qlora", ...args, "--threads", "1", "--json");
  const report = JSON.parse(stdout) as {
    mode: string;
    planned_bytes: { weights: number };
    steps: { loss: number }[];
  };
  expect(report.mode).toBe("qlora");
  expect(report.steps.every(({ loss }) => Number.isFinite(loss))).toBe(true);
}, 60_000);
