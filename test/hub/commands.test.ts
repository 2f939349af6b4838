// The commands with names of the Hub, as someone uses them who has nothing on disk.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { llamaTokenizerJson } from "../data/tiny-tokenizer.ts";
import { folder as golden } from "../golden/support.ts";
import { finished } from "../spawned.ts";
import { FakeHub, lfsFile, noise, smallFile } from "./fake-hub.ts";
import { COMMIT, modelFiles, TOKEN } from "./support.ts";

setDefaultTimeout(120_000);
const main = join(import.meta.dir, "..", "..", "src", "main.ts");
const root = mkdtempSync(join(tmpdir(), "neftune-hub-commands-"));
const hub = new FakeHub();
const env: Record<string, string> = {
  PATH: "/usr/bin:/bin",
  HOME: root,
  HF_HOME: join(root, "hf"),
  XDG_CACHE_HOME: join(root, "xdg"),
};

const tiny = join(golden, "models", "tiny-mha-f32");
const config = () => smallFile("config.json", readFileSync(join(tiny, "config.json"), "utf8"));

beforeAll(async () => {
  await hub.open();
  env.HF_ENDPOINT = hub.endpoint;
  const files = readdirSync(tiny).map((name) => {
    const bytes = new Uint8Array(readFileSync(join(tiny, name)));
    return name.endsWith(".safetensors") ? lfsFile(name, bytes) : { name, bytes, lfs: false };
  });
  const tokenizer = smallFile("tokenizer.json", JSON.stringify(llamaTokenizerJson()));
  const repo = { kind: "model", commit: COMMIT } as const;
  hub.add({ ...repo, id: "HuggingFaceTB/SmolLM2-135M", files: [...files, tokenizer] });
  hub.add({ ...repo, id: "meta-llama/Llama-2-7b-hf", files: [...files, tokenizer], gatedFor: TOKEN });
  const other = smallFile("config.json", '{"model_type": "gpt2"}');
  hub.add({ ...repo, id: "some/large", files: [other, ...modelFiles.slice(1)] });
  hub.add({ ...repo, id: "some/noise", files: [config(), ...modelFiles.slice(1)] });
  const rows = Array.from({ length: 6 }, (_, i) => ({
    instruction: `hello ${i}`,
    input: "",
    output: "world",
  }));
  hub.add({
    kind: "dataset",
    id: "WizardLMTeam/WizardLM_evol_instruct_70k",
    commit: COMMIT,
    files: [smallFile("alpaca_evol_instruct_70k.json", JSON.stringify(rows)), smallFile("README.md", "#")],
  });
  const parquet = join(import.meta.dir, "..", "golden", "parquet", "alpaca-snappy.parquet");
  hub.add({
    kind: "dataset",
    id: "tatsu-lab/alpaca",
    commit: COMMIT,
    files: [
      smallFile("dataset_infos.json", "{}"),
      lfsFile("data/train-00000-of-00001-a09b74b3ef9c3b56.parquet", new Uint8Array(readFileSync(parquet))),
    ],
  });
  const chats = rows.map(({ instruction, output }) => ({
    conversations: [
      { from: "human", value: instruction },
      { from: "gpt", value: output },
    ],
  }));
  hub.add({
    kind: "dataset",
    id: "some/chats",
    commit: COMMIT,
    files: [
      smallFile("part/one.jsonl", chats.map((row) => JSON.stringify(row)).join("\n")),
      smallFile("part/two.jsonl", JSON.stringify(chats[0])),
    ],
    card: {
      configs: [
        { config_name: "small", data_files: [{ split: "test", path: "part/two.*" }] },
        { config_name: "default", data_files: [{ split: "train", path: ["part/one.*", "part/two.*"] }] },
      ],
    },
  });
});
afterAll(() => {
  hub.close();
  rmSync(root, { recursive: true, force: true });
});

