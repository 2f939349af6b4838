import { describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readConfigFile } from "../../src/cli/arguments/config-file.ts";
import { parseArguments, resolveValues } from "../../src/cli/arguments/options.ts";
import { UsageError } from "../../src/errors.ts";
import type { OptionTable } from "../../src/options/spec.ts";

const table = {
  alpha: { type: "float", default: 5, help: "" },
  shift: { type: "float", min: -10, max: 10, help: "" },
  epochs: { type: "float", above: 0, default: 3, help: "" },
  packing: { type: "bool", default: true, help: "" },
  "use-rslora": { type: "bool", default: false, help: "" },
  "batch-size": { type: "int", min: 1, default: 8, help: "" },
  "learning-rate": { type: "float", min: 0, default: 2e-4, help: "" },
  "neft-noise": { type: "enum", values: ["uniform", "gaussian"], default: "uniform", help: "" },
  dropout: { type: "float", min: 0, below: 1, help: "" },
  "target-modules": { type: "list", values: ["q_proj", "v_proj"], default: ["q_proj"], help: "" },
  "report-to": { type: "list", values: ["tensorboard"], none: ["none"], default: [], help: "" },
  dataset: { type: "repeated", default: ["alpaca"], help: "" },
  "template-date": { type: "date", help: "" },
  output: { type: "path", help: "" },
  config: { type: "path", help: "" },
} as const satisfies OptionTable;

const read = (...args: string[]) => resolveValues(table, parseArguments(args, table).given);
const refusal = (...args: string[]): string => {
  try {
    read(...args);
  } catch (error) {
    expect(error).toBeInstanceOf(UsageError);
    return (error as Error).message;
  }
  throw new Error(`${args.join(" ")} was accepted`);
};

describe("values", () => {
  test("defaults, and undefined where there is none", () => {
    const values = read();
    expect(values.alpha).toBe(5);
    expect(values.packing).toBe(true);
    expect(values.dataset).toEqual(["alpaca"]);
    expect(values.output).toBeUndefined();
  });

  test("after a space or an equals sign", () => {
    expect(read("--alpha", "7.5").alpha).toBe(7.5);
    expect(read("--alpha=1e-3").alpha).toBe(0.001);
    expect(read("--output=a=b").output).toBe("a=b");
  });

  test("a limit holds for what kernels get, in float32", () => {
    expect(refusal("--dropout", "0.9999999999")).toContain("below 1, got 0.9999999999");
    expect(refusal("--epochs", "1e-46")).toContain("expects a number above 0, got 1e-46");
    expect(read("--dropout", "0.9999999", "--epochs", "1e-45")).toMatchObject({ dropout: 0.9999999 });
  });

  test("a word for an empty list", () => {
    expect(read("--report-to", "none")["report-to"]).toEqual([]);
    expect(refusal("--report-to", "none,tensorboard")).toContain('got "none"');
  });

  test("negative numbers are values, not options", () => {
    expect(read("--shift", "-3").shift).toBe(-3);
    expect(read("--shift=-.5").shift).toBe(-0.5);
  });

  test("booleans alone mean on, and take on or off", () => {
    expect(read("--use-rslora")["use-rslora"]).toBe(true);
    expect(read("--packing", "off").packing).toBe(false);
    expect(read("--packing=off", "--use-rslora=on")).toMatchObject({ packing: false, "use-rslora": true });
    expect(read("--use-rslora", "--packing", "off")).toMatchObject({ packing: false, "use-rslora": true });
  });

  test("a boolean does not eat a positional", () => {
    const { given, positionals } = parseArguments(["--use-rslora", "file"], table);
    expect(given.get("use-rslora")?.value).toBe(true);
    expect(positionals).toEqual(["file"]);
  });

  test("lists and repeated options", () => {
    expect(read("--target-modules", "v_proj, q_proj")["target-modules"]).toEqual(["v_proj", "q_proj"]);
    expect(read("--dataset", "a.json", "--dataset", "b.json").dataset).toEqual(["a.json", "b.json"]);
  });

  test("help anywhere, positionals, and everything after --", () => {
    const { help, positionals } = parseArguments(["x", "--help", "--", "--alpha"], table);
    expect(help).toBe(true);
    expect(positionals).toEqual(["x", "--alpha"]);
  });
});

