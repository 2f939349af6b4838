import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { openCheckpoint, writeShards } from "../../src/formats/checkpoint.ts";
import { describeTensors } from "../../src/formats/describe.ts";
import { readTensorData, type TensorSource } from "../../src/formats/safetensors.ts";
import { entry, failure, fileOf, put, temporaryFolder } from "./support.ts";

const root = temporaryFolder();
const INDEX = "model.safetensors.index.json";

function folder(name: string, files: Record<string, Uint8Array | string> = {}): string {
  const dir = join(root, name);
  mkdirSync(dir, { recursive: true });
  for (const [file, contents] of Object.entries(files)) put(dir, file, contents);
  return dir;
}

/** A safetensors file of one-byte tensors. */
const holding = (...names: string[]) =>
  fileOf(`{${names.map((name, i) => entry(name, "U8", [1], i, i + 1))}}`, names.length);
const index = (map: unknown) => JSON.stringify({ metadata: { total_size: 3 }, weight_map: map });
const tensor = (name: string, bytes: number): TensorSource => ({
  name,
  dtype: "U8",
  shape: [bytes],
  data: new Uint8Array(bytes).fill(name.charCodeAt(0)),
});

describe("openCheckpoint", () => {
  test("a single file, which wins over an index", () => {
    const dir = folder("single", { "model.safetensors": holding("a", "b"), [INDEX]: "not read" });
    const checkpoint = openCheckpoint(dir);
    expect(checkpoint.dir).toBe(dir);
    expect(checkpoint.files.map((file) => file.path)).toEqual([join(dir, "model.safetensors")]);
    expect([...checkpoint.tensors.keys()]).toEqual(["a", "b"]);
  });

  test("shards, through links as in the Hub's cache, and a tensor that the index forgot", () => {
    const blobs = folder("blobs", { "0123": holding("a", "__proto__") });
    const map = '{"weight_map":{"c":"y.safetensors","a":"x.safetensors","__proto__":"x.safetensors"}}';
    const dir = folder("shards", { "y.safetensors": holding("c", "forgotten"), [INDEX]: map });
    symlinkSync(join(blobs, "0123"), join(dir, "x.safetensors"));
    const { tensors, files } = openCheckpoint(dir);
    expect(files.map((file) => file.path)).toEqual([join(dir, "x.safetensors"), join(dir, "y.safetensors")]);
    expect([...tensors].map(([name, { file }]) => [name, file.path.at(-13)])).toEqual([
      ["a", "x"],
      ["__proto__", "x"],
      ["c", "y"],
      ["forgotten", "y"],
    ]);
  });

  const shard = { "x.safetensors": holding("a"), "y.safetensors": holding("b") };
  test.each<[string, Record<string, Uint8Array | string>, string]>([
    [
      "a missing shard",
      { [INDEX]: index({ a: "x.safetensors", b: "z.safetensors" }), ...shard },
      "names the shard z.safetensors, which is not in the folder",
    ],
    [
      "a tensor in another shard",
      { [INDEX]: index({ a: "y.safetensors", b: "y.safetensors" }), ...shard },
      'says that y.safetensors holds tensor "a", but it does not',
    ],
    [
      "a tensor in two shards",
      {
        [INDEX]: index({ a: "x.safetensors", b: "y.safetensors" }),
        ...shard,
        "y.safetensors": holding("b", "a"),
      },
      'tensor "a" is also in',
    ],
    [
      "a tensor named twice",
      { [INDEX]: '{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}', ...shard },
      'duplicate key "a"',
    ],
    [
      "a path that leads out",
      { [INDEX]: index({ a: "../shards/y.safetensors" }), ...shard },
      'is "../shards/y.safetensors"; expected the plain name',
    ],
    [
      "an absolute path",
      { [INDEX]: index({ a: "/etc/x.safetensors" }), ...shard },
      "expected the plain name",
    ],
    ["a backslash", { [INDEX]: index({ a: "..\\x.safetensors" }), ...shard }, "expected the plain name"],
    [
      "another kind of file",
      { [INDEX]: index({ a: "pytorch_model.bin" }), ...shard },
      "expected the plain name of a .safetensors file",
    ],
    [
      "a file name that is none",
      { [INDEX]: index({ a: 1 }), ...shard },
      'weight_map["a"] must be a file name, found number',
    ],
    ["no weight_map", { [INDEX]: "{}" }, "weight_map must be an object"],
    ["weight_map as an array", { [INDEX]: index([]) }, "weight_map must be an object"],
    ["an empty weight_map", { [INDEX]: index({}) }, "weight_map is empty"],
    ["an index that is an array", { [INDEX]: "[]" }, "expected a JSON object"],
    ["an index cut short", { [INDEX]: '{"weight_map":{"a":' }, "not valid JSON"],
    ["an index of deep arrays", { [INDEX]: "[".repeat(1_000_000) }, "nested more than 64 deep"],
    ["an index that is not UTF-8", { [INDEX]: Uint8Array.of(0x7b, 0xff, 0x7d) }, "not valid UTF-8"],
    [
      "a malformed shard",
      { [INDEX]: index({ a: "x.safetensors" }), "x.safetensors": fileOf("{", 0) },
      "x.safetensors: header: not valid JSON",
    ],
    [
      "PyTorch files alone",
      { "pytorch_model.bin": "", "config.json": "{}" },
      "only PyTorch files here (pytorch_model.bin)",
    ],
    ["a .pt file alone", { "consolidated.00.pth": "" }, "save_pretrained"],
    ["an adapter", { "adapter_model.safetensors": holding("a") }, "a PEFT adapter, not a model"],
    [
      "shards without an index",
      { "model-00001-of-00002.safetensors": holding("a") },
      "found model-00001-of-00002.safetensors without an index",
    ],
    [
      "nothing",
      {},
      "expected model.safetensors or model.safetensors.index.json with its shards; found neither",
    ],
  ])("refuses %s", (what, files, reason) => {
    const error = failure(() => openCheckpoint(folder(`bad ${what}`, files)));
    expect(error.message).toContain(reason);
    expect(error.message).toContain(`bad ${what}`);
  });

  test("a folder that is not there, and a file in its place", () => {
    expect(failure(() => openCheckpoint(join(root, "absent"))).message).toContain(
      "absent cannot be read: no such file or folder",
    );
    const file = put(folder("plain"), "file", "");
    expect(failure(() => openCheckpoint(file)).message).toContain("expected a model folder, found a file");
  });
});

