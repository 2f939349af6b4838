import { expect, test } from "bun:test";
import { adapterLoraOptions, parseConfig } from "../../src/model/index.ts";

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

test("an adapter's regular expression picks modules; one that cannot be read is named", () => {
  const config = { r: 2, loraAlpha: 2, loraDropout: 0, useRslora: false, baseModel: null };
  const model = parseConfig("x", small);
  const options = (targetModules: string) =>
    adapterLoraOptions("runs/a", { ...config, targetModules }, model);
  expect(options(".*\\.(q|v)_proj").targetModules).toEqual(["q_proj", "v_proj"]);
  expect(() => options("(?i).*q_proj")).toThrow(
    'runs/a/adapter_config.json: target_modules is the regular expression "(?i).*q_proj"',
  );
});
