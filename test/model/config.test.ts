import { expect, test } from "bun:test";
import { parseConfig } from "../../src/model/index.ts";

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
const quantised = (quantization_config: unknown) =>
  parseConfig("x/config.json", { ...small, quantization_config }).quantization;

test("bitsandbytes' nf4 is read, however Transformers has written it", () => {
  expect(quantised(undefined)).toBeNull();
  expect(quantised(null)).toBeNull();
  const { quant_method: _, ...early } = nf4;
  const late = { _load_in_4bit: true, _load_in_8bit: false, llm_int8_skip_modules: ["lm_head"] };
  const storage = { bnb_4bit_quant_storage: "uint8", bnb_4bit_compute_dtype: "bfloat16" };
  for (const config of [nf4, early, { ...nf4, ...late, ...storage, bnb_4bit_use_double_quant: true }])
    expect(quantised(config)).toBe("nf4");
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
])("quantised with %s: refused by name, with the remedy", (_, config, reason) => {
  expect(() => quantised(config)).toThrow("x/config.json: quantization_config");
  expect(() => quantised(config)).toThrow(reason);
  if (reason.startsWith("quant_method")) expect(() => quantised(config)).toThrow("--quantization nf4");
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
