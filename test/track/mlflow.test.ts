// MLflow's REST API, played by a server here; a real one was tried by hand as docs/testing.md says.

import { afterAll, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mlflowTracker } from "../../src/track/mlflow.ts";
import { MlflowApi, type MlflowSettings, mlflowSettings } from "../../src/track/mlflow-api.ts";
import type { StepMetrics } from "../../src/train/index.ts";

const folder = mkdtempSync(join(tmpdir(), "neftune-mlflow-"));

interface Heard {
  params: { key: string; value: string }[];
  metrics: { key: string; value: number; step: number }[];
  files: Record<string, string>;
  status: string[];
  created: number;
  authorization: (string | null)[];
}
let heard: Heard;
/** So many of the next requests are answered with 503. */
let failures = 0;
beforeEach(() => {
  heard = { params: [], metrics: [], files: {}, status: [], created: 0, authorization: [] };
  failures = 0;
  rmSync(join(folder, "mlflow.json"), { force: true });
});

const server = Bun.serve({
  port: 0,
  async fetch(request) {
    heard.authorization.push(request.headers.get("authorization"));
    if (failures-- > 0) return new Response("busy", { status: 503 });
    const { pathname } = new URL(request.url);
    const info = { run_id: "r1", artifact_uri: "mlflow-artifacts:/0/r1/artifacts" };
    if (request.method === "PUT") {
      heard.files[pathname] = await request.text();
      return Response.json({});
    }
    const name = pathname.replace("/api/2.0/mlflow/", "");
    const body = request.method === "POST" ? ((await request.json()) as Record<string, unknown>) : {};
    if (name === "experiments/get-by-name") return new Response("{}", { status: 404 });
    if (name === "experiments/create") return Response.json({ experiment_id: "7" });
    if (name === "runs/create") {
      heard.created++;
      return Response.json({ run: { info } });
    }
    if (name === "runs/get") return Response.json({ run: { info, data: { params: heard.params } } });
    if (name === "runs/log-batch") {
      const params = (body.params as Heard["params"]) ?? [];
      const known = new Map(heard.params.map(({ key, value }) => [key, value]));
      if (params.some(({ key, value }) => (known.get(key) ?? value) !== value))
        return Response.json({ message: "Changing param values is not allowed." }, { status: 400 });
      heard.params.push(...params);
      heard.metrics.push(...((body.metrics as Heard["metrics"]) ?? []));
      return Response.json({});
    }
    if (name === "runs/update") heard.status.push(body.status as string);
    return Response.json({});
  },
});
afterAll(() => {
  server.stop(true);
  rmSync(folder, { recursive: true });
});

const settingsOf = (uri: string): MlflowSettings => ({
  uri,
  experiment: "e",
  runName: null,
  authorization: null,
});
const here = () => settingsOf(`http://localhost:${server.port}`);
const step = (n: number, loss: number | null = n): StepMetrics =>
  ({
    ...{ step: n, epoch: 1, loss, gradNorm: 2, learningRate: 1e-4 },
    ...{ tokensPerSecond: 5, peakMemoryBytes: 9, neftScale: null },
  }) as StepMetrics;

async function follow(
  settings: MlflowSettings,
  files: Record<string, string> = {},
  options: Record<string, string> = { alpha: "5" },
) {
  const steps = 300;
  const notes: string[] = [];
  const api = new MlflowApi(settings, [1, 1]);
  const tracker = mlflowTracker(settings, folder, options, (text) => notes.push(text), api);
  tracker.onPlan(0);
  for (let n = 1; n <= steps; n++) tracker.onStep(step(n, n === 2 ? null : n));
  tracker.onEval({ step: steps, epoch: 1, loss: 1.5, perplexity: 4.5, targetTokens: 3 });
  await tracker.close("finished", files);
  return notes;
}

