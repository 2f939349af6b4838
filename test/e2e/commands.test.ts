import { describe, expect, test } from "bun:test";
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import packageJson from "../../package.json" with { type: "json" };
import { commands as entries } from "../../src/cli/commands.ts";
import { modelPlace } from "./support.ts";

const place = modelPlace();

const commands = entries.map(({ name }) => name);

describe("help", () => {
  test("without arguments and with --help, the commands", async () => {
    for (const args of [[], ["--help"], ["-h"], ["help"]]) {
      const { status, stdout, stderr } = await place.run(...args);
      expect(status).toBe(0);
      expect(stderr).toBe("");
      for (const command of commands) expect(stdout).toContain(`  ${command}`);
    }
  });

  test("every command's, with examples", async () => {
    for (const command of commands) {
      const { status, stdout } = await place.run(command, "--help");
      expect(status).toBe(0);
      expect(stdout).toContain(`Usage: neftune ${command}`);
      expect(stdout).toContain("Examples:");
      for (const common of ["--json", "--quiet", "--device", "--threads"]) expect(stdout).toContain(common);
    }
  });

  test("--version says version, commit, platform and what CUDA code there is", async () => {
    const { status, stdout, stderr } = await place.run("--version");
    const [version, commit, platform, cuda, ...rest] = stdout.split("\n");
    expect(version).toBe(`neftune ${packageJson.version}`);
    expect(commit).toMatch(/^commit {4}([0-9a-f]{40}(\+changes)?|unknown)$/);
    expect(platform).toBe("platform  linux-x64");
    expect(cuda).toMatch(/^CUDA {6}(not in this build|sm_80, .*sm_90, .*, and PTX for later GPUs)$/);
    expect(rest).toEqual([""]);
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  });
});

describe("wrong usage ends with 2 and one line", () => {
  const cases: [string[], string][] = [
    [["tarin"], "unknown command tarin; did you mean train?"],
    [["--aplha", "5"], "unknown option --aplha; did you mean --alpha?"],
    [["train", "--model"], "--model needs a value"],
    [["train"], "train needs --model"],
    [["--model", "model", "--batch-size", "0"], "--batch-size expects a whole number of at least 1, got 0"],
    [["--model", "model", "--packing", "of"], "--packing expects on or off, got of"],
    [["--model", "model", "--neft-length", "padded", "--dataset", "train.json"], "add --packing off"],
    [["--model", "model", "--quantization", "nf4", "--tune", "full"], "--tune full freezes none"],
    [["--model", "model", "--quantization", "fp4"], "--quantization expects one of none, nf4"],
    [
      ["--model", "model", "--quantized-cache", "c"],
      "--quantized-cache has no effect with --quantization none; leave --quantized-cache out, or set --quantization nf4",
    ],
    [["--model", "model", "--resume"], "--resume needs --output"],
    [["--model", "model", "--adapter", "x", "--lora-r", "4"], "leave --lora-r out"],
    [["--model", "model", "--device", "gpu"], "--device expects cpu, cuda, cuda:N, cuda:all or auto"],
    [["--model", "model", "--config", "none.ini"], "none.ini"],
    [["inspect"], "inspect needs FILE|DIR"],
    [["inspect", "a", "b"], 'unexpected argument "b"'],
    [["generate", "--model", "model"], "either --prompt or --dataset"],
    [["bench", "--shape", "m26"], "did you mean m25?"],
    [["init", "--shape", "m25"], "init needs --output"],
  ];
  for (const [args, message] of cases) {
    test(args.join(" "), async () => {
      await place.mustFail(args, message, args.includes("none.ini") ? 1 : 2);
    });
  }
});

