import { describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { lastingMetrics, metricsOf, modelPlace } from "./support.ts";

const place = modelPlace();

const common = ["--model", "model", "--dtype", "f32", "--threads", "1"];
const training = [...common, "--dataset", "train.json", "--learning-rate", "5e-3", "--batch-size", "8"];

const evaluate = async (...args: string[]) => {
  const { stdout } = await place.must("eval", ...common, "--dataset", "held-out.json", "--json", ...args);
  return JSON.parse(stdout) as {
    loss: number;
    perplexity: number;
    samples: number;
    target_tokens: number;
    per_sample?: { loss: number; target_tokens: number }[];
  };
};

describe("LoRA", () => {
  test("learns, and leaves the files of a run", async () => {
    const { stdout, stderr } = await place.must(
      ...training,
      ...["--epochs", "4", "--eval-dataset", "held-out.json", "--output", "runs/first", "--json"],
    );
    const summary = JSON.parse(stdout) as { output: string; steps: number; loss: number; eval_loss: number };
    expect(summary).toMatchObject({ output: "runs/first", steps: 24, skipped: 0 });
    expect(stderr).toContain("step 24/24");
    expect(readdirSync(place.path("runs/first")).sort()).toEqual([
      "README.md",
      "adapter_config.json",
      "adapter_model.safetensors",
      "checkpoints",
      "config.json",
      "eval_losses.json",
      "metrics.jsonl",
      "report.html",
    ]);
    const lines = metricsOf(place, "runs/first");
    const steps = lines.filter((line) => line.eval_loss === undefined);
    const evaluations = lines.flatMap(({ eval_loss }) => eval_loss ?? []);
    expect(steps.map(({ step }) => step)).toEqual(Array.from({ length: 24 }, (_, i) => i + 1));
    expect(steps[0]).toMatchObject({ samples: 8, learning_rate: 0 });
    expect(evaluations.length).toBe(4);
    expect(steps.at(-1)!.loss).toBeLessThan(steps[0]!.loss - 0.05);
    expect(evaluations.at(-1)!).toBeLessThan(evaluations[0]!);
    expect(summary.eval_loss).toBeCloseTo(evaluations.at(-1)!, 6);

    const config = JSON.parse(place.read("runs/first/config.json")) as Record<string, unknown>;
    expect(config).toMatchObject({
      model: "model",
      alpha: 5,
      "lora-r": 16,
      "batch-size": 8,
      "learning-rate": 5e-3,
    });
    const adapter = JSON.parse(place.read("runs/first/adapter_config.json")) as Record<string, unknown>;
    expect(adapter).toMatchObject({
      peft_type: "LORA",
      r: 16,
      lora_alpha: 16,
      base_model_name_or_path: "model",
    });
    const { tensors } = JSON.parse((await place.must("inspect", "runs/first", "--json")).stdout) as {
      tensors: { name: string }[];
    };
    expect(tensors.length).toBe(2 * 7 * 2);
    for (const { name } of tensors) expect(name).toStartWith("base_model.model.model.layers.");
  }, 60_000);

  test("eval: the adapter is better than the base, and agrees with the run's own evaluation", async () => {
    const base = await evaluate();
    const tuned = await evaluate("--adapter", "runs/first", "--per-sample");
    expect(tuned.loss).toBeLessThan(base.loss - 0.05);
    expect(base.loss).toBeCloseTo(Math.log(512), 0);
    expect(tuned.perplexity).toBeCloseTo(Math.exp(tuned.loss), 6);
    const last = metricsOf(place, "runs/first").at(-1)!.eval_loss!;
    expect(tuned.loss).toBeCloseTo(last, 5);
    const rows = tuned.per_sample!;
    expect(rows.length).toBe(tuned.samples);
    expect(rows.reduce((sum, row) => sum + row.target_tokens, 0)).toBe(tuned.target_tokens);
    const mean = rows.reduce((sum, row) => sum + row.loss * row.target_tokens, 0) / tuned.target_tokens;
    expect(mean).toBeCloseTo(tuned.loss, 6);
  }, 60_000);

  test("eval: packing and batch size do not matter, bf16 little", async () => {
    const packed = await evaluate();
    expect((await evaluate("--packing", "off", "--batch-size", "3")).loss).toBeCloseTo(packed.loss, 5);
    const { stdout } = await place.must(
      ...["eval", "--model", "model", "--dataset", "held-out.json", "--threads", "1", "--json"],
    );
    const { loss } = JSON.parse(stdout) as { loss: number };
    expect(Math.abs(loss / packed.loss - 1)).toBeLessThan(0.01);
  }, 60_000);

  test("an output that holds a run is refused, and stays as it was", async () => {
    const before = place.read("runs/first/metrics.jsonl");
    const { status, stderr } = await place.run(...training, "--output", "runs/first");
    expect(status).toBe(2);
    expect(stderr).toContain("--output runs/first holds another run");
    expect(place.read("runs/first/metrics.jsonl")).toBe(before);
  });

  test("without --output: runs/<model>-<dataset>-<n>", async () => {
    for (const n of [1, 2]) {
      const { stdout } = await place.must(...training, "--max-steps", "1");
      expect(stdout).toContain(`adapter: runs/model-train-${n}/adapter_model.safetensors`);
      expect(stdout).toContain(`neftune generate --model model --adapter runs/model-train-${n}`);
    }
  });

  test("the same run gives the same bytes; noise and seed change them", async () => {
    const adapterOf = async (name: string, ...args: string[]) => {
      await place.must(...training, "--max-steps", "3", "--output", name, "--quiet", ...args);
      return readFileSync(place.path(name, "adapter_model.safetensors"));
    };
    const first = await adapterOf("same-1");
    expect(await adapterOf("same-2")).toEqual(first);
    expect(lastingMetrics(place, "same-2")).toEqual(lastingMetrics(place, "same-1"));
    const plain = await adapterOf("alpha-0", "--alpha", "0");
    expect(plain).not.toEqual(first);
    expect(await adapterOf("noise-none", "--neft-noise", "none")).toEqual(plain);
    expect(await adapterOf("seed-7", "--seed", "7")).not.toEqual(first);
    expect(await adapterOf("gaussian", "--neft-noise", "gaussian")).not.toEqual(first);
  }, 60_000);

  test("options from a file, flags over them", async () => {
    place.write(
      "run.toml",
      'model = "model"\ndataset = ["train.json"]\ndtype = "f32"\nthreads = 1\nalpha = 0\nmax-steps = 2\noutput = "from-file"\n',
    );
    await place.must("--config", "run.toml", "--alpha", "7", "--quiet");
    const config = JSON.parse(place.read("from-file/config.json")) as Record<string, unknown>;
    expect(config).toMatchObject({ alpha: 7, "max-steps": 2, dtype: "f32" });
    place.write("typo.toml", "aplha = 1\n");
    const { status, stderr } = await place.run("--config", "typo.toml");
    expect(status).toBe(2);
    expect(stderr).toContain('typo.toml: unknown key "aplha"; did you mean alpha?');
  });

  test("--adapter goes on from an adapter, with its rank", async () => {
    await place.must(...training, "--max-steps", "2", "--lora-r", "4", "--output", "rank-4", "--quiet");
    await place.must(
      ...training,
      "--max-steps",
      "1",
      "--adapter",
      "rank-4",
      "--output",
      "onwards",
      "--quiet",
    );
    const adapter = JSON.parse(place.read("onwards/adapter_config.json")) as Record<string, unknown>;
    expect(adapter.r).toBe(4);
    const config = JSON.parse(place.read("onwards/config.json")) as Record<string, unknown>;
    expect(config["lora-r"]).toBe(4);
    // The first step's rate is 0, so it only shows where the run started.
    const started = metricsOf(place, "onwards")[0]!.loss;
    const fresh = metricsOf(place, "rank-4")[0]!.loss;
    expect(started).not.toBe(fresh);
  });

  test("--eval-split holds samples out, and they add up", async () => {
    await place.must(...training, "--eval-split", "0.25", "--max-steps", "1", "--output", "held", "--quiet");
    const config = JSON.parse(place.read("held/config.json")) as {
      dataset_fingerprint: { samples: number };
      eval_dataset_fingerprint: { samples: number };
    };
    expect(config.dataset_fingerprint.samples).toBe(36);
    expect(config.eval_dataset_fingerprint.samples).toBe(12);
  });
});

describe("full fine-tuning", () => {
  test("writes a model that eval and generate take", async () => {
    await place.must(...training, "--tune", "full", "--epochs", "4", "--output", "full", "--quiet");
    expect(existsSync(place.path("full/model.safetensors"))).toBe(true);
    expect(existsSync(place.path("full/tokenizer.json"))).toBe(true);
    const { stdout } = await place.must(
      ...[
        "eval",
        "--model",
        "full",
        "--dataset",
        "held-out.json",
        "--dtype",
        "f32",
        "--threads",
        "1",
        "--json",
      ],
    );
    expect((JSON.parse(stdout) as { loss: number }).loss).toBeLessThan((await evaluate()).loss - 1);
  }, 60_000);
});

describe("generate", () => {
  test("a prompt: greedy is repeatable, sampling follows its seed", async () => {
    const say = async (...args: string[]) => {
      const prompt = ["--prompt", "Where does Ada live?", "--max-new-tokens", "12", "--json", "--quiet"];
      const { stdout } = await place.must("generate", ...common, ...prompt, ...args);
      return JSON.parse(stdout) as { prompt: string; output: string; output_ids: number[] };
    };
    const greedy = await say();
    expect(greedy.prompt).toBe("Where does Ada live?");
    expect(greedy.output_ids.length).toBeLessThanOrEqual(12);
    expect(await say()).toEqual(greedy);
    const hot = await say("--temperature", "5", "--seed", "1");
    expect(await say("--temperature", "5", "--seed", "1")).toEqual(hot);
    expect(await say("--temperature", "5", "--seed", "2")).not.toEqual(hot);
    expect(await say("--temperature", "5", "--min-p", "1", "--seed", "1")).toEqual(greedy);
    expect((await say("--prompt-template", "alpaca")).prompt).toContain(
      "### Instruction:\nWhere does Ada live?",
    );
  }, 60_000);

  test("a data set into .json, .jsonl and AlpacaEval's format, in order, whatever the batch", async () => {
    const args = ["generate", ...common, "--dataset", "held-out.json", "--max-new-tokens", "6", "--quiet"];
    await place.must(...args, "--output", "out.json");
    await place.must(...args, "--output", "out.jsonl", "--batch-size", "5");
    await place.must(...args, "--output", "eval.json", "--format", "alpaca-eval");
    const asked = JSON.parse(place.read("held-out.json")) as { instruction: string; input: string }[];
    const rows = JSON.parse(place.read("out.json")) as {
      prompt: string;
      output: string;
      output_ids: number[];
    }[];
    expect(rows.length).toBe(asked.length);
    rows.forEach(({ prompt }, i) => {
      expect(prompt).toContain(asked[i]!.instruction);
      expect(prompt).toEndWith("### Response:");
    });
    const lines = place.read("out.jsonl").trimEnd().split("\n");
    expect(lines.map((line) => JSON.parse(line) as object)).toEqual(rows);
    const outputs = JSON.parse(place.read("eval.json")) as Record<string, string>[];
    expect(Object.keys(outputs[0]!)).toEqual(["dataset", "instruction", "output", "generator"]);
    expect(outputs.map(({ output }) => output)).toEqual(rows.map(({ output }) => output));
    const again = await place.run(...args, "--output", "out.json");
    expect(again.status).toBe(2);
    expect(again.stderr).toContain("already exists");
  }, 60_000);

  test("rows with input_ids are prompts as they are", async () => {
    place.write("ids.jsonl", '{"input_ids": [1, 300, 301]}\n');
    await place.must(
      ...[
        "generate",
        ...common,
        "--dataset",
        "ids.jsonl",
        "--output",
        "ids.json",
        "--max-new-tokens",
        "2",
        "--quiet",
      ],
    );
    const [row] = JSON.parse(place.read("ids.json")) as { output_ids: number[] }[];
    expect(row!.output_ids.length).toBeGreaterThan(0);
  });
});
