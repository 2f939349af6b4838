import { describe, expect, test } from "bun:test";
import { parseArguments, readValue, resolveValues } from "../../src/cli/arguments/options.ts";
import { withLayers } from "../../src/cli/arguments/precedence.ts";
import { trainOptions } from "../../src/cli/arguments/train-options.ts";
import { recipes } from "../../src/presets/presets.ts";

function layers(flags: string, file: Readonly<Record<string, unknown>> = {}) {
  const { given } = parseArguments(flags.split(" ").filter(Boolean), trainOptions);
  const config = new Map(
    Object.entries(file).map(([name, value]) => [name, { value, origin: "run.toml" }] as const),
  );
  const origins = new Map([
    ...Object.keys(file).map((name) => [name, "config file"] as const),
    ...[...given.keys()].map((name) => [name, "flag"] as const),
  ]);
  return withLayers(resolveValues(trainOptions, given, config), origins);
}

describe("alpha", () => {
  test.each([
    ["", 5, "preset alpaca"],
    ["--dataset mine.json", 5, "default"],
    ["--dataset evol-instruct", 5, "preset evol-instruct"],
    ["--dataset sharegpt", 10, "preset sharegpt"],
    ["--dataset open-platypus:0.5", 15, "preset open-platypus"],
    ["--dataset open-platypus --alpha 0", 0, "flag"],
    ["--dataset sharegpt --dataset open-platypus", 5, "default"],
    ["--dataset alpaca --dataset evol-instruct", 5, "preset alpaca"],
    ["--dataset sharegpt --dataset mine.json", 5, "default"],
    ["--dataset sharegpt --recipe neftune", 10, "preset sharegpt"],
  ])("%s", (flags, alpha, source) => {
    const { values, sources } = layers(flags);
    expect([values.alpha, sources.alpha]).toEqual([alpha, source]);
  });

  test("of a config file wins over a preset's", () => {
    const { values, sources } = layers("--dataset sharegpt", { alpha: 7 });
    expect([values.alpha, sources.alpha]).toEqual([7, "config file"]);
  });
});

describe("recipes", () => {
  test("neftune is the paper's", () => {
    const { values, sources } = layers("--recipe neftune");
    expect(values).toMatchObject({
      tune: "full",
      "learning-rate": 5e-5,
      "lr-scheduler-type": "cosine",
      "warmup-ratio": 0.03,
      epochs: 3,
      "max-length": 512,
    });
    expect(values["batch-size"] * values["gradient-accumulation-steps"]).toBe(128);
    expect(sources["learning-rate"]).toBe("recipe neftune");
    expect(sources.recipe).toBe("flag");
    expect(sources.seed).toBe("default");
  });

  test("qlora is QLoRA's", () => {
    const { values } = layers("--recipe qlora");
    expect(values).toMatchObject({
      tune: "lora",
      quantization: "nf4",
      "double-quantization": true,
      "lora-r": 64,
      "lora-alpha": 16,
      "learning-rate": 2e-4,
      "lr-scheduler-type": "constant",
      "max-grad-norm": 0.3,
      epochs: 1,
    });
  });

  test("flags and the config file win, and say so", () => {
    const { values, sources } = layers("--recipe neftune --epochs 1", { tune: "lora", epochs: 2 });
    expect([values.epochs, sources.epochs]).toEqual([1, "flag"]);
    expect([values.tune, sources.tune]).toEqual(["lora", "config file"]);
  });

  test.each([
    ["--batch-size 16", 16, 8],
    ["--gradient-accumulation-steps 64", 2, 64],
    ["--batch-size 3", 3, 32],
    ["--batch-size 16 --gradient-accumulation-steps 2", 16, 2],
  ])("128 samples in a step stay 128 with %s, where they can", (flags, batch, steps) => {
    const { values } = layers(`--recipe neftune ${flags}`);
    expect([values["batch-size"], values["gradient-accumulation-steps"]]).toEqual([batch, steps]);
  });

  test("an adapter's own rank is not the recipe's", () => {
    const { sources } = layers("--recipe qlora --adapter runs/a");
    expect(sources["lora-r"]).toBe("adapter");
  });

  test("every option of every recipe is one of train's, with a value it takes", () => {
    const table: Readonly<Record<string, Parameters<typeof readValue>[2]>> = trainOptions;
    for (const { options } of recipes) {
      for (const [name, value] of Object.entries(options)) {
        expect(table[name]).toBeDefined();
        expect(readValue(name, name, table[name]!, value)).toEqual(value);
      }
    }
  });

  test("another name is refused with the nearest", () => {
    expect(() => layers("--recipe qlorra")).toThrow("did you mean qlora?");
  });
});

test("a chat model brings its template, a base model none", () => {
  expect(layers("--model llama2-7b-chat").values["prompt-template"]).toBe("llama2");
  expect(layers("--model llama2-7b-chat").sources["prompt-template"]).toBe("preset llama2-7b-chat");
  expect(layers("--model llama2-7b").values["prompt-template"]).toBeUndefined();
  const flag = layers("--model llama2-7b-chat --prompt-template alpaca");
  expect(flag.values["prompt-template"]).toBe("alpaca");
});
