// The executable on a CUDA device, or on the emulated one: what a user sees there, and that it agrees with the CPU.

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { backends } from "../backends.ts";
import { lastingMetrics, metricsOf, modelPlace } from "./support.ts";

setDefaultTimeout(180_000);

for (const backend of backends.filter(({ kind }) => kind !== "cpu")) {
  describe(backend.kind, () => {
    const place = modelPlace(backend);

    const model = ["--model", "model", "--dtype", "f32"];
    const defaults = {
      ...{ model: "model", dtype: "f32", dataset: "train.json", "batch-size": "4", "learning-rate": "5e-3" },
      ...{ "max-steps": "12", "save-steps": "5" },
    };
    const training = (device: string, output: string, more: Record<string, string> = {}) =>
      Object.entries({ ...defaults, device, output, ...more }).flatMap(([name, value]) => [
        `--${name}`,
        value,
      ]);
    /** A GPU's driver gives memory by 2 MiB at a time, and takes some for kernels when they first run. */
    const countsBytes = backend.kind === "emulated";
    /** Enough steps that a run is still under way when it is told to end: a GPU's take a few milliseconds. */
    const long: Record<string, string> =
      backend.kind === "cuda" ? { "max-steps": "300", "save-steps": "50" } : {};
    const bytes = (run: string) => readFileSync(place.path(run, "adapter_model.safetensors"));
    const losses = (run: string) => metricsOf(place, run).map(({ loss, eval_loss }) => eval_loss ?? loss);
    const evaluate = async (device: string, ...args: string[]) => {
      const { stdout } = await place.must(
        ...["eval", "--device", device, "--dataset", "held-out.json", "--json", ...args],
      );
      return (JSON.parse(stdout) as { loss: number }).loss;
    };

    test("training learns, says where, and agrees with the CPU step by step", async () => {
      const { stderr } = await place.must(...training("cuda", "gpu", { "eval-dataset": "held-out.json" }));
      expect(stderr).toContain(`device: ${backend.kind}, `);
      await place.must(...training("cpu", "cpu", { "eval-dataset": "held-out.json" }), "--quiet");
      const [got, want] = [losses("gpu"), losses("cpu")];
      expect(got.length).toBe(want.length);
      for (const [i, loss] of want.entries()) expect(Math.abs(got[i]! / loss - 1)).toBeLessThan(1e-5);
      expect(got.at(-2)!).toBeLessThan(got[0]!);
      const config = JSON.parse(place.read("gpu/config.json")) as { device: { backend: string } };
      expect(config.device.backend).toBe(backend.kind);
      if (countsBytes) expect(metricsOf(place, "gpu")[0]!.peak_memory_bytes).toBeGreaterThan(100_000);
    });

    test("auto takes it", async () => {
      const { stderr } = await place.must(
        ...["eval", ...model, "--dataset", "held-out.json", "--device", "auto"],
      );
      expect(stderr).toContain(`device: ${backend.kind}, `);
    });

    test("eval agrees with the CPU, packed and padded, f32 and bf16", async () => {
      const want = await evaluate("cpu", ...model, "--adapter", "gpu");
      for (const packing of ["on", "off"]) {
        const got = await evaluate("cuda", ...model, "--adapter", "gpu", "--packing", packing);
        expect(Math.abs(got / want - 1)).toBeLessThan(1e-5);
      }
      const bf16 = await evaluate("cuda", "--model", "model", "--adapter", "gpu");
      expect(Math.abs(bf16 / want - 1)).toBeLessThan(0.01);
    });

    test("two runs, and one that was killed and resumed, have the same bits", async () => {
      await place.must(...training("cuda", "again", long), "--quiet");
      await place.must(...training("cuda", "whole", long), "--quiet");
      expect(bytes("again")).toEqual(bytes("whole"));
      const killed = training("cuda", "killed", long);
      const child = place.start(killed);
      const metrics = () =>
        existsSync(place.path("killed/metrics.jsonl")) ? place.read("killed/metrics.jsonl") : "";
      const saved = Number(long["save-steps"] ?? defaults["save-steps"]);
      while (!metrics().includes(`{"step":${saved + 1},`)) await Bun.sleep(20);
      child.kill("SIGKILL");
      await child.exited;
      expect(child.signalCode).toBe("SIGKILL");
      const { stderr } = await place.must(...killed, "--resume");
      const resumed = Number(/resumed after step (\d+)/.exec(stderr)?.[1]);
      expect(resumed).toBeGreaterThanOrEqual(saved);
      expect(resumed % saved).toBe(0);
      expect(bytes("killed")).toEqual(bytes("whole"));
      expect(lastingMetrics(place, "killed")).toEqual(lastingMetrics(place, "whole"));
    });

    test("Ctrl-C leaves a checkpoint", async () => {
      const child = place.start(training("cuda", "stopped", long));
      while (!existsSync(place.path("stopped/metrics.jsonl")) || place.read("stopped/metrics.jsonl") === "")
        await Bun.sleep(20);
      child.kill("SIGINT");
      await child.exited;
      expect(child.exitCode).toBe(130);
      expect(readdirSync(place.path("stopped/checkpoints")).length).toBe(1);
    });

    test("bf16, full fine-tuning, dropout and recomputation train too", async () => {
      const short = (output: string, more: Record<string, string>) =>
        place.must(...training("cuda", output, { "max-steps": "2", ...more }), "--quiet");
      await short("bf16", { dtype: "bf16" });
      await short("full", { tune: "full" });
      await short("dropout", { "lora-dropout": "0.1", recompute: "layer" });
      expect(await evaluate("cuda", "--model", "full", "--dtype", "f32")).toBeGreaterThan(0);
      for (const run of ["bf16", "full", "dropout"])
        expect(losses(run).every((loss) => loss > 5 && loss < 7)).toBe(true);
    });

    test("greedy generation is the CPU's", async () => {
      const say = async (device: string) => {
        const prompt = ["--prompt", "Where does Ada live?", "--max-new-tokens", "10", "--json", "--quiet"];
        const { stdout } = await place.must(
          ...["generate", ...model, "--adapter", "gpu", "--device", device, ...prompt],
        );
        return JSON.parse(stdout) as object;
      };
      expect(await say("cuda")).toEqual(await say("cpu"));
    });

    test("bench: its own report", async () => {
      const { stdout } = await place.must(
        ...["bench", "--shape", "shape.json", "--device", "cuda", "--batch-size", "2", "--max-length", "32"],
        ...["--steps", "2", "--warmup", "1", "--json"],
      );
      const report = JSON.parse(stdout) as {
        tokens_per_second: number;
        peak_bytes: number;
        planned_bytes: { total: number; runtime: number };
        seconds_by_operation: Record<string, { calls: number }>;
        gpu: {
          step_seconds: number;
          host_seconds: number;
          launches: number;
          copy_bytes_per_second: number;
          kernels: { kernel: string; launches: number; seconds: number; share_of_bound: number | null }[];
        };
      };
      expect(report.tokens_per_second).toBeGreaterThan(0);
      const { gpu } = report;
      const sum = (value: (kernel: (typeof gpu.kernels)[number]) => number) =>
        gpu.kernels.reduce((total, kernel) => total + value(kernel), 0);
      expect(gpu.launches).toBe(sum(({ launches }) => launches));
      expect(gpu.step_seconds).toBeCloseTo(
        sum(({ seconds }) => seconds),
        9,
      );
      expect(gpu.host_seconds).toBeGreaterThan(0);
      expect(gpu.copy_bytes_per_second).toBeGreaterThan(0);
      const norm = gpu.kernels.find(({ kernel }) => kernel === "rmsnorm_backward")!;
      expect(norm.share_of_bound).toBeGreaterThan(0);
      expect(report.seconds_by_operation.nt_attention_backward!.calls).toBe(2);
      const { total, runtime } = report.planned_bytes;
      expect(report.peak_bytes).toBeLessThan(countsBytes ? 1.05 * (total - runtime) : total);
      if (countsBytes) expect(report.peak_bytes).toBeGreaterThan(0.95 * (total - runtime));
    });

    test("doctor names device, driver and libraries", async () => {
      const { stdout } = await place.must("doctor", "--json");
      const { cuda } = JSON.parse(stdout) as {
        cuda: {
          usable: boolean;
          probe: { devices: object[]; cublaslt: { path: string | null } };
          product: object;
        };
      };
      expect(cuda.usable).toBe(true);
      expect(cuda.probe.devices.length).toBeGreaterThan(0);
      expect(cuda.probe.cublaslt.path).not.toBeNull();
      expect(cuda.product).toEqual({ size: 512, isRight: true, isPlain: false });
      expect((await place.must("doctor")).stdout).toMatch(/product +512 × 512 in bf16: right/);
    });

    test("a device that is not there", async () => {
      const { status, stderr } = await place.run(...training("cuda:7", "none"));
      expect(status).toBe(1);
      expect(stderr).toContain("--device cuda:7: there is no GPU 7");
      expect(existsSync(place.path("none"))).toBe(false);
    });

    if (backend.kind === "emulated") {
      test("too little memory: what is needed, what is free, what would fit", async () => {
        place.env.NEFTUNE_EMULATOR_MEMORY = "66"; // MiB; 48 of them are the context's
        const { status, stderr } = await place.run(
          ...training("cuda", "large", { "batch-size": "48", "eval-dataset": "held-out.json" }),
        );
        delete place.env.NEFTUNE_EMULATOR_MEMORY;
        expect(status).toBe(1);
        expect(stderr).toMatch(/needs [\d.]+ GiB, [\d.]+ GiB free: .*--batch-size/);
        expect(existsSync(place.path("large/checkpoints"))).toBe(false);
      });

      test("a library that cannot be loaded is named", async () => {
        const library = place.env.NEFTUNE_CUDA_LIBRARY!;
        place.write("broken.so", "no library");
        for (const [path, words] of [
          [place.path("broken.so"), "cannot be loaded"],
          ["broken.so", "expected an absolute path"],
        ] as const) {
          place.env.NEFTUNE_CUDA_LIBRARY = path;
          const { status, stderr } = await place.run(...training("cuda", "none"));
          expect(status).toBeGreaterThan(0);
          expect(stderr).toContain(words);
        }
        place.env.NEFTUNE_CUDA_LIBRARY = library;
      });
    }
  });
}
