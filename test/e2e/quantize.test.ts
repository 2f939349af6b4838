// neftune quantize from outside: what it writes and says, what it refuses, and what is left of one that was stopped.

import { describe, expect, test } from "bun:test";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { describeStopped } from "./stopped.ts";
import { executable, modelPlace } from "./support.ts";

const place = modelPlace();

const lossOf = async (model: string, ...args: string[]) => {
  const { stdout } = await place.must(
    ...["eval", "--model", model, "--dataset", "held-out.json", "--dtype", "f32", "--json", ...args],
  );
  return (JSON.parse(stdout) as { loss: number }).loss;
};
/** What is there beside the files that makeModel made, hidden names included. */
const names = () => readdirSync(place.cwd).sort();
const editConfig = (model: string, change: Record<string, unknown>) => {
  const path = place.path(model, "config.json");
  writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), ...change }));
};

describe("quantize", () => {
  test("writes a model that eval takes with no flag, with the numbers of --quantization nf4", async () => {
    const before = names();
    const { stdout } = await place.must("quantize", "--model", "model", "--output", "nested/nf4");
    expect(stdout).toMatch(/^nested\/nf4: [\d.]+ KiB became [\d.]+ KiB, [\d.]+ s\n$/);
    expect(names()).toEqual([...before, "nested"].sort());
    expect(readdirSync(place.path("nested"))).toEqual(["nf4"]);
    expect(readdirSync(place.path("nested", "nf4")).sort()).toEqual(readdirSync(place.path("model")).sort());
    for (const name of ["tokenizer.json", "tokenizer_config.json"])
      expect(place.read("nested/nf4", name)).toBe(place.read("model", name));
    expect(await lossOf("nested/nf4")).toBe(await lossOf("model", "--quantization", "nf4"));
  }, 60_000);

  test("--json, --double-quantization off", async () => {
    const args = ["--output", "single", "--double-quantization", "off", "--json", "--threads", "1"];
    const { stdout } = await place.must("quantize", "--model", "model", ...args);
    const result = JSON.parse(stdout);
    expect(result).toMatchObject({ output: "single", files: expect.arrayContaining(["config.json"]) });
    expect(result.bytes).toBeLessThan(result.original_bytes);
    const off = ["--quantization", "nf4", "--double-quantization", "off"];
    expect(await lossOf("single")).toBe(await lossOf("model", ...off));
  }, 60_000);

  test("inspect shows a weight as one line; --json its parts too", async () => {
    const { stdout } = await place.must("inspect", "nested/nf4");
    expect(stdout).toMatch(/model\.layers\.1\.mlp\.up_proj\.weight +NF4 double of F32 +\[72, 32\]/);
    expect(stdout).toContain("20 tensors, ");
    expect(stdout).not.toContain("absmax");
    const json = JSON.parse((await place.must("inspect", "single", "--json")).stdout);
    expect(json.nf4).toHaveLength(14);
    expect(json.nf4[0]).toMatchObject({ dtype: "f32", double_quantization: false });
    expect(json.tensors.length).toBe(6 + 14 * 4);
  });

  test("training on it, and its adapter", async () => {
    const run = ["--dataset", "train.json", "--dtype", "f32", "--max-steps", "4", "--batch-size", "4"];
    await place.must("--model", "nested/nf4", ...run, "--output", "on-quantized");
    await place.must("--model", "model", "--quantization", "nf4", ...run, "--output", "on-load");
    const adapter = (name: string) => readFileSync(place.path(name, "adapter_model.safetensors"));
    expect(adapter("on-quantized")).toEqual(adapter("on-load"));
  }, 60_000);
});