describe("refusals name the nearest", () => {
  const cases: [string[], string][] = [
    [["--aplha", "3"], "unknown option --aplha; did you mean --alpha?"],
    [["--batch_sizes", "3"], "unknown option --batch_sizes; did you mean --batch-size?"],
    [["--train-epochs=3"], "unknown option --train-epochs; did you mean --epochs?"],
    [["--no-packing"], "unknown option --no-packing; did you mean --packing off?"],
    [["-x"], "unknown option -x; --help lists the options"],
    [["--zzzzzzzz"], "unknown option --zzzzzzzz; --help lists the options"],
    [["--__proto__", "1"], "unknown option --__proto__; --help lists the options"],
    [["--neft-noise", "unifrom"], 'got "unifrom"; did you mean uniform?'],
    [["--target-modules", "q_proj,v-proj"], 'got "v-proj"; did you mean v_proj?'],
  ];
  for (const [args, message] of cases) {
    test(args.join(" "), () => expect(refusal(...args)).toContain(message));
  }
});

describe("bad values", () => {
  const cases: [string[], string][] = [
    [["--alpha"], "--alpha needs a value (a number), got nothing"],
    [["--alpha", "--packing"], "--alpha needs a value (a number), got the option --packing"],
    [["--alpha", "five"], "--alpha expects a number, got five"],
    [["--alpha="], "--alpha expects a number"],
    [["--alpha", "0x10"], "--alpha expects a number, got 0x10"],
    [["--alpha", "1e999"], "--alpha expects a number, got 1e999"],
    [["--shift", "11"], "--shift expects a number of at least -10 and at most 10, got 11"],
    [["--epochs", "0"], "--epochs expects a number above 0, got 0"],
    [["--batch-size", "2.5"], "--batch-size expects a whole number of at least 1, got 2.5"],
    [["--batch-size", "0"], "--batch-size expects a whole number of at least 1, got 0"],
    [["--packing=maybe"], "--packing expects on or off, got maybe"],
    [["--target-modules", "q_proj,,v_proj"], "--target-modules expects names separated by commas"],
    [["--target-modules", "q_proj,q_proj"], "--target-modules names q_proj twice"],
    [["--template-date", "foo"], "--template-date expects a date such as 2024-07-26, got foo"],
    [
      ["--template-date=2024-02-30"],
      "--template-date expects a date such as 2024-07-26; there is no day 2024-02-30",
    ],
    [["--template-date="], '--template-date expects a date such as 2024-07-26, got ""'],
    [["--output", ""], "--output expects a value, got an empty one"],
    [["--alpha", "1", "--alpha", "2"], "--alpha was given twice"],
  ];
  for (const [args, message] of cases) {
    test(args.join(" "), () => expect(refusal(...args)).toContain(message));
  }
});

