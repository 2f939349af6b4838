// neftune merge from outside: the merged model evaluates as base and adapter do, on both kinds of base; what it refuses,
// and what is left of one that was stopped.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { cpSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { backends } from "../backends.ts";
import { describeStopped } from "./stopped.ts";
import { makeModel, Place } from "./support.ts";

const relative = (got: number, want: number) => Math.abs(got / want - 1);

for (const backend of backends) {
  describe(backend.kind, () => {
    const place = new Place(backend);
    const device = ["--device", backend.kind === "cpu" ? "cpu" : "cuda"];
    const f32 = ["--dtype", "f32"];
    const lossOf = async (model: string, ...args: string[]) => {
      const { stdout } = await place.must(
        ...["eval", ...device, "--model", model, "--dataset", "held-out.json", "--json", ...args],
      );
      return (JSON.parse(stdout) as { loss: number }).loss;
    };
    const merge = (output: string, ...args: string[]) =>
      place.must("merge", ...device, "--output", output, ...args);
    const train = (output: string, ...args: string[]) =>
      place.must(
        ...["train", ...device, ...f32, "--dataset", "train.json", "--batch-size", "4", "--max-steps", "4"],
        ...["--learning-rate", "2e-2", "--output", output, ...args],
      );

    beforeAll(async () => {
      await makeModel(place);
      await place.must("quantize", ...device, "--model", "model", "--output", "nf4");
      await train("lora", "--model", "model");
      await train("rslora", "--model", "model", "--use-rslora", "--target-modules", "q_proj,down_proj");
      await train("qlora", "--model", "model", "--quantization", "nf4", "--double-quantization", "off");
      await train("on-nf4", "--model", "nf4");
    }, 120_000);
    afterAll(() => place.close());

    const model = ["--model", "model"];

    test("LoRA and rsLoRA on the original weights: eval is that of base and adapter", async () => {
      for (const run of ["lora", "rslora"]) {
        const { stdout } = await merge(`${run}-merged`, ...model, "--adapter", run);
        expect(stdout).toMatch(/-merged: [\d.]+ KiB, onto the original weights, [\d.]+ s\n$/);
        const want = await lossOf("model", ...f32, "--adapter", run);
        expect(relative(await lossOf(`${run}-merged`, ...f32), want)).toBeLessThan(1e-6);
        expect(relative(await lossOf("model", ...f32), want)).toBeGreaterThan(1e-3);
      }
    }, 120_000);

    test("QLoRA with --base dequantized: as its run quantized", async () => {
      const { stderr } = await merge("q-merged", ...model, "--adapter", "qlora", "--base", "dequantized");
      expect(stderr).not.toContain("the adapter was trained");
      const off = ["--quantization", "nf4", "--double-quantization", "off"];
      const want = await lossOf("model", ...f32, ...off, "--adapter", "qlora");
      expect(relative(await lossOf("q-merged", ...f32), want)).toBeLessThan(1e-6);
    }, 120_000);

    test("QLoRA with --base original, which is the default: as the adapter on the plain model; said so", async () => {
      const { stderr } = await merge("o-merged", ...model, "--adapter", "qlora");
      expect(stderr).toContain("the adapter was trained on NF4 weights: --base dequantized");
      const want = await lossOf("model", ...f32, "--adapter", "qlora");
      expect(relative(await lossOf("o-merged", ...f32), want)).toBeLessThan(1e-6);
    }, 120_000);

    test("a quantized base: dequantized, and written without quantization_config", async () => {
      await merge("n-merged", "--model", "nf4", "--adapter", "on-nf4", "--json");
      const want = await lossOf("nf4", ...f32, "--adapter", "on-nf4");
      expect(relative(await lossOf("n-merged", ...f32), want)).toBeLessThan(1e-6);
      const plain = JSON.parse(place.read("model", "config.json"));
      expect(JSON.parse(place.read("n-merged", "config.json"))).toEqual(plain);
      expect(readdirSync(place.path("n-merged")).sort()).toEqual(readdirSync(place.path("model")).sort());
    }, 120_000);

    test("--dtype bf16: within its rounding, and config.json says so", async () => {
      await merge("b-merged", ...model, "--adapter", "lora", "--dtype", "bf16");
      const want = await lossOf("model", ...f32, "--adapter", "lora");
      const got = await lossOf("b-merged", ...f32);
      expect(relative(got, want)).toBeLessThan(5e-3);
      expect(got).not.toBe(want);
      expect(JSON.parse(place.read("b-merged", "config.json")).torch_dtype).toBe("bfloat16");
      const { stdout } = await place.must("inspect", "b-merged", "--json");
      const { tensors } = JSON.parse(stdout) as { tensors: { dtype: string }[] };
      for (const { dtype } of tensors) expect(dtype).toBe("BF16");
    }, 120_000);

    if (backend.kind !== "cpu") return;

    const names = () => readdirSync(place.cwd).sort();

    test.each<[string, string[], string, number]>([
      ["no model", ["--adapter", "lora", "--output", "x"], "merge needs --model", 2],
      ["no adapter", [...model, "--output", "x"], "merge needs --adapter", 2],
      ["no output", [...model, "--adapter", "lora"], "merge needs --output", 2],
      [
        "an adapter that is not there",
        [...model, "--adapter", "y", "--output", "x"],
        "--adapter y: no such folder",
        1,
      ],
      [
        "a model as adapter",
        [...model, "--adapter", "model", "--output", "x"],
        "adapter_config.json: no such file",
        1,
      ],
      [
        "two adapters",
        ["--model", "./lora", "--adapter", "on-nf4", "--output", "x"],
        "--model ./lora is an adapter, too",
        2,
      ],
      ["a folder that is taken", [...model, "--adapter", "lora", "--output", "tokenizer"], "not empty", 2],
      [
        "the originals of a quantized base",
        ["--model", "nf4", "--adapter", "on-nf4", "--base", "original", "--output", "x"],
        "--base original: nf4 holds its linears in NF4 only",
        2,
      ],
      [
        "an unknown base",
        [...model, "--adapter", "lora", "--base", "nf4", "--output", "x"],
        "original, dequantized",
        2,
      ],
    ])("refused, and nothing is written: %s", async (_, args, message, status) => {
      const before = names();
      await place.mustFail(["merge", ...args], message, status);
      expect(names()).toEqual(before);
    });

    test("an adapter of another model", async () => {
      const shape = { ...JSON.parse(place.read("shape.json")), hidden_size: 64 };
      place.write("wide.json", JSON.stringify(shape));
      await place.must("init", "--shape", "wide.json", "--output", "wide", "--tokenizer", "tokenizer");
      const { status, stderr } = await place.run(
        ...["merge", "--model", "wide", "--adapter", "lora", "--output", "x"],
      );
      expect(stderr).toContain("has shape [16,32], but this model needs [16,64]");
      expect(status).toBe(1);
      expect(existsSync(place.path("x"))).toBe(false);
    });

    test("onto what the run was not trained on: said so", async () => {
      const { stderr } = await merge("d", ...model, "--adapter", "lora", "--base", "dequantized");
      expect(stderr).toContain("the adapter was trained on the original weights");
      // PEFT's adapters come without a run's config.json.
      cpSync(place.path("lora"), place.path("peft"), { recursive: true });
      await Bun.$`rm ${place.path("peft", "config.json")}`;
      const other = await merge("e", ...model, "--adapter", "peft", "--base", "dequantized");
      expect(other.stderr).not.toContain("trained on");
    }, 30_000);

    test("a base that is cut short", async () => {
      cpSync(place.path("model"), place.path("cut"), { recursive: true });
      const path = place.path("cut", "model.safetensors");
      const bytes = readFileSync(path);
      writeFileSync(path, bytes.subarray(0, bytes.length - 100));
      const { status, stderr } = await place.run(
        ...["merge", "--model", "cut", "--adapter", "lora", "--output", "x"],
      );
      expect(stderr).toContain("model.safetensors");
      expect(status).toBe(1);
      expect(existsSync(place.path("x"))).toBe(false);
    });

    describeStopped(place, ["merge", "--model", "big", "--adapter", "big-run"], async () => {
      const training = ["--dataset", "train.json", "--batch-size", "1"];
      await place.must("train", "--model", "big", ...training, "--max-steps", "2", "--output", "big-run");
    });
  });
}
