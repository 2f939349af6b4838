import { describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { openAdapter, readAdapterConfig, writeAdapterConfig } from "../../src/formats/peft.ts";
import { failure, fileOf, put, temporaryFolder } from "./support.ts";

const root = temporaryFolder();
const GOLDEN = resolve(import.meta.dir, "../golden/adapters/tiny-mha-f32-qv-r8-rslora-final");
const goldenFields = JSON.parse(readFileSync(join(GOLDEN, "adapter_config.json"), "utf8"));

/** A folder whose adapter_config.json is PEFT's with `changes`; undefined leaves a field out. */
function adapter(changes: Record<string, unknown>): string {
  const dir = join(root, `${Bun.hash(JSON.stringify(changes, (_, value) => value ?? "absent"))}`);
  mkdirSync(dir, { recursive: true });
  put(dir, "adapter_config.json", JSON.stringify({ ...goldenFields, ...changes }));
  return dir;
}

describe("an adapter that PEFT wrote", () => {
  test("opens", () => {
    const { dir, config, weights } = openAdapter(GOLDEN);
    expect(dir).toBe(GOLDEN);
    expect(config).toEqual({
      r: 8,
      loraAlpha: 8,
      loraDropout: 0,
      targetModules: ["q_proj", "v_proj"],
      useRslora: true,
      baseModel: "tiny-mha-f32",
    });
    const names = [0, 1].flatMap((layer) =>
      ["q_proj", "v_proj"].flatMap((module) =>
        ["A", "B"].map(
          (side) => `base_model.model.model.layers.${layer}.self_attn.${module}.lora_${side}.weight`,
        ),
      ),
    );
    expect([...weights.tensors.keys()]).toEqual(names);
  });

  test("is written back to the byte", () => {
    const path = join(root, "adapter_config.json");
    writeAdapterConfig(path, readAdapterConfig(GOLDEN));
    expect(readFileSync(path, "utf8")).toBe(readFileSync(join(GOLDEN, "adapter_config.json"), "utf8"));
  });
});

test("what is written is read back", () => {
  const configs = [
    {
      r: 1,
      loraAlpha: 0.5,
      loraDropout: 0.05,
      targetModules: "model\\..*\\.(q|v)_proj",
      useRslora: false,
      baseModel: null,
    },
    {
      r: 64,
      loraAlpha: 16,
      loraDropout: 0,
      targetModules: ['"lora_dropout": 1,'],
      useRslora: true,
      baseModel: 'a"b',
    },
  ];
  for (const config of configs) {
    writeAdapterConfig(join(root, "adapter_config.json"), config);
    expect(readAdapterConfig(root)).toEqual(config);
  }
});

test("an adapter of an older PEFT, with fewer fields, and fields without effect", () => {
  const dir = join(root, "old");
  mkdirSync(dir);
  const fields = {
    peft_type: "LORA",
    r: 4,
    lora_alpha: 8,
    target_modules: ["q_proj"],
    bias: "none",
    fan_in_fan_out: false,
  };
  put(
    dir,
    "adapter_config.json",
    JSON.stringify({
      ...fields,
      runtime_config: { ephemeral_gpu_offload: false },
      init_lora_weights: "gaussian",
    }),
  );
  expect(readAdapterConfig(dir)).toMatchObject({ r: 4, loraDropout: 0, useRslora: false, baseModel: null });
});

describe("is refused by name:", () => {
  test.each<[string, unknown]>([
    ["peft_type", "IA3"],
    ["peft_type", undefined],
    ["task_type", "SEQ_CLS"],
    ["use_dora", true],
    ["use_qalora", true],
    ["use_bdlora", { target_modules_bd_a: [] }],
    ["modules_to_save", ["lm_head"]],
    ["rank_pattern", { q_proj: 4 }],
    ["alpha_pattern", { q_proj: 4 }],
    ["bias", "all"],
    ["lora_bias", true],
    ["layers_to_transform", ["0"]],
    ["layers_pattern", [1]],
    ["exclude_modules", [1]],
    ["layer_replication", [[0, 1]]],
    ["target_parameters", ["experts.gate_up_proj"]],
    ["trainable_token_indices", [1]],
    ["alora_invocation_tokens", [1]],
    ["init_lora_weights", "pissa_niter_4"],
    ["megatron_config", { tensor_model_parallel_size: 2 }],
    ["a_field_of_the_future", true],
    ["r", 0],
    ["r", 2.5],
    ["r", "8"],
    ["r", undefined],
    ["lora_alpha", -1],
    ["lora_alpha", null],
    ["lora_dropout", 1],
    ["target_modules", null],
    ["target_modules", []],
    ["target_modules", ["q_proj", 1]],
    ["use_rslora", 1],
    ["base_model_name_or_path", 7],
  ])("%s = %p", (name, value) => {
    const error = failure(() => readAdapterConfig(adapter({ [name]: value })));
    expect(error.code).toBe("format");
    expect(error.message).toContain(`adapter_config.json: ${name} `);
  });

  test("a field given twice", () => {
    const dir = join(root, "twice");
    mkdirSync(dir);
    put(dir, "adapter_config.json", '{"peft_type":"LORA","r":4,"r":8}');
    expect(failure(() => readAdapterConfig(dir)).message).toContain('duplicate key "r"');
  });
});

describe("openAdapter says what is missing:", () => {
  test("the config", () => {
    expect(failure(() => openAdapter(join(root, "nowhere"))).message).toContain(
      "give the folder of a PEFT adapter",
    );
  });

  test("the weights", () => {
    const dir = adapter({ revision: "w" });
    expect(failure(() => openAdapter(dir)).message).toContain("adapter_model.safetensors: no such file");
    put(dir, "adapter_model.bin", "");
    expect(failure(() => openAdapter(dir)).message).toContain(
      "holds adapter_model.bin; expected adapter_model.safetensors",
    );
    put(dir, "adapter_model.safetensors", fileOf("{}"));
    expect(openAdapter(dir).weights.tensors.size).toBe(0);
  });
});
