import { expect, test } from "bun:test";
import { configToJson, layerOf, parseConfig, tensorSpecs } from "../../src/model/index.ts";

const small = {
  model_type: "llama",
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  vocab_size: 32,
};

test.each([
  ["partial_rotary_factor", { partial_rotary_factor: 0.5 }],
  [
    "rope_parameters: partial_rotary_factor",
    { rope_parameters: { rope_type: "default", rope_theta: 1e4, partial_rotary_factor: 0.5 } },
  ],
  ["head_dim 258", { head_dim: 258 }],
  ["head_dim 512", { hidden_size: 2048 }],
  ["head_dim must be even", { head_dim: 15 }],
])("%s is refused by name", (name, change) => {
  expect(() => parseConfig("x/config.json", { ...small, ...change })).toThrow(`x/config.json: ${name}`);
});

test("what changes nothing is taken: a rotary factor of 1, the widest head", () => {
  const rope_parameters = { rope_type: "default", rope_theta: 5e5, partial_rotary_factor: 1 };
  expect(parseConfig("x", { ...small, head_dim: 256, rope_parameters })).toMatchObject({
    headDim: 256,
    ropeTheta: 5e5,
  });
});

const nf4 = { quant_method: "bitsandbytes", load_in_4bit: true, bnb_4bit_quant_type: "nf4" };
const quantized = (quantization_config: unknown) =>
  parseConfig("x/config.json", { ...small, quantization_config }).quantization;

test("bitsandbytes' nf4 is read, however Transformers has written it", () => {
  expect(quantized(undefined)).toBeNull();
  expect(quantized(null)).toBeNull();
  const { quant_method: _, ...early } = nf4;
  const late = { _load_in_4bit: true, _load_in_8bit: false, llm_int8_skip_modules: ["lm_head"] };
  const storage = { bnb_4bit_quant_storage: "uint8", bnb_4bit_compute_dtype: "bfloat16" };
  for (const config of [nf4, early, { ...nf4, ...late, ...storage, bnb_4bit_use_double_quant: true }])
    expect(quantized(config)).toBe("nf4");
});

test.each([
  ["fp4", { ...nf4, bnb_4bit_quant_type: "fp4" }, 'bnb_4bit_quant_type "fp4"'],
  [
    "no type, which is fp4",
    { quant_method: "bitsandbytes", load_in_4bit: true },
    'bnb_4bit_quant_type "fp4"',
  ],
  ["int8", { quant_method: "bitsandbytes", load_in_8bit: true }, "load_in_8bit (int8)"],
  ["bitsandbytes without bits", { quant_method: "bitsandbytes" }, "without load_in_4bit"],
  ["GPTQ", { quant_method: "gptq", bits: 4, group_size: 128 }, 'quant_method "gptq"'],
  ["AWQ", { quant_method: "awq", bits: 4 }, 'quant_method "awq"'],
  ["fp8", { quant_method: "fp8" }, 'quant_method "fp8"'],
  ["compressed tensors", { quant_method: "compressed-tensors" }, 'quant_method "compressed-tensors"'],
  ["no method", { bits: 4 }, "a missing quant_method"],
  ["other storage", { ...nf4, bnb_4bit_quant_storage: "bfloat16" }, 'bnb_4bit_quant_storage "bfloat16"'],
  ["another block size", { ...nf4, bnb_4bit_blocksize: 128 }, "bnb_4bit_blocksize 128"],
  ["a flag that is none", { ...nf4, load_in_4bit: "yes" }, "load_in_4bit must be true or false"],
  ["a list", [nf4], "must be a JSON object"],
])("quantized with %s: refused by name, with the remedy", (_, config, reason) => {
  expect(() => quantized(config)).toThrow("x/config.json: quantization_config");
  expect(() => quantized(config)).toThrow(reason);
  if (reason.startsWith("quant_method")) expect(() => quantized(config)).toThrow("--quantization nf4");
});

test.each(["num_key_value_heads", "rope_scaling", "quantization_config", "unknown"])(
  "%s nested without measure is refused, not walked",
  (field) => {
    let value: unknown = 0;
    for (let depth = 0; depth < 100_000; depth++) value = [value];
    expect(() => parseConfig("x/config.json", { ...small, [field]: value })).toThrow(
      "x/config.json: nested more than 64 deep",
    );
  },
);

const kin = (model_type: string, changes: Record<string, unknown> = {}) =>
  parseConfig("x/config.json", { ...small, model_type, ...changes });
