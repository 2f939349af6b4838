// export: what a name tells, the Modelfile, tokenizers that llama.cpp splits as it knows or not at all.

import { afterAll, describe, expect, spyOn, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { makeFile } from "../../src/cli/outputs/new-file.ts";
import { expectNoModelfile, makeOllamaFolder, writeModelfile } from "../../src/cli/outputs/ollama.ts";
import { preTokenizerName } from "../../src/data/gguf/pre-tokenizer.ts";
import { readPieces } from "../../src/data/gguf/sentencepiece.ts";
import { tokenizerFields } from "../../src/data/gguf/vocabulary.ts";
import { namedTemplates, type TemplateName } from "../../src/data/named-templates.ts";
import { Tokenizer } from "../../src/data/tokenizer.ts";
import { text } from "../../src/formats/gguf/values.ts";
import { writeGgufInSteps } from "../../src/formats/gguf.ts";
import { cardFields, fromCard, readCard } from "../../src/model/gguf/model-card.ts";
import { nameParts, sizeLabel } from "../../src/model/gguf/model-name.ts";
import { byteFolder, byteTokenizerJson, llamaFolder, NO_SETTINGS } from "../data/tiny-tokenizer.ts";
import { readGguf } from "../formats/gguf-reader.ts";

const root = mkdtempSync(join(tmpdir(), "export-"));
afterAll(() => rmSync(root, { recursive: true }));
const { signal } = new AbortController();

describe("a model's name", () => {
  // as gguf-py 0.19's Metadata.get_model_id_components reads it
  test.each([
    [
      "meta-llama/Llama-3.2-1B-Instruct",
      1.2e9,
      "Llama 3.2 1B Instruct",
      ["Meta Llama", "Llama-3.2", "Instruct", null, "1B"],
    ],
    ["SmolLM2-135M", 1.35e8, "SmolLM2 135M", [null, "SmolLM2", null, null, "135M"]],
    [
      "Mistral-7B-Instruct-v0.3",
      7.2e9,
      "Mistral 7B Instruct v0.3",
      [null, "Mistral", "Instruct", "v0.3", "7B"],
    ],
    ["Qwen3-0.6B", 6e8, "Qwen3 0.6B", [null, "Qwen3", null, null, "0.6B"]],
    ["merged", 1e6, "Merged", [null, null, null, null, null]],
    ["Phi-3-mini-128k", 3.8e9, "Phi 3 Mini 128k", [null, "Phi-3", "128k", null, "mini"]],
  ] as const)("%s", (id, parameters, title, [organization, basename, finetune, version, sizeLabel]) => {
    expect(nameParts(id, parameters)).toEqual({
      title,
      organization,
      basename,
      finetune,
      version,
      sizeLabel,
    });
  });

  test.each([
    [134_515_008, "135M"],
    [1_235_814_400, "1.2B"],
    [9_960, "10K"],
    [999_999, "1000K"],
    [6_738_415_616, "6.7B"],
  ])("a size of %d", (parameters, label) => expect(sizeLabel(parameters)).toBe(label));
});

test("a model card: license, sources, tags, as gguf-py 0.19 reads them", () => {
  const dir = join(root, "card");
  mkdirSync(dir);
  const front = [
    ...[
      "license: [apache-2.0, mit]",
      "language:",
      "- en",
      "- no",
      "tags: [a]",
      "pipeline_tag: text-generation",
    ],
    ...["base_model:", "- HuggingFaceTB/SmolLM2-135M", "- https://huggingface.co/meta-llama/Llama-3.2-1B"],
    ...["- https://example.com/thing", "datasets: tatsu-lab/alpaca", "model_creator: Someone"],
  ];
  writeFileSync(join(dir, "README.md"), ["---", ...front, "---", "# Card"].join("\n"));
  const output = join(root, "card.gguf");
  for (const _ of writeGgufInSteps(output, cardFields(readCard(dir), 1.6e6), []));
  const hub = "https://huggingface.co";
  expect(Object.fromEntries(readGguf(output).fields)).toEqual({
    "general.license": "apache-2.0,mit",
    "general.base_model.count": 3,
    "general.base_model.0.name": "SmolLM2 135M",
    "general.base_model.0.organization": "HuggingFaceTB",
    "general.base_model.0.repo_url": `${hub}/HuggingFaceTB/SmolLM2-135M`,
    "general.base_model.1.name": "Llama 3.2 1B",
    "general.base_model.1.organization": "Meta Llama",
    "general.base_model.1.repo_url": `${hub}/meta-llama/Llama-3.2-1B`,
    "general.base_model.2.repo_url": "https://example.com/thing",
    "general.dataset.count": 1,
    "general.dataset.0.name": "Alpaca",
    "general.dataset.0.organization": "Tatsu Lab",
    "general.dataset.0.repo_url": `${hub}/tatsu-lab/alpaca`,
    "general.tags": ["a", "text-generation"],
    "general.languages": ["en", "no"],
  });
  expect(fromCard(readCard(dir), "author", "model_creator")).toBe("Someone");
  for (const text of ["# No front matter", "---\n- a\n---\n", "---\na: [\n---\n", ""]) {
    writeFileSync(join(dir, "README.md"), text);
    expect(readCard(dir)).toEqual({});
  }
});

describe("the Modelfile", () => {
  const written = (template: string | undefined, dir = byteFolder(), adapter: string | null = null) => {
    const notes: string[] = [];
    const folder = join(root, `ollama-${Math.random()}`);
    makeOllamaFolder(folder);
    const path = writeModelfile(
      {
        dir: folder,
        from: join(root, "m.gguf"),
        adapter,
        tokenizer: Tokenizer.load(dir),
        template,
      },
      { note: (line) => void notes.push(line) },
    );
    return { text: readFileSync(path, "utf8"), notes };
  };

  test("names the model and the adapter, and stops at EOS", () => {
    const { text } = written("alpaca", llamaFolder(), join(root, "lora.gguf"));
    expect(text).toStartWith(
      `FROM ${root}/m.gguf\nADAPTER ${root}/lora.gguf\nTEMPLATE """Below is an instruction`,
    );
    expect(text).toContain('### Instruction:\n{{ .Prompt }}\n\n### Response:{{ .Response }}"""\n');
    expect(text).toContain('PARAMETER stop "</s>"\nPARAMETER stop "### Instruction:"\n');
  });

  test.each(Object.keys(namedTemplates) as TemplateName[])(
    "a file with the %s template is known by what it renders",
    (name) => {
      const file = join(root, `${name}.jinja`);
      writeFileSync(file, `${namedTemplates[name]}{# its own words #}`);
      const known = written(name).text;
      expect(written(file).text).toBe(known);
      expect(known).toContain(name === "llama3" || name === "chatml" ? "range .Messages" : "{{ .Prompt }}");
    },
  );

  test("the tokenizer's own chat template where nothing else is named; one that is not known is told", () => {
    expect(written(undefined).text).toContain("<|start_header_id|>{{ .Role }}<|end_header_id|>");
    const { text, notes } = written(
      undefined,
      llamaFolder({ chat_template: "{{ messages[0]['content'] }}" }),
    );
    expect(text).not.toContain("TEMPLATE");
    expect(notes.join()).toContain("no Ollama form of this model's template");
  });

  test("what a template tells a model that is told nothing is the model's SYSTEM", () => {
    const preface =
      "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind<|im_end|>\n{% endif %}";
    const told = written(
      undefined,
      llamaFolder({ chat_template: `${preface}${namedTemplates.chatml}` }),
    ).text;
    expect(told).toContain('<|im_start|>assistant\n"""\nSYSTEM """Be kind"""\nPARAMETER');
    expect(written("vicuna").text).toContain('SYSTEM """A chat between a curious user and an');
    for (const name of ["alpaca", "llama2", "llama3", "chatml", "mistral"])
      expect(written(name).text).not.toContain("SYSTEM");
    // An empty one, or one that is not all that the template adds.
    const untold = (text: string) => `{% if messages[0]['role'] != 'system' %}${text}{% endif %}`;
    const block = (text: string) => `<|im_start|>system\n${text}<|im_end|>\n`;
    for (const source of [
      `${untold(block(""))}${namedTemplates.chatml}`,
      `${untold(`Well: ${block("Be kind")}`)}${namedTemplates.chatml}`,
      `${untold(block("Be kind"))}${namedTemplates.chatml}${untold("Well:")}`,
    ]) {
      const { text } = written(undefined, llamaFolder({ chat_template: source }));
      expect(text).toContain("<|im_start|>{{ .Role }}");
      expect(text).not.toContain("SYSTEM");
    }
  });

  test("a template that takes too long is none that is known", () => {
    const turns = "{% for i in range(20) %}{% for j in range(1) %}{% endfor %}{% endfor %}";
    const folder = llamaFolder({ chat_template: `${turns}${namedTemplates.chatml}` });
    expect(written(undefined, folder).text).toContain("<|im_start|>");
    let seconds = 0;
    const clock = spyOn(process, "threadCpuUsage");
    clock.mockImplementation(() => ({ user: 1e6 * seconds++, system: 0 }));
    try {
      expect(written(undefined, folder).text).not.toContain("<|im_start|>");
    } finally {
      clock.mockRestore();
    }
  });

  test("one that is there is kept", () => {
    writeFileSync(join(root, "Modelfile"), "mine");
    expect(() => expectNoModelfile(root)).toThrow("has a Modelfile already");
    expect(() => expectNoModelfile(join(root, "none"))).not.toThrow();
    expect(() => makeOllamaFolder(join(root, "Modelfile"))).toThrow("cannot be created");
  });
});

describe("tokenizers", () => {
  test("SentencePiece's own model: pieces, scores and types, filled up; added tokens from the files beside it", () => {
    // protocol buffers by hand: pieces = 1 { piece = 1, score = 2, type = 3 }
    const piece = (content: string, score: number, type?: number) => {
      const utf8 = Buffer.from(content);
      const number = Buffer.alloc(4);
      number.writeFloatLE(score);
      const body = [0x0a, utf8.length, ...utf8, 0x15, ...number, ...(type === undefined ? [] : [0x18, type])];
      return [0x0a, body.length, ...body];
    };
    const bytes = [
      ...piece("<unk>", 0, 2),
      ...piece("▁a", -1.5),
      ...piece("\ufeff", -2),
      ...piece("<0x0A>", 0, 6),
      0x12,
      1,
      0,
    ];
    const dir = llamaFolder({
      add_prefix_space: true,
      added_tokens_decoder: { 4: { content: "<|x|>" }, 5: { content: "▁plain" } },
    });
    writeFileSync(join(dir, "tokenizer.model"), Uint8Array.from(bytes));
    expect(readPieces(join(dir, "tokenizer.model"))).toEqual([
      { text: "<unk>", score: 0, type: 2 },
      { text: "▁a", score: -1.5, type: 1 },
      { text: "\ufeff", score: -2, type: 1 },
      { text: "<0x0A>", score: 0, type: 6 },
    ]);
    const output = join(root, "spm.gguf");
    for (const _ of writeGgufInSteps(output, tokenizerFields(dir, 7, "llama"), []));
    const { fields } = readGguf(output);
    expect(fields.get("tokenizer.ggml.tokens")).toEqual([
      "<unk>",
      "▁a",
      "\ufeff",
      "<0x0A>",
      "<|x|>",
      " plain",
      "[PAD6]",
    ]);
    expect(fields.get("tokenizer.ggml.token_type")).toEqual([2, 1, 1, 6, 3, 4, 5]);
    expect(fields.get("tokenizer.ggml.scores")).toEqual([0, -1.5, -2, 0, -1000, -1000, -10000]);
    expect(fields.get("tokenizer.ggml.add_space_prefix")).toBe(true);
    expect(() => tokenizerFields(dir, 5, "llama")).toThrow(
      "has ids up to 5, but config.json's vocab_size is 5",
    );
    writeFileSync(join(dir, "tokenizer.model"), Uint8Array.from(bytes.slice(0, 5)));
    expect(() => tokenizerFields(dir, 7, "llama")).toThrow("is damaged or not SentencePiece's model");
  });

  const split = (regex: string) => ({
    type: "Split",
    pattern: { Regex: regex },
    behavior: "Isolated",
    invert: false,
  });
  const bytes = (use_regex: boolean) => ({ type: "ByteLevel", add_prefix_space: false, use_regex });
  const llama3 = (byteTokenizerJson().pre_tokenizer as { pretokenizers: object[] }).pretokenizers[0] as {
    pattern: { Regex: string };
  };
  test.each<[string, object]>([
    ["llama-bpe", { type: "Sequence", pretokenizers: [llama3, bytes(false)] }],
    [
      "qwen2",
      { type: "Sequence", pretokenizers: [split(llama3.pattern.Regex.replace("{1,3}", "")), bytes(false)] },
    ],
    [
      "smollm",
      { type: "Sequence", pretokenizers: [{ type: "Digits", individual_digits: true }, bytes(true)] },
    ],
    ["gpt-2", bytes(true)],
  ])("%s by its rules", (name, pre_tokenizer) => {
    const json = { ...byteTokenizerJson(), pre_tokenizer };
    expect(preTokenizerName(json, new Tokenizer(json, NO_SETTINGS), "t.json")).toBe(name);
  });

  test.each<[string, object]>([
    ["another regular expression", { type: "Sequence", pretokenizers: [split("\\s+"), bytes(false)] }],
    [
      "digits together",
      { type: "Sequence", pretokenizers: [{ type: "Digits", individual_digits: false }, bytes(true)] },
    ],
    ["a space first", { ...bytes(true), add_prefix_space: true }],
  ])("refused: %s", (_, pre_tokenizer) => {
    const json = { ...byteTokenizerJson(), pre_tokenizer };
    const name = () => preTokenizerName(json, new Tokenizer(json, NO_SETTINGS), "t.json");
    expect(name).toThrow("t.json: splits text by rules that llama.cpp does not have");
  });
});

test("what a killed process left of the file is removed, what another writes is not", async () => {
  const gone = Bun.spawn(["true"]);
  await gone.exited;
  const old = new Date(Date.now() - 120_000);
  const leftovers = [gone.pid, process.ppid].map((pid) => join(root, `.x.gguf.${pid}.partial`));
  for (const path of leftovers) {
    writeFileSync(path, "half");
    utimesSync(path, old, old);
  }
  const output = join(root, "x.gguf");
  await makeFile(output, "export", { signal }, writeGgufInSteps(output, [["a", text("b")]], []));
  expect(leftovers.map((path) => existsSync(path))).toEqual([false, true]);
  expect(readGguf(output).fields.get("a")).toBe("b");
});

test("stopped: nothing is left", async () => {
  const output = join(root, "y.gguf");
  const steps = writeGgufInSteps(
    output,
    [],
    [{ name: "t", type: "f32", shape: [2], data: () => [new Uint8Array(4), new Uint8Array(4)] }],
  );
  const stopped = makeFile(output, "export", { signal: AbortSignal.abort() }, steps);
  expect(stopped).rejects.toThrow("export was stopped; it left nothing");
  await stopped.catch(() => {});
  expect(existsSync(output)).toBe(false);
});

test("a tensor that is not what it says is refused, and nothing is left", () => {
  const output = join(root, "z.gguf");
  const tensor = { name: "t", type: "q8_0", shape: [1, 32], data: () => [new Uint8Array(33)] } as const;
  expect(() => [...writeGgufInSteps(output, [], [tensor])]).toThrow("t: q8_0 [1,32] takes 34 bytes, got 33");
  expect(existsSync(output)).toBe(false);
});
