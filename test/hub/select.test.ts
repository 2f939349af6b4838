// Which files of a repository are taken, and what the environment says.

import { describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { modelTextFiles, modelWeightFile } from "../../src/formats/hub/select.ts";
import { cardFiles, filesMatching, lacksShards } from "../../src/formats/hub/select-data.ts";
import { hubSettings } from "../../src/formats/hub/settings.ts";
import { scratchFolder } from "../scratch.ts";

const root = scratchFolder();

describe("of a model", () => {
  const names = [
    ...[".gitattributes", "README.md", "LICENSE.txt", "config.json", "generation_config.json"],
    ...[
      "model-00001-of-00002.safetensors",
      "model-00002-of-00002.safetensors",
      "model.safetensors.index.json",
    ],
    ...["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json", "special_tokens_map.json"],
    ...["tokenizer.json", "tokenizer.model", "tokenizer_config.json", "added_tokens.json"],
    ...["chat_template.jinja", "original/params.json", "original/tokenizer.model", "onnx/model.onnx"],
    ...[
      "model.fp16.safetensors",
      "training_args.bin",
      "additional_chat_templates/rag.jinja",
      "tokenizer.bin",
    ],
  ];

  test("the small files, tokenizer.json last", () => {
    expect(modelTextFiles(names)).toEqual({
      first: [
        ...["config.json", "generation_config.json", "special_tokens_map.json", "tokenizer.model"],
        ...["tokenizer_config.json", "added_tokens.json", "chat_template.jinja"],
        "additional_chat_templates/rag.jinja",
      ],
      last: ["tokenizer.json"],
    });
  });

  test("its weights: one file before an index, and nothing else", () => {
    expect(modelWeightFile("a/b", names)).toBe("model.safetensors.index.json");
    expect(modelWeightFile("a/b", [...names, "model.safetensors"])).toBe("model.safetensors");
    expect(() => modelWeightFile("a/b", ["config.json", "model.pth"])).toThrow(
      /model\.pth alone.*programs that run/,
    );
    expect(() => modelWeightFile("a/b", ["model-q4.gguf", "training_args.bin"])).toThrow(
      "it has model-q4.gguf",
    );
    expect(() => modelWeightFile("a/b", [])).toThrow("neither model.safetensors nor");
  });
});

describe("of a data set", () => {
  const names = [
    "README.md",
    "main/test.parquet",
    "main/train-0.parquet",
    "main/train-1.parquet",
    "x/train.json",
  ];
  const of = (configs: unknown, wanted: readonly string[] | null = null) =>
    cardFiles(names, wanted, { configs }, "here");
  const train = ["main/train-0.parquet", "main/train-1.parquet"];
  const splits = [
    { split: "test", path: "main/test.parquet" },
    { split: "train", path: "main/train-*" },
  ];

  test.each<[unknown, string[] | null]>([
    [undefined, null],
    [[], null],
    ["main/*", null],
    [[{ config_name: "default", data_files: splits }], train],
    [[{ config_name: "a", data_files: "x/*.json" }], ["x/train.json"]],
    [[{ config_name: "a", data_files: ["./x/train.json"] }], ["x/train.json"]],
    [
      [
        { config_name: "a", data_files: "x/*" },
        { config_name: "b", default: true, data_files: splits },
      ],
      train,
    ],
    [
      [
        { config_name: "a", data_files: "x/*" },
        { config_name: "default", data_files: splits },
      ],
      train,
    ],
    [[{ config_name: "a", data_files: [{ split: "only", path: ["x/train.json"] }] }], ["x/train.json"]],
    [[{ config_name: "a", data_files: [{ split: 3, path: "x" }] }], null],
    [[null, { config_name: "a" }], null],
  ])("the card's %j", (configs, files) => {
    expect(of(configs)).toEqual(files);
  });

  test("a split by name, the first of several that is there", () => {
    const configs = [{ config_name: "default", data_files: splits }];
    expect(of(configs, ["test"])).toEqual(["main/test.parquet"]);
    expect(of(configs, ["validation", "test", "train"])).toEqual(["main/test.parquet"]);
    expect(() => of(configs, ["validation"])).toThrow("here has no split validation; it has test, train");
  });

  test("several configurations without a default are for the user to choose from", () => {
    const configs = ["a", "b"].map((name) => ({ config_name: name, data_files: "x/*" }));
    expect(() => of(configs)).toThrow("several configurations (a, b)");
  });

  test("a card that lists what is not there", () => {
    expect(() => of([{ config_name: "a", data_files: "y/*" }])).toThrow(
      "here has no file y/*; it has README.md",
    );
  });

  test("patterns, without files twice", () => {
    expect(filesMatching(names, ["main/train-*", "main/*.parquet"])).toEqual([...train, "main/test.parquet"]);
    expect(filesMatching(names, ["**"])).toHaveLength(names.length);
  });

  test("shards that are numbered and absent", () => {
    const shards = [0, 1, 2].map((i) => `data/train-0000${i}-of-00003-abc.parquet`);
    expect(lacksShards(shards)).toBe(false);
    expect(lacksShards(shards.slice(1))).toBe(true);
    expect(lacksShards(["train.json"])).toBe(false);
  });
});

describe("the environment", () => {
  mkdirSync(join(root, "hf"));
  writeFileSync(join(root, "hf", "token"), "hf_saved\n");
  writeFileSync(join(root, "elsewhere"), "hf_elsewhere");

  test.each<[Record<string, string>, string | undefined]>([
    [{}, undefined],
    [{ HF_HOME: join(root, "hf") }, "hf_saved"],
    [{ HF_HOME: join(root, "hf"), HF_TOKEN: " hf_given " }, "hf_given"],
    [{ HF_HOME: join(root, "hf"), HF_TOKEN: "" }, "hf_saved"],
    [{ HUGGING_FACE_HUB_TOKEN: "hf_old" }, "hf_old"],
    [{ HF_HOME: join(root, "hf"), HF_TOKEN_PATH: join(root, "elsewhere") }, "hf_elsewhere"],
  ])("%j: the token", (env, token) => {
    expect(hubSettings({ HOME: root, ...env }).token).toBe(token);
  });

  test("endpoint, cache and offline", () => {
    const of = (env: Record<string, string>) => hubSettings({ HOME: root, ...env });
    expect(of({}).endpoint).toBe("https://huggingface.co");
    expect(of({ HF_ENDPOINT: "https://mirror.example/hub/" }).endpoint).toBe("https://mirror.example/hub");
    expect(of({}).cacheDir).toBe(join(root, ".cache/huggingface/hub"));
    expect(of({ HF_HOME: "~/hf" }).cacheDir).toBe(join(root, "hf/hub"));
    expect(of({ HUGGINGFACE_HUB_CACHE: "/old" }).cacheDir).toBe("/old");
    for (const [value, offline] of [
      ["1", true],
      ["true", true],
      ["ON", true],
      ["0", false],
      ["", false],
    ] as const) {
      expect(of({ HF_HUB_OFFLINE: value }).offline).toBe(offline);
    }
  });
});