describe("failures end with 1 and say what to do", () => {
  const failure = async (...args: string[]) => {
    const { status, stderr } = await place.run(...args);
    expect(status).toBe(1);
    return stderr;
  };

  test("a model that is nowhere: where it looked", async () => {
    const stderr = await failure("eval", "--model", "org/nothing", "--dataset", "train.json");
    expect(stderr).toContain(place.path("org/nothing"));
    expect(stderr).toContain("models--org--nothing");
  });

  test("a preset that is not in the cache: its Hub id", async () => {
    const stderr = await failure("--model", "llama2-7b", "--dataset", "train.json");
    expect(stderr).toContain("meta-llama/Llama-2-7b-hf");
    expect(stderr).toContain(place.env.XDG_CACHE_HOME!);
  });

  test("a data set that is not there", async () => {
    expect(await failure("eval", "--model", "model", "--dataset", "none.json")).toContain("none.json");
    expect(await failure("--model", "model")).toContain("tatsu-lab/alpaca");
  });

  test("CUDA", async () => {
    const stderr = await failure("--model", "model", "--dataset", "train.json", "--device", "cuda:0");
    expect(stderr).toContain("use --device cpu");
  });

  test("a truncated model", async () => {
    cpSync(place.path("model"), place.path("truncated"), { recursive: true });
    truncateSync(place.path("truncated/model.safetensors"), 5000);
    for (const args of [
      ["inspect", "truncated"],
      ["eval", "--model", "truncated", "--dataset", "train.json"],
    ]) {
      expect(await failure(...args)).toContain("model.safetensors");
    }
  });

  test("a model whose weights are not numbers", async () => {
    cpSync(place.path("model"), place.path("nan"), { recursive: true });
    const weights = readFileSync(place.path("nan/model.safetensors"));
    writeFileSync(place.path("nan/model.safetensors"), weights.fill(0xff, weights.length - 64));
    for (const args of [
      ["eval", "--dataset", "train.json"],
      ["generate", "--prompt", "a"],
      ["--dataset", "train.json", "--output", "never"],
    ])
      expect(await failure(...args, "--model", "nan")).toMatch(
        /^error: model\.\S+ has 16 values that are NaN or infinite; the checkpoint is damaged/m,
      );
    expect(existsSync(place.path("never/adapter_model.safetensors"))).toBe(false);
  });

  test("a model without weights, or with a config that is none", async () => {
    mkdirSync(place.path("hollow"));
    copyFileSync(place.path("model/tokenizer.json"), place.path("hollow/tokenizer.json"));
    place.write("hollow/config.json", "{");
    expect(await failure("eval", "--model", "hollow", "--dataset", "train.json")).toContain(
      "hollow/config.json",
    );
    place.write("hollow/config.json", place.read("model/config.json"));
    expect(await failure("eval", "--model", "hollow", "--dataset", "train.json")).toContain(
      "no model weights",
    );
  });

  test("bad data: file, line and reason", async () => {
    place.write("bad.jsonl", '{"instruction": "a", "output": "b"}\n{"instruction": "a"}\n');
    const stderr = await failure("eval", "--model", "model", "--dataset", "bad.jsonl");
    expect(stderr).toContain("bad.jsonl:2");
    expect(stderr).toContain('"output" is missing');
    place.write("broken.json", '[{"instruction": ');
    expect(await failure("eval", "--model", "model", "--dataset", "broken.json")).toContain("broken.json:1");
    const kept = await place.must(
      "eval",
      "--model",
      "model",
      "--dataset",
      "bad.jsonl",
      "--skip-bad-rows",
      "--json",
    );
    expect(JSON.parse(kept.stdout).samples).toBe(1);
    expect(kept.stderr).toContain("1 bad row left out");
  });
});

describe("init and inspect", () => {
  test("the same seed gives the same bytes, another gives others", async () => {
    const init = (output: string, seed: string) =>
      place.must("init", "--shape", "shape.json", "--output", output, "--seed", seed, "--json");
    const { parameters } = JSON.parse((await init("one", "7")).stdout) as { parameters: number };
    await init("two", "7");
    await init("three", "8");
    const bytes = (name: string) => readFileSync(place.path(name, "model.safetensors"));
    expect(bytes("two")).toEqual(bytes("one"));
    expect(bytes("three")).not.toEqual(bytes("one"));
    const listing = JSON.parse((await place.must("inspect", "one", "--json")).stdout) as {
      metadata: Record<string, string>;
      tensors: { name: string; dtype: string; shape: number[]; bytes: number }[];
    };
    expect(listing.metadata).toEqual({ format: "pt" });
    expect(listing.tensors.length).toBe(1 + 2 * 9 + 1);
    expect(listing.tensors.every(({ dtype }) => dtype === "BF16")).toBe(true);
    expect(listing.tensors.reduce((sum, tensor) => sum + tensor.bytes, 0)).toBe(2 * parameters);
  });

  test("a folder that is not empty is refused", async () => {
    const { status, stderr } = await place.run("init", "--shape", "shape.json", "--output", "model");
    expect(status).toBe(2);
    expect(stderr).toContain("not empty");
  });

  test("init refuses a malformed tokenizer by name", async () => {
    mkdirSync(place.path("odd"));
    place.write("odd/tokenizer.json", JSON.stringify({ added_tokens: {}, model: { vocab: {} } }));
    place.write("odd/tokenizer_config.json", "{}");
    const { status, stderr } = await place.run(
      ...["init", "--shape", "shape.json", "--tokenizer", "odd", "--output", "from-odd"],
    );
    expect(stderr).toMatch(/^error: odd\/tokenizer\.json: /m);
    expect(status).toBe(1);
    expect(existsSync(place.path("from-odd"))).toBe(false);
  });

  test("a malformed file is refused with the reason", async () => {
    place.write("bad.safetensors", "\x10\0\0\0\0\0\0\0{not json}      ");
    const { status, stderr } = await place.run("inspect", "bad.safetensors");
    expect(status).toBe(1);
    expect(stderr).toContain("bad.safetensors");
  });
});