const windows = (config: ReturnType<typeof kin>) => [0, 1].map((layer) => layerOf(config, layer).window);

test("fields that a Mistral, Qwen2 or Qwen3 leaves out are what Transformers takes for them", () => {
  const heads = { num_attention_heads: 32, hidden_size: 2048 };
  expect(kin("mistral", heads)).toMatchObject({
    numKeyValueHeads: 8,
    headDim: 64,
    maxPositionEmbeddings: 131072,
  });
  expect(kin("qwen2", heads)).toMatchObject({
    numKeyValueHeads: 32,
    headDim: 64,
    maxPositionEmbeddings: 32768,
  });
  expect(kin("qwen3", heads)).toMatchObject({ numKeyValueHeads: 32, headDim: 128 });
  expect(kin("mistral", { ...heads, num_key_value_heads: null }).numKeyValueHeads).toBe(32);
});

test.each([
  ["mistral", { num_key_value_heads: 2 }, [4096, 4096]],
  ["mistral", { num_key_value_heads: 2, sliding_window: 16 }, [16, 16]],
  ["mistral", { num_key_value_heads: 2, sliding_window: null }, [null, null]],
  ["qwen2", { sliding_window: 8, max_window_layers: 0 }, [null, null]],
  ["qwen2", { use_sliding_window: true, sliding_window: 8, max_window_layers: 1 }, [null, 8]],
  ["qwen2", { use_sliding_window: true, sliding_window: 8 }, [null, null]],
  ["qwen3", { use_sliding_window: true, max_window_layers: 0 }, [4096, 4096]],
  ["qwen3", { use_sliding_window: true, sliding_window: null, max_window_layers: 0 }, [null, null]],
  [
    "qwen3",
    { use_sliding_window: true, sliding_window: 8, layer_types: ["sliding_attention", "full_attention"] },
    [8, null],
  ],
])("%s with %p has the windows %p", (model_type, changes, expected) => {
  const config = kin(model_type, { num_key_value_heads: 4, ...changes });
  expect(windows(config)).toEqual(expected);
  expect(windows(parseConfig("again", configToJson(config)))).toEqual(expected);
});

test.each([
  ["llama", { sliding_window: 16 }, "sliding_window = 16"],
  ["mistral", { num_key_value_heads: 2, sliding_window: 0 }, "sliding_window must be a whole number above 0"],
  ["qwen2", { layer_types: ["sliding_attention", "full_attention"] }, "layer_types names sliding_attention"],
  ["qwen2", { layer_types: ["full_attention"] }, "layer_types must be a list of 2"],
  ["qwen3", { layer_types: ["full_attention", "chunked_attention"] }, 'layer_types: "chunked_attention"'],
  ["qwen3", { use_sliding_window: true, max_window_layers: -1 }, "max_window_layers"],
  ["gemma", {}, "model_type must be one of llama, mistral, qwen2, qwen3"],
])("%s with %p is refused", (model_type, changes, message) => {
  expect(() => kin(model_type, { num_key_value_heads: 4, ...changes })).toThrow(`x/config.json: ${message}`);
});

test("biases and norms of heads are those of each kind", () => {
  const names = (model_type: string, changes = {}) =>
    tensorSpecs(kin(model_type, { num_key_value_heads: 2, num_hidden_layers: 1, ...changes })).map(
      ({ name }) => name,
    );
  const biases = (...given: Parameters<typeof names>) =>
    names(...given)
      .filter((name) => name.endsWith(".bias"))
      .map((name) => name.split(".").at(-2));
  const all = { attention_bias: true, mlp_bias: true };
  expect(biases("llama", all)).toEqual([
    ...["q_proj", "k_proj", "v_proj", "o_proj"],
    ...["gate_proj", "up_proj", "down_proj"],
  ]);
  expect(biases("mistral", all)).toEqual([]);
  expect(biases("qwen2")).toEqual(["q_proj", "k_proj", "v_proj"]);
  expect(biases("qwen3")).toEqual([]);
  expect(biases("qwen3", all)).toEqual(["q_proj", "k_proj", "v_proj", "o_proj"]);
  expect(names("qwen3").filter((name) => /[qk]_norm/.test(name))).toEqual([
    "model.layers.0.self_attn.q_norm.weight",
    "model.layers.0.self_attn.k_norm.weight",
  ]);
});