describe("writeShards", () => {
  test("one file where all fits", () => {
    const dir = join(root, "out", "one");
    expect(writeShards(dir, [tensor("b", 4), tensor("a", 4)], 8, { format: "pt" })).toEqual([
      "model.safetensors",
    ]);
    expect(readdirSync(dir)).toEqual(["model.safetensors"]);
    expect(openCheckpoint(dir).files[0]?.metadata.get("format")).toBe("pt");
  });

  test("shards in the given order, and an index as Transformers writes it", () => {
    const dir = join(root, "out", "many");
    const files = writeShards(dir, [tensor("c", 4), tensor("a", 4), tensor("d", 20), tensor("b", 0)], 8);
    expect(files).toEqual([
      "model-00001-of-00003.safetensors",
      "model-00002-of-00003.safetensors",
      "model-00003-of-00003.safetensors",
      INDEX,
    ]);
    expect(readFileSync(join(dir, INDEX), "utf8")).toBe(`{
  "metadata": {
    "total_size": 28
  },
  "weight_map": {
    "a": "model-00001-of-00003.safetensors",
    "b": "model-00003-of-00003.safetensors",
    "c": "model-00001-of-00003.safetensors",
    "d": "model-00002-of-00003.safetensors"
  }
}
`);
    const { tensors } = openCheckpoint(dir);
    const { file } = tensors.get("d")!;
    expect(readTensorData(file, "d")).toEqual(new Uint8Array(20).fill(100));
  });

  test("tensors in a list stay in one shard", () => {
    const dir = join(root, "out", "lists");
    const list = [tensor("b", 4), tensor("c", 4), tensor("d", 4)];
    writeShards(dir, [tensor("a", 4), list, tensor("e", 4)], 10);
    const { tensors, files } = openCheckpoint(dir);
    expect([...tensors.values()].map(({ file }) => files.indexOf(file))).toEqual([0, 1, 1, 1, 2]);
  });

  test("replaces a checkpoint of another form, and leaves other files alone", () => {
    const dir = folder("out/again", { "config.json": "{}" });
    const all = [tensor("a", 4), tensor("b", 4), tensor("c", 4)];
    writeShards(dir, all, 4);
    writeShards(dir, all, 8);
    expect(readdirSync(dir).sort()).toEqual([
      "config.json",
      "model-00001-of-00002.safetensors",
      "model-00002-of-00002.safetensors",
      INDEX,
    ]);
    writeShards(dir, all.slice(0, 1), 8);
    expect(readdirSync(dir).sort()).toEqual(["config.json", "model.safetensors"]);
    writeShards(dir, all, 4);
    expect(existsSync(join(dir, "model.safetensors"))).toBe(false);
    expect(openCheckpoint(dir).tensors.size).toBe(3);
  });

  test("a failure midway leaves no checkpoint that would load half", () => {
    const dir = folder("out/half");
    const broken: TensorSource = { ...tensor("b", 4), data: new Uint8Array(3) };
    expect(failure(() => writeShards(dir, [tensor("a", 4), broken], 4)).message).toContain(
      "takes 4 bytes, got 3",
    );
    expect(readdirSync(dir)).toEqual(["model-00001-of-00002.safetensors"]);
    expect(() => openCheckpoint(dir)).toThrow("without an index");
  });

  test("refuses two tensors of one name before it writes anything", () => {
    const dir = join(root, "out", "twice");
    expect(failure(() => writeShards(dir, [tensor("a", 4), tensor("a", 4)], 4)).message).toContain(
      "two tensors",
    );
    expect(existsSync(dir)).toBe(false);
  });
});