describe("preview", () => {
  test("JSON: text, ids and labels with the prompt masked", async () => {
    const { stdout, stderr } = await place.must(
      ...["preview", "--model", "model", "--dataset", "train.json", "--json", "--limit", "2"],
    );
    expect(stderr).toBe("template: alpaca (by row format)\n");
    const rows = JSON.parse(stdout) as {
      text: string;
      input_ids: number[];
      labels: number[];
      truncated: boolean;
    }[];
    expect(rows.length).toBe(2);
    for (const { text, input_ids, labels, truncated } of rows) {
      expect(text).toStartWith("Below is an instruction");
      expect(input_ids[0]).toBe(1);
      expect(input_ids.at(-1)).toBe(2);
      expect(labels.length).toBe(input_ids.length);
      expect(labels[0]).toBe(-100);
      expect(labels.at(-1)).toBe(2);
      expect(truncated).toBe(false);
    }
  });

  test("--template-date: the day that a template writes, in every command that reads rows", async () => {
    place.write(
      "dated.jinja",
      "{{ strftime_now('%d %b %Y') }}: {{ messages[0]['content'] }}{{ messages[1]['content'] }}",
    );
    const undated = ["--model", "model", "--dataset", "train.json", "--prompt-template", "dated.jinja"];
    const read = [...undated, "--template-date", "2024-07-26"];
    const preview = await place.must("preview", ...read, "--limit", "1", "--json");
    expect(JSON.parse(preview.stdout)[0].text).toStartWith("26 Jul 2024: ");
    const note = "with the date in the template's own text";
    const hint = /--template-date \d{4}-\d\d-\d\d gives the same tokens on another day/g;
    const expectNote = ({ stderr }: { stderr: string }, hints: number) => {
      expect(stderr).toContain(note);
      expect(stderr.match(hint) ?? []).toHaveLength(hints);
    };
    expectNote(preview, 0);
    expectNote(await place.must("preview", ...undated), 1);
    expectNote(await place.must("eval", ...read, "--samples", "2"), 0);
    expectNote(await place.must("eval", ...undated, "--samples", "2"), 1);
    expectNote(await place.must("train", ...undated, "--max-steps", "1", "--output", "today"), 1);
    expectNote(await place.must("train", ...read, "--max-steps", "1", "--output", "dated"), 0);
    expectNote(await place.must("preview", ...undated, "--adapter", "dated"), 0);
    expectNote(await place.must("eval", ...undated, "--samples", "2", "--adapter", "dated"), 0);
    expect(JSON.parse(place.read("dated", "config.json"))["template-date"]).toBe("2024-07-26");
    const ask = ["generate", "--prompt", "Hello", "--max-new-tokens", "1", "--json"];
    const promptOf = async (...args: string[]) =>
      JSON.parse((await place.must(...ask, ...args)).stdout).prompt as string;
    const one = ["--model", "model", "--prompt-template", "first.jinja"];
    place.write("first.jinja", "{{ strftime_now('%F') }}: {{ messages[0]['content'] }}");
    expect(await promptOf(...one, "--template-date", "2024-07-26")).toBe("2024-07-26: Hello");
    expect(await promptOf(...one, "--adapter", "dated")).toBe("2024-07-26: Hello");
    expectNote(await place.must(...ask, ...one), 1);
    expectNote(await place.must(...ask, ...one, "--template-date", "2024-07-26"), 0);
    const output = ["generate", "--dataset", "train.json", "--max-new-tokens", "1", "--samples", "2"];
    const answered = await place.must(...output, ...one, "--output", "dated.jsonl");
    expect(answered.stderr).toContain(`2 rows ${note}; --template-date `);
    for (const command of ["train", "eval", "preview", "generate", "merge", "chat", "serve"]) {
      const { stderr, status } = await place.run(command, "--template-date", "26 Jul");
      expect(stderr).toContain("--template-date expects a date such as 2024-07-26, got 26 Jul");
      expect(status).toBe(2);
    }
  });

  test("text: the trained part is marked", async () => {
    const args = ["--model", "model", "--dataset", "train.json", "--limit", "1"];
    const { stdout } = await place.must("preview", ...args);
    const { output } = (JSON.parse(place.read("train.json")) as { output: string }[])[0]!;
    expect(stdout).toContain(`### Response:⟦${output}</s>⟧`);
  });

  test("all of a large output arrives through a slow pipe, and a reader may stop early", async () => {
    const rows = Array.from({ length: 4000 }, (_, i) => ({ text: `row ${i} of many` }));
    place.write("many.json", JSON.stringify(rows));
    const args = ["preview", "--model", "model", "--dataset", "many.json", "--json", "--limit", "0"];
    const whole = place.start(args);
    await Bun.sleep(300);
    expect(JSON.parse(await new Response(whole.stdout).text()).length).toBe(4000);
    const cut = place.start(args);
    const reader = cut.stdout.getReader();
    await reader.read();
    await reader.cancel();
    await cut.exited;
    expect(cut.exitCode).toBe(0);
    expect(await new Response(cut.stderr).text()).toBe("template: none (by row format)\n");
  });
});