function start(args: readonly string[], more: Readonly<Record<string, string>> = {}) {
  return Bun.spawn([process.execPath, main, ...args], {
    cwd: root,
    env: { ...env, ...more },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
}

const run = (args: string, more: Readonly<Record<string, string>> = {}) =>
  finished(start(args.split(" "), more));

const quick = "--max-steps 2 --dtype f32 --threads 1 --batch-size 2";

describe("a model and data by name", () => {
  test("are downloaded and trained on; config.json says what came from where", async () => {
    const { status, stderr } = await run(
      `--model smollm2-135m --dataset evol-instruct ${quick} --output runs/first --epochs 1`,
    );
    expect(stderr).toContain("downloading HuggingFaceTB/SmolLM2-135M: ");
    expect(stderr).toContain("downloading WizardLMTeam/WizardLM_evol_instruct_70k: 1 file");
    expect(status).toBe(0);
    expect(existsSync(join(root, "runs/first/adapter_model.safetensors"))).toBe(true);
    const recorded = JSON.parse(readFileSync(join(root, "runs/first/config.json"), "utf8")) as {
      model: string;
      alpha: number;
      option_sources: Record<string, string>;
    };
    expect(recorded.alpha).toBe(5);
    expect(recorded.option_sources).toMatchObject({
      alpha: "preset evol-instruct",
      "max-steps": "flag",
      "learning-rate": "default",
    });
    const adapter = JSON.parse(readFileSync(join(root, "runs/first/adapter_config.json"), "utf8")) as {
      base_model_name_or_path: string;
    };
    expect(adapter.base_model_name_or_path).toBe("HuggingFaceTB/SmolLM2-135M");
  });

  test("are there for the next run, without the network", async () => {
    hub.seen.length = 0;
    const { status, stderr } = await run(
      `eval --model smollm2-135m --adapter runs/first --dataset evol-instruct --dtype f32 --threads 1`,
      { HF_HUB_OFFLINE: "1" },
    );
    expect(stderr).not.toContain("downloading");
    expect(status).toBe(0);
    expect(hub.seen).toEqual([]);
  });

  test("a run's config.json serves as --config, whatever it says of its options' sources", async () => {
    const { status } = await run("--config runs/first/config.json --output runs/again");
    expect(status).toBe(0);
  });

  test("a recipe's options are recorded as such", async () => {
    writeFileSync(join(root, "run.toml"), "seed = 7\n");
    const { status, stderr } = await run(
      `--model smollm2-135m --dataset evol-instruct --recipe neftune --config run.toml --output runs/recipe ${quick}`,
    );
    expect(stderr).toContain("full");
    expect(status).toBe(0);
    const recorded = JSON.parse(readFileSync(join(root, "runs/recipe/run.json"), "utf8")) as {
      option_sources: Record<string, string>;
      "gradient-accumulation-steps": number;
    };
    expect(recorded.option_sources).toMatchObject({
      tune: "recipe neftune",
      "learning-rate": "recipe neftune",
      "batch-size": "flag",
      seed: "config file",
    });
    expect(recorded["gradient-accumulation-steps"]).toBe(64);
  });

  test("preview downloads no weights, and a card's default configuration is followed", async () => {
    const { status, stdout } = await run(
      "preview --model smollm2-135m --dataset some/chats --limit 0 --json",
      {
        HF_HOME: join(root, "other"),
      },
    );
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toHaveLength(7);
    const snapshot = join(root, "other/hub/models--HuggingFaceTB--SmolLM2-135M/snapshots", COMMIT);
    expect(existsSync(join(snapshot, "tokenizer.json"))).toBe(true);
    expect(existsSync(join(snapshot, "model.safetensors"))).toBe(false);
  });

  test("the default data set: Alpaca, in Parquet", async () => {
    const { status, stdout, stderr } = await run("preview --model smollm2-135m --limit 1 --json", {
      HF_HOME: join(root, "other"),
    });
    expect(stderr).toContain("downloading tatsu-lab/alpaca: 1 file");
    expect(status).toBe(0);
    const [first] = JSON.parse(stdout) as { text: string }[];
    expect(first!.text).toContain("### Instruction:");
  });

  test("one file of a repository", async () => {
    const { status, stdout } = await run(
      "preview --model smollm2-135m --dataset some/chats/part/two.jsonl --limit 0 --json",
    );
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toHaveLength(1);
  });
});

describe("what is refused", () => {
  test("a gated model: what to accept and where, in one line", async () => {
    const { status, stderr } = await run("--model llama2-7b --dataset evol-instruct --output runs/gated");
    expect(status).toBe(1);
    const page = `${hub.endpoint}/meta-llama/Llama-2-7b-hf`;
    expect(stderr).toContain(
      `error: the preset llama2-7b (Llama 2 7B): meta-llama/Llama-2-7b-hf is gated: open ${page}, log in and accept`,
    );
    expect(
      stderr
        .trimEnd()
        .split("\n")
        .filter((line) => line.startsWith("error")),
    ).toHaveLength(1);
    expect(existsSync(join(root, "runs/gated"))).toBe(false);
  });

  test("nothing says the token", async () => {
    const { stdout, stderr } = await run("--model llama2-7b --dataset evol-instruct", {
      HF_TOKEN: "hf_wrong",
    });
    expect(stderr).toContain("has no access yet");
    expect(stdout + stderr).not.toContain("hf_wrong");
  });

  test.each([
    ["--model lama2-7b --dataset evol-instruct", 1, "did you mean llama2-7b?"],
    ["--model smollm2-135m --dataset evolinstruct", 1, "did you mean evol-instruct?"],
    ["--model no/such --dataset evol-instruct", 1, "the Hub has no model no/such"],
    ["--model smollm2-135m --dataset no/such", 1, "the Hub has no data set no/such"],
    ["--model smollm2-135m --dataset some/chats --split test", 2, "has no split test; it has train"],
    ["--model smollm2-135m --recipe qlora --tune full", 2, "--quantization nf4 is for frozen weights"],
    ["--model smollm2-135m --recipe neftun", 2, "did you mean neftune?"],
    ["--model my.toml", 1, "my.toml: no such file"],
  ])("%s", async (args, status, message) => {
    const result = await run(args);
    expect(result.stderr).toContain(message);
    expect(result.status).toBe(status);
  });
});

test("what is wrong is told before a model is downloaded", async () => {
  mkdirSync(join(root, "taken"));
  writeFileSync(join(root, "taken", "config.json"), "{}");
  hub.seen.length = 0;
  for (const [args, message] of [
    ["--model some/large --dataset evolinstruct", "did you mean evol-instruct?"],
    ["--model some/large --dataset evol-instruct --output taken", "taken"],
    ["--model some/large --dataset evol-instruct --prompt-template none.jinja", "none.jinja"],
    ["--dataset evol-instruct", "train needs --model"],
    ["--model some/large --dataset evol-instruct", "model_type must be one of llama, mistral, qwen2, qwen3"],
  ] as const) {
    const { status, stderr } = await run(args);
    expect(stderr).toContain(message);
    expect(status).not.toBe(0);
  }
  expect(hub.seen.filter(({ host }) => host === "storage")).toEqual([]);
});

describe("the lists", () => {
  test("models", async () => {
    const { status, stdout } = await run("models --json --quiet");
    expect(status).toBe(0);
    const rows = JSON.parse(stdout) as Record<string, unknown>[];
    expect(rows).toHaveLength(22);
    const [llama2] = rows;
    expect(llama2).toMatchObject({ name: "llama2-7b", gated: true, parameters: 6_738_415_616 });
    for (const { name, training_memory_bytes } of rows) {
      const { lora, qlora, full } = training_memory_bytes as Record<string, number>;
      expect({ name, ordered: qlora! < lora! && lora! < full! }).toEqual({ name, ordered: true });
    }
    const small = rows.find(({ name }) => name === "smollm2-135m")!;
    expect(small).toMatchObject({ cached: "whole", gated: false });
    const need = small.training_memory_bytes as Record<"lora" | "qlora" | "full" | "full_adamw8bit", number>;
    expect(need.lora).toBeGreaterThan(300e6);
    expect(need.qlora).toBeLessThan(need.lora - 100e6);
    expect(need.full).toBeGreaterThan(need.lora);
    // llama2-7b in full fits 2, 4 and 8 GPUs of 80 GB; each has all weights in bf16, and its share of 16 bytes each.
    const shares = llama2!.training_memory_bytes_per_rank as {
      ranks: number;
      full: number;
      full_adamw8bit: number;
    }[];
    expect(shares.map(({ ranks }) => ranks)).toEqual([2, 4, 8]);
    for (const { ranks, full, full_adamw8bit } of shares) {
      expect(full).toBeLessThan(80e9);
      expect(full).toBeGreaterThan((2 + 16 / ranks) * (llama2!.parameters as number));
      expect((full - full_adamw8bit) / (llama2!.parameters as number)).toBeCloseTo(5.97 / ranks, 2);
    }
    // Of 8 bytes a parameter, AdamW's state in 8 bits saves 5.97; norms keep float32.
    expect((need.full - need.full_adamw8bit) / (small.parameters as number)).toBeCloseTo(5.97, 2);
  });

  test("data sets", async () => {
    const { stdout } = await run("datasets --json --quiet");
    const rows = JSON.parse(stdout) as Record<string, unknown>[];
    expect(rows.map(({ name, cached, alpha }) => [name, cached, alpha])).toEqual([
      ["alpaca", "absent", 5],
      ["evol-instruct", "whole", 5],
      ["sharegpt", "absent", 10],
      ["open-platypus", "absent", 15],
      ["alpaca-eval", "absent", null],
    ]);
  });

  test("as tables", async () => {
    expect((await run("models")).stdout).toMatch(/smollm2-135m +\d+ MiB +yes +open/);
    expect((await run("datasets")).stdout).toMatch(/sharegpt +94,145 .* 10 +Apache 2.0/);
  });
});

test("Ctrl-C ends a download with status 130, and the same command goes on", async () => {
  hub.fault = ({ host, path }) =>
    host === "storage" && path.length > 10 ? { bytesPerSecond: 200_000 } : undefined;
  const args = ["eval", "--model", "some/noise", "--dataset", "evol-instruct"];
  const child = start(args);
  const blobs = join(env.HF_HOME!, "hub", "models--some--noise", "blobs");
  const grown = () => {
    const parts = existsSync(blobs) ? readdirSync(blobs).filter((name) => name.endsWith(".incomplete")) : [];
    return parts.length >= 2 && parts.some((name) => statSync(join(blobs, name)).size > 50_000);
  };
  while (!grown()) await Bun.sleep(20);
  child.kill("SIGINT");
  const { status, stderr } = await finished(child);
  expect(stderr).toContain("the same command continues from there");
  expect(status).toBe(130);
  hub.fault = () => undefined;
  hub.seen.length = 0;
  const next = await finished(start(args));
  // The weights are noise: what matters is that all of them came, from where it had stopped.
  expect(next.status).toBe(1);
  expect(hub.seen.some(({ range }) => range !== null)).toBe(true);
  expect(readdirSync(blobs).filter((name) => name.endsWith(".incomplete"))).toEqual([]);
});

test("where there is no room, it says so before it downloads", async () => {
  hub.add({
    kind: "model",
    id: "some/huge",
    commit: COMMIT,
    files: [
      config(),
      ...modelFiles.slice(1, 4),
      { ...lfsFile("model.safetensors", noise(10, 1)), announced: 2 ** 52 },
    ],
  });
  const { status, stderr } = await run("eval --model some/huge --dataset evol-instruct");
  expect(status).toBe(1);
  expect(stderr).toMatch(/some\/huge: .* GiB to download, .* [GM]iB free in .*HF_HUB_CACHE/);
});