describe("config files", () => {
  const folder = mkdtempSync(join(tmpdir(), "neftune-config-"));
  const inFile = (name: string, text: string) => {
    const path = join(folder, name);
    writeFileSync(path, text);
    return readConfigFile(path, table);
  };

  test("TOML, YAML and JSON say the same", async () => {
    const toml =
      'alpha = 7\npacking = false\ntarget-modules = ["v_proj"]\ndataset = ["a", "b"]\ntemplate-date = 2024-07-26\n';
    const yaml =
      "alpha: 7\npacking: off\ntarget-modules: v_proj\ndataset: [a, b]\ntemplate-date: 2024-07-26\n";
    const json =
      '{"alpha":7,"packing":"off","target-modules":["v_proj"],"dataset":["a","b"],"template-date":"2024-07-26"}';
    for (const [name, text] of [
      ["a.toml", toml],
      ["a.yaml", yaml],
      ["a.json", json],
    ] as const) {
      const values = resolveValues(table, new Map(), await inFile(name, text));
      expect(values).toMatchObject({
        alpha: 7,
        packing: false,
        "target-modules": ["v_proj"],
        dataset: ["a", "b"],
        "template-date": "2024-07-26",
        epochs: 3,
      });
    }
  });

  test("flags win", async () => {
    const file = await inFile("b.toml", "alpha = 7\nepochs = 1\n");
    const values = resolveValues(table, parseArguments(["--alpha", "2"], table).given, file);
    expect(values).toMatchObject({ alpha: 2, epochs: 1 });
  });

  const bad: [string, string, string][] = [
    ["c.toml", "aplha = 1", 'unknown key "aplha"; did you mean alpha?'],
    ["d.toml", "batch_sizes = 1", 'unknown key "batch_sizes"; did you mean batch-size?'],
    ["e.toml", 'alpha = "1"', 'alpha expects a number, got "1"'],
    ["f.json", '{"batch-size": 1.5}', "batch-size expects a whole number of at least 1, got 1.5"],
    ["g.json", '{"packing": 1}', "packing expects on or off, got 1"],
    ["date.json", '{"template-date": 5}', "template-date expects a date such as 2024-07-26, got 5"],
    [
      "day.json",
      '{"template-date": "2024-13-01"}',
      'template-date expects a date such as 2024-07-26; there is no day "2024-13-01"',
    ],
    ["day.toml", "template-date = 2024-02-30", 'not valid TOML: the day that "template-date" names does not'],
    ["date.yaml", "template-date: today", 'template-date expects a date such as 2024-07-26, got "today"'],
    ["h.json", "[1]", "expected option names with values"],
    ["i.json", "{", "not valid JSON"],
    ["j.toml", "shift = 1\nalpha = = 1", "not valid TOML: line 2: invalid value"],
    ["k.yaml", "shift: 1\nalpha: [", "not valid YAML: line 2: "],
    ["i2.json", '{"shift": 1,\n"alpha": }', "not valid JSON: line 2: expected a value"],
    ["twice.json", '{"alpha": 1, "alpha": 2}', 'not valid JSON: duplicate key "alpha"'],
    ["twice.toml", "alpha = 1\nalpha = 2", 'not valid TOML: line 2: the key "alpha" is given twice'],
    ["twice.yaml", "alpha: 1\nalpha: 2", 'not valid YAML: line 2: the key "alpha" is given twice'],
    ["nul.toml", 'output = "a\\u0000b"', "output holds a NUL character"],
    ["nul.json", '{"dataset": ["a", "a\\u0000b"]}', "dataset holds a NUL character"],
    ["nul2.toml", "output = 'a\0b'", "not valid TOML: line 1: "],
    ["nul.yaml", "output: a\0b", "output holds a NUL character"],
    ["deep.json", `{"alpha": ${"[".repeat(100_000)}`, "nested more than 64 deep"],
    ["deep.toml", `alpha = ${"[".repeat(100_000)}`, "nested"],
    ["deep.yaml", `alpha: ${"[".repeat(10_000)}`, "nested too deep"],
    ["huge.yaml", "#".repeat(2_000_000), "has 2000000 bytes; expected at most 65536"],
    ["list.yaml", "- alpha", "expected option names with values"],
    ["tag.yaml", "alpha: !new 3", "alpha expects a number"],
    ["l.txt", "alpha=1", "expected a file that ends in .toml, .yaml or .json"],
    ["m.json", '{"config": "x.json"}', 'unknown key "config"'],
    ["o.json", '{"dataset": [1]}', "dataset expects a text or a list of them, got a list"],
  ];
  for (const [name, text, message] of bad) {
    test(`${name}: ${text}`, async () => {
      const error = await inFile(name, text).then(
        () => null,
        (thrown: unknown) => thrown as Error,
      );
      expect(error?.message).toContain(message);
      expect(error?.message).toContain(name);
    });
  }

  test("many keys take no time", async () => {
    const keys = Array.from({ length: 5000 }, (_, i) => `k${i}: 1`);
    const start = performance.now();
    await expect(inFile("many.yaml", keys.join("\n"))).rejects.toThrow('unknown key "k0"');
    expect(performance.now() - start).toBeLessThan(5000);
  });

  test("null is not given", async () => {
    const file = await inFile("p.json", '{"output": null, "alpha": null}');
    expect(resolveValues(table, new Map(), file)).toMatchObject({ alpha: 5, output: undefined });
  });

  test("a run's own config.json: what it records beside options is passed over", async () => {
    const file = await inFile(
      "q.json",
      '{"neftune_version": "0", "steps": 3, "alpha": 2, "device": {"backend": "cpu"}}',
    );
    expect([...file.keys()]).toEqual(["alpha"]);
  });

  test("a run's adapter brings its own rank", async () => {
    const lora = { adapter: { type: "path", help: "" }, "lora-r": { type: "int", help: "" } } as const;
    const path = join(folder, "r.json");
    writeFileSync(path, '{"neftune_version": "0", "adapter": "a", "lora-r": 4}');
    expect([...(await readConfigFile(path, lora)).keys()]).toEqual(["adapter"]);
    writeFileSync(path, '{"neftune_version": "0", "adapter": null, "lora-r": 4}');
    expect([...(await readConfigFile(path, lora)).keys()]).toEqual(["lora-r"]);
  });

  test("what is no option's value names the option, also without positionals to take it for", () => {
    expect(() => parseArguments(["--packing", "maybe"], table, false)).toThrow(
      "--packing expects on or off, got maybe",
    );
    expect(parseArguments(["--packing", "maybe"], table).positionals).toEqual(["maybe"]);
    expect(() => parseArguments(["--batch-size", "9007199254740993"], table)).toThrow(
      "at most 9007199254740991",
    );
  });

  test("a file that is not there", async () => {
    expect(readConfigFile(join(folder, "none.toml"), table)).rejects.toThrow(
      "none.toml cannot be read: no such file or folder",
    );
    rmSync(folder, { recursive: true });
  });
});