describe("refused, and nothing is written", () => {
  test.each<[string, string[], string, number]>([
    ["no model", ["--output", "x"], "quantize needs --model", 2],
    ["no output", ["--model", "model"], "quantize needs --output", 2],
    [
      "a folder that is taken",
      ["--model", "model", "--output", "tokenizer"],
      "already exists and is not empty",
      2,
    ],
    [
      "a file in its place",
      ["--model", "model", "--output", "train.json"],
      "train.json cannot be used as --output",
      1,
    ],
    ["a quantized model", ["--model", "nested/nf4", "--output", "x"], "nf4 is quantized already", 1],
    ["no folder", ["--model", "./absent", "--output", "x"], "--model ./absent", 1],
  ])("%s", async (_, args, message, status) => {
    const before = names();
    await place.mustFail(["quantize", ...args], message, status);
    expect(names()).toEqual(before);
  });

  test.each<[string, Record<string, unknown>, string]>([
    [
      "another model_type",
      { model_type: "gpt2" },
      'model_type must be one of llama, mistral, qwen2, qwen3; got "gpt2"',
    ],
    ["GPTQ", { quantization_config: { quant_method: "gptq" } }, 'quant_method "gptq" is not supported'],
    [
      "config.json that calls plain weights NF4",
      {
        quantization_config: { quant_method: "bitsandbytes", load_in_4bit: true, bnb_4bit_quant_type: "nf4" },
      },
      "but the weights are plain",
    ],
  ])("%s", async (what, change, message) => {
    cpSync(place.path("model"), place.path(what), { recursive: true });
    editConfig(what, change);
    await place.mustFail(["quantize", "--model", `./${what}`, "--output", "x"], message);
    expect(existsSync(place.path("x"))).toBe(false);
  });

  test("weights that are not finite", async () => {
    cpSync(place.path("model"), place.path("infinite"), { recursive: true });
    const path = place.path("infinite", "model.safetensors");
    const bytes = readFileSync(path);
    const start = 8 + Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(bytes.subarray(8, start).toString());
    const { data_offsets } = header["model.layers.0.mlp.up_proj.weight"];
    bytes.writeFloatLE(Number.POSITIVE_INFINITY, start + data_offsets[0] + 400);
    writeFileSync(path, bytes);
    for (const double of ["on", "off"]) {
      const args = ["--output", "x", "--double-quantization", double];
      const message = "model.layers.0.mlp.up_proj.weight has a value that is NaN or infinite";
      await place.mustFail(["quantize", "--model", "infinite", ...args], message);
      expect(existsSync(place.path("x"))).toBe(false);
    }
  });

  test("a damaged NF4 checkpoint, by every command that reads it", async () => {
    cpSync(place.path("nested/nf4"), place.path("damaged"), { recursive: true });
    const path = place.path("damaged", "model.safetensors");
    const bytes = readFileSync(path);
    const at = bytes.indexOf('"blocksize": 64');
    bytes.write('"blocksize": 32', at);
    writeFileSync(path, bytes);
    for (const args of [
      ["eval", "--model", "damaged", "--dataset", "held-out.json"],
      ["inspect", "damaged"],
      ["quantize", "--model", "damaged", "--output", "x"],
    ]) {
      const { status, stderr } = await place.run(...args);
      expect(stderr).toContain("blocksize is 32, where 64 is all that neftune reads");
      expect(status).toBe(1);
    }
    truncateSync(path, statSync(path).size - 10);
    expect((await place.run("inspect", "damaged")).stderr).toContain("model.safetensors");
  });
});

describeStopped(place, ["quantize", "--model", "big"]);

describe("what else can happen", () => {
  test("two at a time: the second is told who is at it", async () => {
    mkdirSync(place.path(".both.partial"));
    const lock = { pid: process.pid, host: (await Bun.$`uname -n`.text()).trim(), start: null };
    place.write(".both.partial/.neftune.lock", JSON.stringify(lock));
    const { status, stderr } = await place.run("quantize", "--model", "model", "--output", "both");
    expect(stderr).toContain(`in use by process ${process.pid}`);
    expect(status).toBe(1);
    expect(readdirSync(place.path(".both.partial"))).toEqual([".neftune.lock"]);
  });

  test("a disk that takes no more: a sentence, nothing left", async () => {
    const shape = { ...JSON.parse(place.read("shape.json")), hidden_size: 512, vocab_size: 65536 };
    place.write("wide.json", JSON.stringify(shape));
    await place.must("init", "--shape", "wide.json", "--output", "wide");
    const { cwd, env } = place;
    // A limit on file sizes stands for the full disk; the native libraries, which are loaded from memory files, fit in.
    const command = 'ulimit -f 61440; exec "$0" quantize --model wide --output full --device cpu';
    const run = Bun.spawnSync(["bash", "-c", command, executable], { cwd, env });
    expect(run.stderr.toString()).toMatch(/error: .*model\.safetensors cannot be written: .*\n$/);
    expect(run.exitCode).toBe(1);
    expect(names().filter((name) => name.includes("full"))).toEqual([]);
  }, 30_000);
});