describe("a run", () => {
  test("parameters, every value by step, files, and its end", async () => {
    writeFileSync(join(folder, "report.html"), "<p>");
    expect(await follow(here(), { "report.html": join(folder, "report.html") })).toEqual([]);
    expect(heard.params).toEqual([{ key: "alpha", value: "5" }]);
    const losses = heard.metrics.filter(({ key }) => key === "train/loss");
    expect(losses.map((point) => point.step)).toEqual([1, ...Array.from({ length: 298 }, (_, i) => i + 3)]);
    expect(heard.metrics.filter(({ key }) => key.startsWith("eval/")).map(({ value }) => value)).toEqual([
      1.5, 4.5,
    ]);
    expect(heard.files).toEqual({ "/api/2.0/mlflow-artifacts/artifacts/0/r1/artifacts/report.html": "<p>" });
    expect(heard.status).toEqual(["FINISHED"]);
  });

  test("is gone on with when it is resumed", async () => {
    await follow(here());
    expect(JSON.parse(readFileSync(join(folder, "mlflow.json"), "utf8")).run_id).toBe("r1");
    await follow(here());
    expect([heard.created, heard.status]).toEqual([1, ["FINISHED", "RUNNING", "FINISHED"]]);
  });

  test("keeps the parameters that it began with, which MLflow does not let change", async () => {
    await follow(here());
    expect(await follow(here(), {}, { alpha: "6", "max-steps": "9" })).toEqual([]);
    expect(heard.params).toEqual([
      { key: "alpha", value: "5" },
      { key: "max-steps", value: "9" },
    ]);
    expect(heard.metrics.filter(({ key }) => key === "train/loss")).toHaveLength(2 * 299);
  });

  test("does not pile up tries while the server is away, to be waited for at the end", async () => {
    const notes: string[] = [];
    const api = new MlflowApi(here(), [40]);
    const tracker = mlflowTracker(here(), folder, {}, (text) => notes.push(text), api, 0);
    tracker.onPlan(0);
    tracker.onStep(step(1));
    while (heard.metrics.length === 0) await Bun.sleep(1);
    const before = heard.authorization.length;
    failures = Number.POSITIVE_INFINITY;
    for (let n = 2; n <= 100; n++) tracker.onStep(step(n));
    await tracker.close("finished", {});
    expect(heard.authorization.length - before).toBe(4); // what was under way and the last try, twice each
    expect(notes.at(-1)).toContain(`${99 * 6} values were not sent`);
  });

  test("does not pile up tries where the server is away from the start", async () => {
    const notes: string[] = [];
    const api = new MlflowApi(here(), [40]);
    failures = Number.POSITIVE_INFINITY;
    const tracker = mlflowTracker(here(), folder, {}, (text) => notes.push(text), api, 0);
    tracker.onPlan(0);
    for (let n = 1; n <= 100; n++) tracker.onStep(step(n));
    await tracker.close("finished", {});
    expect(heard.authorization).toHaveLength(4); // opening the run, at the start and at the end, twice each
    expect(notes).toHaveLength(2);
    expect(notes[1]).toContain(`${100 * 6} values were not sent`);
  });

  test("begins in MLflow once the server is there, with what has waited", async () => {
    const notes: string[] = [];
    const api = new MlflowApi(here(), []);
    failures = 1;
    const tracker = mlflowTracker(here(), folder, {}, (text) => notes.push(text), api, 0);
    tracker.onPlan(0);
    tracker.onStep(step(1));
    while (notes.length === 0) await Bun.sleep(1);
    await Bun.sleep(1);
    tracker.onStep(step(2));
    await tracker.close("finished", {});
    expect(heard.metrics.filter(({ key }) => key === "train/loss").map((point) => point.step)).toEqual([
      1, 2,
    ]);
    expect([heard.created, heard.status, notes.length]).toEqual([1, ["FINISHED"], 1]);
  });

  test("is sent in batches, the rest at its end", async () => {
    const batches: number[] = [];
    // Replies come at once.
    const api = {
      openRun: async () => ({ id: "r1", artifacts: "", params: new Set<string>() }),
      logParams: async () => {},
      logMetrics: async (_: string, points: readonly unknown[]) => void batches.push(points.length),
      end: async () => {},
    } as unknown as MlflowApi;
    const tracker = mlflowTracker(here(), folder, {}, () => {}, api, 60_000);
    tracker.onPlan(0);
    for (const n of [1, 2, 3]) {
      tracker.onStep(step(n));
      await Bun.sleep(1);
    }
    expect(batches).toEqual([6]);
    await tracker.close("finished", {});
    expect(batches).toEqual([6, 12]);
  });

  test("survives a server that is busy for a moment", async () => {
    failures = 2;
    expect(await follow(here())).toEqual([]);
    expect(heard.metrics.filter(({ key }) => key === "train/loss")).toHaveLength(299);
  });
});

test("a server that is away is told of, and throws nothing", async () => {
  const notes = await follow(settingsOf("http://localhost:1"));
  expect(notes).toHaveLength(2);
  expect(notes[0]).toContain("http://localhost:1");
  expect(notes[1]).toContain("metrics.jsonl has them all");
});

describe("settings", () => {
  test.each([
    [{}, "MLFLOW_TRACKING_URI is not set"],
    [{ MLFLOW_TRACKING_URI: "file:///tmp/runs" }, "is file:///tmp/runs"],
    [{ MLFLOW_TRACKING_URI: "http://" }, "is http://;"],
    [{ MLFLOW_TRACKING_URI: "http://a b" }, "is http://a b;"],
  ])("%j: %s", (env, message) => expect(() => mlflowSettings(env)).toThrow(message));

  test("MLflow's own variables", () => {
    const uri = "http://h:5000/";
    expect(
      mlflowSettings({ MLFLOW_TRACKING_URI: uri, MLFLOW_EXPERIMENT_NAME: "x", MLFLOW_TRACKING_TOKEN: "t" }),
    ).toEqual({
      ...{ uri: "http://h:5000", experiment: "x", runName: null, authorization: "Bearer t" },
    });
    const env = { MLFLOW_TRACKING_URI: uri, MLFLOW_TRACKING_USERNAME: "u", MLFLOW_TRACKING_PASSWORD: "p" };
    expect(mlflowSettings(env).authorization).toBe(`Basic ${btoa("u:p")}`);
  });
});
