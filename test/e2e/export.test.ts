// neftune export from outside: what it writes and says, and what it refuses.

import { beforeAll, expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { readGguf } from "../formats/gguf-reader.ts";
import { executable, modelPlace, trainTiny } from "./support.ts";

const place = modelPlace();
const names = () => readdirSync(place.cwd).sort();
beforeAll(() => trainTiny(place), 60_000);

test("a run with its base, and a Modelfile with the template that it was trained with", async () => {
  const { stdout } = await place.must(
    ...["export", "--model", "lora", "--type", "q8_0", "--output", "mine.gguf", "--ollama", "ollama"],
  );
  expect(stdout).toMatch(/^mine\.gguf: [\d.]+ KiB, q8_0, [\d.]+ s\nollama\/Modelfile: /);
  const { fields, tensors } = readGguf(place.path("mine.gguf"));
  expect(fields.get("general.architecture")).toBe("llama");
  expect(tensors.get("blk.0.attn_q.weight")!.summary).toStartWith("Q8_0 32,32 ");
  expect(place.read("ollama", "Modelfile")).toMatch(
    /^FROM \.\.\/mine\.gguf\nTEMPLATE """Below is an instruction/,
  );
}, 60_000);

test("the adapter alone, as JSON", async () => {
  const args = [
    "--model",
    "lora",
    "--adapter-only",
    "--output",
    "alone/lora.gguf",
    "--ollama",
    "alone",
    "--json",
  ];
  const { stdout } = await place.must("export", ...args);
  expect(JSON.parse(stdout)).toMatchObject({
    output: "alone/lora.gguf",
    type: "f32",
    modelfile: "alone/Modelfile",
  });
  expect(readGguf(place.path("alone/lora.gguf")).fields.get("adapter.type")).toBe("lora");
  expect(place.read("alone", "Modelfile")).toMatch(/^FROM .*\/model\nADAPTER \.\/lora\.gguf\n/);
}, 60_000);

test.each<[string, string[], string, number]>([
  ["no model", ["--output", "x.gguf"], "export needs --model", 2],
  ["no output", ["--model", "model"], "export needs --output", 2],
  [
    "a file that is there",
    ["--model", "model", "--output", "train.json"],
    "--output train.json already exists",
    2,
  ],
  [
    "no adapter",
    ["--model", "model", "--adapter-only", "--output", "x.gguf"],
    "--adapter-only needs --adapter",
    2,
  ],
  [
    "a base without an adapter",
    ["--model", "model", "--base", "original", "--output", "x.gguf"],
    "here none is added",
    2,
  ],
  [
    "another type",
    ["--model", "model", "--type", "q5_k", "--output", "x.gguf"],
    "one of f16, bf16, f32, q8_0, q4_0",
    2,
  ],
  [
    "a folder that is not there",
    ["--model", "model", "--output", "none/x.gguf"],
    "none/x.gguf cannot be written: no such file or folder",
    1,
  ],
])("refused, and nothing is written: %s", async (_, args, message, status) => {
  const before = names();
  const finished = await place.run("export", ...args);
  expect(finished.stderr).toContain(message);
  expect(finished.status).toBe(status);
  expect(names()).toEqual(before);
});

test("a disk that is full: a sentence, and nothing left", async () => {
  const shape = { hidden_size: 512, intermediate_size: 1376, num_hidden_layers: 8 };
  place.write("big.json", JSON.stringify({ ...JSON.parse(place.read("shape.json")), ...shape }));
  await place.must("init", "--shape", "big.json", "--output", "big", "--tokenizer", "tokenizer");
  const before = names();
  // Room for the native libraries, and not for the file.
  const command = 'ulimit -f 61440; exec "$0" export --model big --type f32 --output full.gguf --device cpu';
  const run = Bun.spawn(["bash", "-c", command, executable], {
    ...{ cwd: place.cwd, env: place.env, stderr: "pipe" },
  });
  expect(await new Response(run.stderr).text()).toContain(
    "full.gguf cannot be written: larger than the file system",
  );
  expect(await run.exited).toBe(1);
  expect(names()).toEqual(before);
}, 60_000);