describe("doctor and bench", () => {
  test("doctor --json", async () => {
    const { stdout } = await place.must("doctor", "--json");
    const found = JSON.parse(stdout) as {
      device: { threads: number; backend: string };
      libraries: { path: string }[];
      hub_cache: { path: string };
    };
    expect(found.device.backend).toBe("cpu");
    expect(found.hub_cache.path).toStartWith(place.env.XDG_CACHE_HOME!);
    const ours = found.libraries.filter(({ path }) => /neftune|dnnl|gomp|stdc\+\+|gcc_s/.test(path));
    expect(ours.length).toBeGreaterThanOrEqual(2);
    for (const { path } of ours) expect(path).toContain("memfd:");
  });

  test("bench --json: rates, memory and losses that move", async () => {
    const { stdout } = await place.must(
      ...[
        "bench",
        "--shape",
        "shape.json",
        "--max-length",
        "16",
        "--steps",
        "3",
        "--warmup",
        "1",
        "--dtype",
        "f32",
      ],
      // Matrices of 4,096 values and more have moments of 8 bits.
      ...["--learning-rate", "0.01", "--threads", "1", "--lora-r", "256", "--optim", "adamw8bit", "--json"],
    );
    const report = JSON.parse(stdout) as {
      optim: string;
      tokens_per_second: number;
      model_gflops_per_second: number;
      matmul_gflops_per_second: { shape: string; gflops: number }[];
      planned_bytes: { total: number };
      peak_bytes: number;
      seconds_by_operation: Record<string, { seconds: number; calls: number }>;
      steps: { loss: number; grad_norm: number }[];
    };
    expect(report.tokens_per_second).toBeGreaterThan(0);
    expect(report.matmul_gflops_per_second[0]!.shape).toBe("2048x2048x2048");
    expect(report.planned_bytes.total).toBeGreaterThan(0);
    expect(report.peak_bytes).toBeGreaterThan(report.planned_bytes.total);
    expect(report.steps.length).toBe(4);
    expect(new Set(report.steps.map(({ loss }) => loss)).size).toBe(4);
    for (const { grad_norm } of report.steps) expect(grad_norm).toBeGreaterThan(0);
    expect(report.seconds_by_operation.nt_linear_forward!.calls % 3).toBe(0);
    expect(report.optim).toBe("adamw8bit");
    expect(report.seconds_by_operation.nt_adamw_8bit!.calls).toBeGreaterThan(0);
  });
});
