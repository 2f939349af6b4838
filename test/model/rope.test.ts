// What config.json says of RoPE, in every wording, against Transformers.

import { expect, test } from "bun:test";
import { parseConfig } from "../../src/model/config.ts";
import { configToJson } from "../../src/model/index.ts";
import { inverseFrequencies, ropeTables } from "../../src/model/rope.ts";
import golden from "../golden/rope.json" with { type: "json" };

const { base, cases } = golden;
const parse = (config: object) => parseConfig("x/config.json", { ...base, ...config });

test.each(Object.entries(cases))(
  "%s: frequencies and the tables' factor are Transformers'",
  (_, { config, inv, scale }) => {
    const parsed = parse(config);
    const frequencies = inverseFrequencies(parsed);
    expect(frequencies.length).toBe(inv.length);
    for (const [i, wanted] of inv.entries())
      expect(Math.abs(frequencies[i]! / wanted - 1)).toBeLessThan(6e-7);
    const { cosine, sine } = ropeTables(parsed, 2);
    expect(cosine[0]).toBe(Math.fround(scale));
    expect(sine[inv.length]).toBeCloseTo(Math.sin(inv[0]!) * scale, 6);
    expect(parse({ ...configToJson(parsed), max_position_embeddings: 9999 })).toMatchObject({
      ropeTheta: parsed.ropeTheta,
      ropeScaling: parsed.ropeScaling,
    });
  },
);

const linear = { rope_type: "linear", factor: 2 };

test.each([
  ["another kind", { rope_scaling: linear, rope_parameters: { rope_type: "default", rope_theta: 1e4 } }],
  ["another factor", { rope_scaling: linear, rope_parameters: { ...linear, factor: 4, rope_theta: 1e4 } }],
  [
    "another theta",
    { rope_scaling: { ...linear, rope_theta: 5e5 }, rope_parameters: { ...linear, rope_theta: 1e4 } },
  ],
])("rope_scaling beside rope_parameters with %s is refused", (_, config) => {
  expect(() => parse(config)).toThrow(
    /x\/config\.json: rope_scaling \(.*\) and rope_parameters \(.*\) say different things/,
  );
});

test("rope_scaling that says what rope_parameters says, or nothing, is taken", () => {
  const rope_parameters = { ...linear, rope_theta: 5e5 };
  for (const rope_scaling of [linear, { type: "linear", factor: 2 }, rope_parameters, {}, null])
    expect(parse({ rope_parameters, rope_scaling, rope_theta: 123 })).toMatchObject({
      ropeTheta: 5e5,
      ropeScaling: { type: "linear", factor: 2 },
    });
});

test.each(["dynamic", "longrope", "proportional", "su", 7])(
  "rope_type %p is refused by name",
  (rope_type) => {
    for (const name of ["rope_scaling", "rope_parameters"])
      expect(() => parse({ [name]: { rope_type, factor: 2 } })).toThrow(
        `x/config.json: ${name}: rope_type ${JSON.stringify(rope_type)} is not supported; default, linear, llama3 and yarn are`,
      );
  },
);
