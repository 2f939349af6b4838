import { describe, expect, test } from "bun:test";
import { closeSync, mkdirSync, openSync, readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { FormatError } from "../../src/errors.ts";
import { openCheckpoint } from "../../src/formats/checkpoint.ts";
import { describeTensors } from "../../src/formats/describe.ts";
import {
  encodeQuantState,
  nf4Codebook,
  nf4DynamicMap,
  nf4Entries,
  nf4WeightOf,
  quantStateBytes,
} from "../../src/formats/nf4.ts";
import { readTensorData, type SafetensorsDType, writeSafetensors } from "../../src/formats/safetensors.ts";
import { failure, temporaryFolder } from "./support.ts";

const root = temporaryFolder();
const golden = join(import.meta.dir, "..", "golden");
const text = (value: string) => new TextEncoder().encode(value);

interface Part {
  dtype: SafetensorsDType;
  shape: number[];
  data: Uint8Array;
}

const zeros = (dtype: SafetensorsDType, shape: number[]): Part => {
  const size = shape.reduce((product, n) => product * n, 1);
  return {
    dtype,
    shape,
    data: new Uint8Array(size * (dtype === "U8" || dtype === "I8" ? 1 : dtype === "F32" ? 4 : 2)),
  };
};
const table = (values: Float32Array): Part => {
  return { dtype: "F32", shape: [values.length], data: new Uint8Array(values.slice().buffer) };
};
const json = (value: unknown): Part => {
  const data = typeof value === "string" ? text(value) : text(JSON.stringify(value));
  return { dtype: "U8", shape: [data.length], data };
};

const plainState = { quant_type: "nf4", blocksize: 64, dtype: "bfloat16", shape: [33, 1000] };
const nestedState = { nested_blocksize: 256, nested_dtype: "float32", nested_offset: 0.25 };

/** The parts of a weight w of 33 x 1000: 516 blocks, 3 of them of blocks. */
const plain: Record<string, Part> = {
  w: zeros("U8", [16500, 1]),
  "w.absmax": zeros("F32", [516]),
  "w.quant_map": table(nf4Codebook),
  "w.quant_state.bitsandbytes__nf4": json(plainState),
};
const double: Record<string, Part> = {
  ...plain,
  "w.absmax": zeros("U8", [516]),
  "w.nested_absmax": zeros("F32", [3]),
  "w.nested_quant_map": table(nf4DynamicMap),
  "w.quant_state.bitsandbytes__nf4": json({ ...plainState, ...nestedState }),
};

let folders = 0;
/** A checkpoint of these parts; null ones are left out. */
function checkpoint(parts: Record<string, Part | null>) {
  const dir = join(root, String(folders++));
  mkdirSync(dir);
  const present = Object.entries(parts).flatMap(([name, part]) => (part === null ? [] : [{ name, ...part }]));
  writeSafetensors(join(dir, "model.safetensors"), present);
  return openCheckpoint(dir);
}

test("the tables are bitsandbytes', to the bit", async () => {
  const { codebook, dynamic_map } = await Bun.file(join(golden, "nf4", "nf4.json")).json();
  expect([...nf4Codebook]).toEqual(codebook);
  expect([...nf4DynamicMap]).toEqual([...Float32Array.from(dynamic_map)]);
});

test("names: parts belong to a weight, which may be called like one", () => {
  expect(nf4WeightOf("a.weight.absmax")).toBe("a.weight");
  expect(nf4WeightOf("a.weight.quant_state.bitsandbytes__fp4")).toBe("a.weight");
  expect(nf4WeightOf("absmax.weight")).toBeNull();
  expect(nf4WeightOf("a.weight")).toBeNull();
  expect(nf4WeightOf(".absmax")).toBeNull();
});

describe("nf4Entries", () => {
  test("what Transformers and bitsandbytes wrote", () => {
    const { tensors } = openCheckpoint(join(golden, "models", "tiny-mha-nf4"));
    const stored = nf4Entries({ tensors }, "model.layers.0.mlp.down_proj.weight")!;
    expect(stored).toMatchObject({
      shape: [64, 176],
      dtype: "f32",
      codes: { entry: { dtype: "U8", shape: [5632, 1] } },
      absmax: { entry: { dtype: "U8", shape: [176] } },
      nested: { absmax: { entry: { shape: [1] } }, offset: 0.38866469264030457 },
    });
    expect(nf4Entries({ tensors }, "lm_head.weight")).toBeNull();
    expect(nf4Entries({ tensors }, "absent")).toBeNull();
  });

  test("with and without double quantization, an odd number of values, a last block that is short", () => {
    expect(nf4Entries(checkpoint(plain), "w")).toMatchObject({
      ...{ name: "w", shape: [33, 1000], dtype: "bf16", nested: null },
      bytes: 16500 + 4 * 516 + 64 + JSON.stringify(plainState).length,
    });
    expect(nf4Entries(checkpoint(double), "w")).toMatchObject({ nested: { offset: 0.25 } });
    const odd = {
      ...plain,
      w: zeros("U8", [41, 1]),
      "w.absmax": zeros("F32", [2]),
      "w.quant_state.bitsandbytes__nf4": json({ ...plainState, shape: [27, 3], dtype: "float16" }),
    };
    expect(nf4Entries(checkpoint(odd), "w")).toMatchObject({ shape: [27, 3], dtype: "f16" });
  });

  test("tables that another PyTorch has rounded, and JSON with spaces behind it", () => {
    const rounded = { ...double, "w.nested_quant_map": table(nf4DynamicMap.map((x) => x * (1 + 2e-7))) };
    const state = `${JSON.stringify({ ...plainState, ...nestedState })}   \n`;
    const parts = { ...rounded, "w.quant_state.bitsandbytes__nf4": json(state) };
    expect(nf4Entries(checkpoint(parts), "w")).not.toBeNull();
  });
});

const state = (change: Record<string, unknown>) => ({
  "w.quant_state.bitsandbytes__nf4": json({ ...plainState, ...nestedState, ...change }),
});
const swapped = nf4Codebook.slice().reverse();
const fp4 = Float32Array.of(
  0,
  0.005,
  0.67,
  1,
  0.33,
  0.5,
  0.17,
  0.25,
  0,
  -0.005,
  -0.67,
  -1,
  -0.33,
  -0.5,
  -0.17,
  -0.25,
);
const broken = nf4DynamicMap.with(100, Number.NaN);
const whole = JSON.stringify({ ...plainState, ...nestedState });

describe("refused", () => {
  test.each<[string, Record<string, Part | null>, string]>([
    ["no absmax", { "w.absmax": null }, "lacks w.absmax"],
    ["no quant_map", { "w.quant_map": null }, "lacks w.quant_map"],
    ["no quant_state", { "w.quant_state.bitsandbytes__nf4": null }, "lacks w.quant_state.bitsandbytes__nf4"],
    ["no nested_absmax", { "w.nested_absmax": null }, "lacks w.nested_absmax"],
    ["no nested_quant_map", { "w.nested_quant_map": null }, "lacks w.nested_quant_map"],
    ["codes too few", { w: zeros("U8", [16499, 1]) }, "w is U8 [16499,1]; expected U8 [16500,1]"],
    ["codes too many", { w: zeros("U8", [33000, 1]) }, "expected U8 [16500,1]"],
    ["codes in one dimension", { w: zeros("U8", [16500]) }, "expected U8 [16500,1]"],
    ["absmax too short", { "w.absmax": zeros("U8", [515]) }, "w.absmax is U8 [515]; expected U8 [516]"],
    ["absmax as in single quantization", { "w.absmax": zeros("F32", [516]) }, "expected U8 [516]"],
    ["absmax in 16 bits", { "w.absmax": zeros("BF16", [516]) }, "w.absmax is BF16 [516]"],
    ["nested_absmax too short", { "w.nested_absmax": zeros("F32", [2]) }, "expected F32 [3]"],
    ["nested_absmax in 16 bits", { "w.nested_absmax": zeros("F16", [3]) }, "expected F32 [3]"],
    ["a quant_map of 15", { "w.quant_map": table(nf4Codebook.slice(1)) }, "expected F32 [16]"],
    ["a quant_map in 16 bits", { "w.quant_map": zeros("BF16", [16]) }, "expected F32 [16]"],
    [
      "a quant_map in another order",
      { "w.quant_map": table(swapped) },
      "w.quant_map is not the NF4 codebook",
    ],
    ["fp4's quant_map", { "w.quant_map": table(fp4) }, "entry 0 is 0, expected -1"],
    ["a quant_map of zeros", { "w.quant_map": zeros("F32", [16]) }, "is not the NF4 codebook"],
    ["a nested_quant_map of 16", { "w.nested_quant_map": table(nf4Codebook) }, "expected F32 [256]"],
    [
      "a nested_quant_map with a NaN",
      { "w.nested_quant_map": table(broken) },
      "is not bitsandbytes' dynamic map: entry 100 is NaN",
    ],
    ["fp4's quant_state", { "w.quant_state.bitsandbytes__fp4": json("{}") }, "quantized to fp4"],
    ["packed in bfloat16", { w: zeros("BF16", [8250, 1]) }, "packed in BF16 (bnb_4bit_quant_storage"],
    ["a plain weight with parts", { w: zeros("F32", [33, 1000]) }, "packed in F32"],
    ["quant_type fp4", state({ quant_type: "fp4" }), 'quant_type is "fp4", where "nf4" is all'],
    [
      "blocks of 128",
      state({ blocksize: 128 }),
      "blocksize is 128, where 64 is all that neftune reads; quantize",
    ],
    ["a block size as text", state({ blocksize: "64" }), 'blocksize is "64"'],
    ["no block size", state({ blocksize: undefined }), "blocksize is missing"],
    ["nested blocks of 128", state({ nested_blocksize: 128 }), "nested_blocksize is 128"],
    ["nested values in bfloat16", state({ nested_dtype: "bfloat16" }), 'nested_dtype is "bfloat16"'],
    [
      "an unknown dtype",
      state({ dtype: "float64" }),
      'dtype is "float64"; expected float32, bfloat16 or float16',
    ],
    ["a dtype that is an object's", state({ dtype: "__proto__" }), 'dtype is "__proto__"'],
    ["no shape", state({ shape: undefined }), "shape is missing; expected the two sizes of a matrix"],
    ["a shape of three", state({ shape: [33, 100, 10] }), "shape is [33,100,10]"],
    ["a negative shape", state({ shape: [-33, -1000] }), "shape is [-33,-1000]"],
    ["an empty shape", state({ shape: [0, 1000] }), "shape is [0,1000]"],
    ["a shape with a fraction", state({ shape: [16.5, 2000] }), "shape is [16.5,2000]"],
    ["a shape past all memory", state({ shape: [2 ** 40, 2 ** 40] }), "shape is"],
    ["another shape", state({ shape: [33, 1001] }), "its quant_state gives the shape [33,1001]"],
    ["no offset", state({ nested_offset: undefined }), "but not nested_offset"],
    [
      "nothing nested but the offset",
      state({ nested_dtype: undefined, nested_blocksize: undefined }),
      "but not",
    ],
    ["an offset as text", state({ nested_offset: "0.25" }), 'nested_offset is "0.25"; expected a float32'],
    ["an offset that is null", state({ nested_offset: null }), "nested_offset is null"],
    ["an offset past float32", state({ nested_offset: 1e39 }), "expected a float32"],
    [
      "nested parts without nested fields",
      { ...plain, "w.nested_absmax": zeros("F32", [3]) },
      "holds w.nested_absmax, but the quant_state has no nested_ fields",
    ],
    [
      "an offset that is NaN",
      { "w.quant_state.bitsandbytes__nf4": json(whole.replace("0.25", "NaN")) },
      "not valid JSON",
    ],
    ["an empty quant_state", { "w.quant_state.bitsandbytes__nf4": json("") }, "not valid JSON"],
    [
      "a quant_state that is a list",
      { "w.quant_state.bitsandbytes__nf4": json("[]") },
      "expected a JSON object",
    ],
    [
      "a field twice",
      { "w.quant_state.bitsandbytes__nf4": json(whole.replace("{", '{"blocksize":64,')) },
      'duplicate key "blocksize"',
    ],
    [
      "a quant_state of floats",
      { "w.quant_state.bitsandbytes__nf4": zeros("F32", [10]) },
      "expected the bytes of a JSON text",
    ],
    [
      "a quant_state of two dimensions",
      { "w.quant_state.bitsandbytes__nf4": zeros("U8", [10, 2]) },
      "expected the bytes of a JSON text",
    ],
    [
      "a quant_state of a megabyte",
      { "w.quant_state.bitsandbytes__nf4": json(whole.padEnd(2 ** 20)) },
      "expected the bytes of a JSON text",
    ],
    [
      "a quant_state that is not UTF-8",
      {
        "w.quant_state.bitsandbytes__nf4": { dtype: "U8", shape: [3], data: Uint8Array.of(0x7b, 0xff, 0x7d) },
      },
      "not valid UTF-8",
    ],
  ])("%s", (_, change, reason) => {
    // "plain" parts replace all of the double ones.
    const all = "w.nested_absmax" in change && "w.quant_map" in change ? change : { ...double, ...change };
    const opened = checkpoint(all);
    const { message } = failure(() => nf4Entries(opened, "w"));
    expect(message).toContain(reason);
    expect(message).toStartWith(join(opened.dir, "model.safetensors"));
  });

  test("a quant_state cut short anywhere", () => {
    for (let end = 0; end < whole.length; end++) {
      const parts = { ...double, "w.quant_state.bitsandbytes__nf4": json(whole.slice(0, end)) };
      const opened = checkpoint(parts);
      expect(failure(() => nf4Entries(opened, "w")).message).toContain("the file is damaged");
    }
  });

  test("bytes changed at random: refused, or read as a weight of the same sizes", () => {
    const opened = checkpoint(double);
    const { file, entry: place } = opened.tensors.get("w.quant_state.bitsandbytes__nf4")!;
    const bytes = readFileSync(file.path);
    const fd = openSync(file.path, "r+");
    let refused = 0;
    for (let i = 0; i < 2000; i++) {
      const at = place.begin + Math.floor(Math.random() * (place.end - place.begin));
      writeSync(fd, Uint8Array.of(Math.floor(Math.random() * 256)), 0, 1, at);
      try {
        const stored = nf4Entries(opened, "w")!;
        expect(Math.ceil((stored.shape[0] * stored.shape[1]) / 2)).toBe(16500);
      } catch (error) {
        expect(error).toBeInstanceOf(FormatError);
        refused++;
      }
      writeSync(fd, bytes, at, 1, at);
    }
    closeSync(fd);
    expect(refused).toBeGreaterThan(1000);
  });

  test.each<[string, Record<string, Part>, string]>([
    [
      "int8",
      { "a.weight": zeros("I8", [4, 4]), "a.SCB": zeros("F32", [4]) },
      "quantized to int8 (bitsandbytes)",
    ],
    ["bytes of no known meaning", { "a.weight": zeros("U8", [4, 4]) }, "a.weight is U8 without"],
    ["signed bytes", { "a.weight": zeros("I8", [4, 4]) }, "a.weight is I8 without"],
  ])("a weight quantized in another way: %s", (_, parts, reason) => {
    const opened = checkpoint(parts);
    expect(failure(() => nf4Entries(opened, "a.weight")).message).toContain(reason);
  });
});

describe("encodeQuantState", () => {
  test("bitsandbytes' text, without double quantization to the byte", () => {
    const { tensors } = openCheckpoint(join(golden, "models", "tiny-mha-nf4"));
    const name = "model.layers.0.mlp.up_proj.weight";
    const { shape, dtype, nested } = nf4Entries({ tensors }, name)!;
    const { file } = tensors.get(name)!;
    const theirs = new TextDecoder().decode(readTensorData(file, `${name}.quant_state.bitsandbytes__nf4`));
    const ours = (nestedOffset: number | null) =>
      new TextDecoder().decode(encodeQuantState({ shape, dtype, nestedOffset }));
    expect(ours(nested!.offset).trimEnd()).toBe(theirs);
    expect(ours(null)).toBe(theirs.replace(/, "nested_.*/, "}"));
  });

  test("its length does not depend on the offset, and it is read back as it was", () => {
    const offsets = [
      0, 1, 0.38866469264030457, -1.401298464324817e-45, -3.4028234663852886e38, 1e21, 123456.7890625,
    ];
    for (const nestedOffset of offsets.map(Math.fround)) {
      const data = encodeQuantState({ shape: [33, 1000], dtype: "bf16", nestedOffset });
      expect(data.length).toBe(quantStateBytes([33, 1000], "bf16", true));
      const parts = {
        ...double,
        "w.quant_state.bitsandbytes__nf4": { dtype: "U8", shape: [data.length], data } as Part,
      };
      expect(nf4Entries(checkpoint(parts), "w")?.nested?.offset).toBe(nestedOffset);
    }
  });
});

describe("describeTensors", () => {
  test("a weight in NF4 beside its parts; of a shard with some of them, the parts", () => {
    const { dir } = checkpoint(double);
    const listing = describeTensors(dir);
    expect(listing.tensors).toHaveLength(6);
    const { bytes } = nf4Entries(openCheckpoint(dir), "w")!;
    expect(listing.nf4).toEqual([
      { name: "w", dtype: "bf16", shape: [33, 1000], bytes, double_quantization: true },
    ]);
    const half = join(checkpoint({ ...double, "w.nested_absmax": null }).dir, "model.safetensors");
    expect(describeTensors(half).nf4).toBeUndefined();
    expect(describeTensors(half).tensors).toHaveLength(5);
  });

  test("one that is malformed is refused; what is quantized in another way is listed", () => {
    const { dir } = checkpoint({ ...double, ...state({ blocksize: 128 }) });
    expect(failure(() => describeTensors(dir)).message).toContain("blocksize is 128");
    const int8 = checkpoint({ "a.weight": zeros("I8", [4, 4]), "a.SCB": zeros("F32", [4]) }).dir;
    expect(describeTensors(int8).tensors).toHaveLength(2);
  });
});