describe("describeTensors", () => {
  test("a file", () => {
    const header = `{"__metadata__":{"__proto__":"x","format":"pt"},${entry("a", "BF16", [2, 3], 0, 12)},${entry("s", "F32", [], 12, 16)}}`;
    const listing = describeTensors(put(root, "listed.safetensors", fileOf(header, 16)));
    expect(JSON.stringify(listing)).toBe(
      '{"metadata":{"__proto__":"x","format":"pt"},"tensors":[' +
        '{"name":"a","dtype":"BF16","shape":[2,3],"bytes":12},{"name":"s","dtype":"F32","shape":[],"bytes":4}]}',
    );
  });

  test("folders: shards, an adapter", () => {
    const shards = folder("listed shards", {
      [INDEX]: index({ a: "x.safetensors", b: "y.safetensors" }),
      "x.safetensors": holding("a"),
      "y.safetensors": holding("b"),
    });
    expect(describeTensors(shards).tensors.map(({ name }) => name)).toEqual(["a", "b"]);
    const adapter = folder("listed adapter", { "adapter_model.safetensors": holding("l") });
    expect(describeTensors(adapter).tensors.map(({ name }) => name)).toEqual(["l"]);
  });

  test("a folder without tensors, and a path that is not there", () => {
    expect(() => describeTensors(folder("listed nothing"))).toThrow("no model weights");
    expect(() => describeTensors(join(root, "gone"))).toThrow("gone cannot be read: no such file");
    const inFile = join(put(root, "plain-file", ""), "x");
    expect(failure(() => describeTensors(inFile)).message).toContain("a part of the path is a file");
  });
});
