// What Ctrl-C, a closed pipe and a failure leave behind.

import { describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { executable, lastingMetrics, modelPlace } from "./support.ts";

const place = modelPlace();

/** Starts a command and sends it `signal` so many milliseconds after its line about the device. */
async function stopped(args: string[], signal: NodeJS.Signals, delay: number) {
  const child = place.start(args);
  let stderr = "";
  const decoder = new TextDecoder();
  for await (const chunk of child.stderr) {
    const isFirst = !stderr.includes("device:");
    stderr += decoder.decode(chunk, { stream: true });
    if (isFirst && stderr.includes("device:")) {
      await Bun.sleep(delay);
      child.kill(signal);
    }
  }
  await child.exited;
  return { status: child.exitCode, stderr };
}

describe("Ctrl-C", () => {
  test("init leaves nothing", async () => {
    const args = ["init", "--shape", "t1b", "--output", "new/folder"];
    const { status, stderr } = await stopped(args, "SIGINT", 100);
    expect(stderr).toContain("init was stopped");
    expect(status).toBe(130);
    expect(existsSync(place.path("new"))).toBe(false);
  }, 30_000);

  test("generate keeps the rows that are done", async () => {
    const limits = ["--batch-size", "1", "--max-new-tokens", "1000", "--threads", "1"];
    const args = ["generate", "--model", "model", "--dataset", "train.json", "--output", "rows.jsonl"];
    const { status, stderr } = await stopped([...args, ...limits], "SIGINT", 3000);
    expect(status).toBe(130);
    const rows = place.read("rows.jsonl").trimEnd().split("\n");
    expect(stderr).toContain(`rows.jsonl holds the first ${rows.length} of 48 rows`);
    expect(rows.length).toBeLessThan(48);
    for (const row of rows) expect(JSON.parse(row).output_ids.length).toBeGreaterThan(0);
  }, 30_000);

  test("a terminal that hangs up: train saves a checkpoint", async () => {
    const args = [
      "train",
      "--model",
      "model",
      "--dataset",
      "train.json",
      "--output",
      "hung",
      "--epochs",
      "500",
    ];
    const { status } = await stopped([...args, "--batch-size", "2"], "SIGHUP", 1500);
    expect(status).toBe(130);
    expect(readdirSync(place.path("hung", "checkpoints")).length).toBeGreaterThan(0);
  }, 60_000);
});

describe("a pipe that nobody reads", () => {
  const shell = (script: string) =>
    Bun.spawnSync(["sh", "-c", script, executable], { cwd: place.cwd, env: place.env });

  test("standard error: the command goes on", () => {
    shell(
      '(sleep 0.3; "$0" init --shape shape.json --output unread >out.txt; echo $? >status.txt) 2>&1 | true',
    );
    expect(place.read("status.txt")).toBe("0\n");
    expect(place.read("out.txt")).toContain("unread: ");
    expect(existsSync(place.path("unread/config.json"))).toBe(true);
  });

  test("standard error: a failure keeps its status", () => {
    shell('(sleep 0.3; "$0" tarin; echo $? >status.txt) 2>&1 | true');
    expect(place.read("status.txt")).toBe("2\n");
  });
});

describe("init", () => {
  test("f16: the values of f32, rounded", async () => {
    for (const dtype of ["f16", "f32"]) {
      await place.must("init", "--shape", "shape.json", "--output", dtype, "--dtype", dtype);
    }
    const data = (dtype: string) => {
      const bytes = readFileSync(place.path(dtype, "model.safetensors"));
      return Uint8Array.from(bytes.subarray(8 + Number(bytes.readBigUInt64LE(0))));
    };
    const rounded = Float16Array.from(new Float32Array(data("f32").buffer));
    expect(rounded.some((value) => value !== 0 && value !== 1)).toBe(true);
    expect(Buffer.compare(data("f16"), new Uint8Array(rounded.buffer))).toBe(0);
  });

  test("where a folder cannot be made", async () => {
    place.write("file", "");
    for (const output of ["file", "file/below"]) {
      const { status, stderr } = await place.run("init", "--shape", "shape.json", "--output", output);
      expect(status).toBe(1);
      expect(stderr).toContain(`${output} cannot be used as --output`);
      expect(stderr).not.toContain("internal error");
    }
  });

  test("a folder that is taken is wrong usage", async () => {
    const { status } = await place.run("init", "--shape", "shape.json", "--output", "model");
    expect(status).toBe(2);
  });

  test("copies of read-only files can be written to", async () => {
    mkdirSync(place.path("locked"));
    for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
      place.write(`locked/${name}`, place.read("tokenizer", name));
      chmodSync(place.path("locked", name), 0o400);
    }
    await place.must("init", "--shape", "shape.json", "--output", "copied", "--tokenizer", "locked");
    expect(statSync(place.path("copied/tokenizer.json")).mode & 0o777).toBe(0o666 & ~process.umask());
  });
});

test("a template is refused with its file's name, and what it makes of rows", async () => {
  place.write("broken.jinja", "{% for m in messages %}");
  place.write("empty.jinja", "{% if false %}x{% endif %}");
  place.write("none.json", "[]");
  const preview = (template: string, dataset = "train.json") =>
    place.run("preview", "--model", "model", "--dataset", dataset, "--prompt-template", template);
  expect(await preview("broken.jinja")).toMatchObject({
    status: 1,
    stderr: expect.stringContaining("broken.jinja: not a Jinja template"),
  });
  expect(await preview("empty.jinja")).toMatchObject({
    status: 1,
    stderr: expect.stringContaining("empty text"),
  });
  expect(await preview("alpaca", "none.json")).toMatchObject({
    status: 1,
    stderr: expect.stringContaining("has no rows"),
  });
});

test("a run's own config.json, given as --config, makes the same run", async () => {
  const options = ["--model", "model", "--dataset", "train.json", "--max-steps", "1", "--seed", "7"];
  const { stdout } = await place.must("train", ...options, "--output", "first");
  expect(stdout).toStartWith("1 step in ");
  await place.must("train", "--config", "first/config.json", "--output", "second");
  const loss = (run: string) => lastingMetrics(place, run);
  expect(loss("second")).toEqual(loss("first"));
});

test("a run ends well though its data file is gone; it says what it does", async () => {
  place.write("gone.json", place.read("train.json"));
  const options = [
    "--model",
    "model",
    "--dataset",
    "gone.json",
    "--output",
    "lonely",
    "--max-steps",
    "40",
    "--epochs",
    "9",
  ];
  const child = place.start(["train", ...options, "--lr", "1e-3", "--device", "cpu"]);
  let stderr = "";
  const decoder = new TextDecoder();
  for await (const chunk of child.stderr) {
    stderr += decoder.decode(chunk, { stream: true });
    if (stderr.includes("step 1/40")) rmSync(place.path("gone.json"), { force: true });
  }
  const stdout = await new Response(child.stdout).text();
  await child.exited;
  expect(child.exitCode).toBe(0);
  expect(stdout).toContain("adapter: lonely/adapter_model.safetensors");
  expect(stdout).toContain("try it:  neftune generate --model model --adapter lonely");
  for (const line of [
    "noise: uniform, alpha 5 (default)",
    "learning rate: 0.001, cosine, warm-up over 2 steps of 40",
    "batch: 8 samples per step, packed",
    "LoRA: rank 16, alpha 16, on q_proj, ",
  ]) {
    expect(stderr).toContain(line);
  }
});

test("names and texts of files do not steer a terminal", async () => {
  const name = "evil\x1b]0;x\x07\u202e.json";
  place.write(name, '[{"instruction": "a\\u001b[2J\\u202eb", "output": "\\u009bc"}]');
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  const unsafe = /[\0-\x08\x0b-\x1f\x7f-\x9f\u202e]/;
  for (const args of [
    ["preview", "--model", "model", "--dataset", name],
    ["preview", "--model", "model", "--dataset", name, "--json"],
    ["eval", "--model", "model", "--dataset", name, "--device", "cpu"],
    ["eval", "--model", "model", "--dataset", `no-${name}`],
    ["--model", "model", "--\x1b[2J", "1"],
    ["\x1b[2J"],
    ["inspect", `\x1b[2J\u202e`],
    ["doctor", "\x9b2J"],
  ]) {
    const { stdout, stderr } = await place.run(...args);
    expect(stdout + stderr).not.toMatch(unsafe);
  }
  const { stdout } = await place.must("preview", "--model", "model", "--dataset", name);
  expect(stdout).toContain("a\\x1b[2J\\u202eb");
  const json = await place.must("preview", "--model", "model", "--dataset", name, "--json");
  expect(JSON.parse(json.stdout)[0].text).toContain("a\x1b[2J\u202eb");
});

test("--eval-split between a share and a count is wrong usage", async () => {
  const { status, stderr } = await place.run("train", "--model", "model", "--eval-split", "1.5");
  expect(status).toBe(2);
  expect(stderr).toContain("--eval-split expects a share below 1 or a whole count, got 1.5");
});

test("data without any target: eval and train say so", async () => {
  for (const command of ["eval", "train"]) {
    const { status, stderr } = await place.run(
      ...[command, "--model", "model", "--dataset", "train.json", "--max-length", "2"],
    );
    expect(status).toBe(1);
    expect(stderr).toContain("48 with no target left\n");
    expect(stderr).toContain("\nerror: no");
  }
});
