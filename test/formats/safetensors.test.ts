// What a valid safetensors file may look like, and that ours are the reference implementation's to the byte.
import { describe, expect, test } from "bun:test";
import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  writeSync,
} from "node:fs";
import { join, resolve } from "node:path";
import {
  parseSafetensorsHeader,
  readSafetensorsHeader,
  readTensorData,
  readTensorPieces,
  SAFETENSORS_DTYPES,
  type SafetensorsDType,
  type TensorSource,
  tensorBytes,
  writeSafetensors,
} from "../../src/formats/safetensors.ts";
import { entry, failure, fileOf, put, temporaryFolder } from "./support.ts";

const dir = temporaryFolder();
const ADAPTER = resolve(
  import.meta.dir,
  "../golden/adapters/tiny-mha-f32-qv-r8-rslora-final/adapter_model.safetensors",
);
const parse = (bytes: Uint8Array) => parseSafetensorsHeader("x", bytes, bytes.length);

describe("valid files load:", () => {
  test("offsets count from the file's start, in the header's order", () => {
    const header = `{${entry("z", "F32", [1, 2], 4, 12)},${entry("a", "I16", [2], 0, 4)}}`;
    const file = parse(fileOf(header, 12));
    const start = 8 + header.length;
    expect(file.dataStart).toBe(start);
    expect(file.fileBytes).toBe(start + 12);
    expect([...file.tensors.values()]).toEqual([
      { name: "z", dtype: "F32", shape: [1, 2], begin: start + 4, end: start + 12 },
      { name: "a", dtype: "I16", shape: [2], begin: start, end: start + 4 },
    ]);
  });

  test("no tensors, no metadata", () => {
    expect(parse(fileOf("{}")).tensors.size).toBe(0);
    expect(parse(fileOf('{"__metadata__":{}}')).metadata.size).toBe(0);
  });

  test("metadata null, and what nobody asks for in an entry, as the reference implementation does", () => {
    const extra = `"strides":[1],"more":{"x":[1,2,{"y":null}],"n":123456789012345678901234567890},"deep":${"[".repeat(120)}${"]".repeat(120)}`;
    const header = `{"__metadata__":null,"a":{"dtype":"U8",${extra},"shape":[2],"data_offsets":[0,2]}}`;
    const file = parse(fileOf(header, 2));
    expect(file.metadata.size).toBe(0);
    expect(file.tensors.get("a")?.shape).toEqual([2]);
  });

  test("padding with white space, and white space inside", () => {
    const header = `{ "a" :\n{"dtype"\t: "U8", "shape":[ 1 , 2 ] ,"data_offsets":[0,2]\r\n} }   \n\t `;
    expect(parse(fileOf(header, 2)).tensors.get("a")?.shape).toEqual([1, 2]);
  });

  test("scalars and tensors without elements, wherever those lie", () => {
    const parts = [
      entry("empty last", "F32", [3, 0], 6, 6),
      entry("scalar", "F32", [], 0, 4),
      entry("empty first", "F32", [0], 0, 0),
      entry("empty between", "BF16", [0, 7], 4, 4),
      entry("two", "U8", [2], 4, 6),
    ];
    const file = parse(fileOf(`{${parts}}`, 6));
    expect(file.tensors.get("scalar")?.shape).toEqual([]);
    expect(file.tensors.get("empty last")?.shape).toEqual([3, 0]);
    expect(file.tensors.size).toBe(5);
  });

  test("every dtype, with the size it has in the reference implementation", () => {
    const bits = [8, 4, 6, 6, 8, 8, 8, 8, 8, 8, 8, 16, 16, 16, 16, 32, 32, 32, 64, 64, 64, 64];
    expect(SAFETENSORS_DTYPES.map((dtype) => tensorBytes(dtype, [8]))).toEqual(bits);
    for (const [i, dtype] of SAFETENSORS_DTYPES.entries()) {
      expect(
        parse(fileOf(`{${entry("a", dtype, [8], 0, bits[i]!)}}`, bits[i]!)).tensors.get("a")?.dtype,
      ).toBe(dtype);
    }
  });

  test("names that JavaScript objects stumble over", () => {
    const names = [
      "__proto__",
      "constructor",
      "toString",
      "hasOwnProperty",
      "10",
      "9",
      "",
      "é\u{1f600}",
      'q"\\\n',
    ];
    const entries = names.map((name, i) => entry(name, "U8", [1], i, i + 1));
    const file = parse(
      fileOf(`{"__metadata__":{"__proto__":"m","constructor":"c"},${entries}}`, names.length),
    );
    expect([...file.tensors.keys()]).toEqual(names);
    expect([...file.metadata]).toEqual([
      ["__proto__", "m"],
      ["constructor", "c"],
    ]);
    expect(({} as Record<string, unknown>).dtype).toBeUndefined();
  });

  test("escaped names, surrogate pairs included", () => {
    const header = '{"\\u0061\\/\\ud83d\\ude00":{"dtype":"\\u0055\\u0038","shape":[],"data_offsets":[0,1]}}';
    expect(parse(fileOf(header, 1)).tensors.get("a/\u{1f600}")?.dtype).toBe("U8");
  });

  test("the largest sizes that fit in 2^53", () => {
    const header = fileOf(`{${entry("a", "U8", [9007199254740000], 0, 9007199254740000)}}`);
    const file = parseSafetensorsHeader("x", header, header.length + 9007199254740000);
    expect(file.tensors.get("a")?.end).toBe(header.length + 9007199254740000);
  });

  test("a file over 4 GiB, of which only the header and one tensor are read", () => {
    const big = 5 * 2 ** 30;
    const header = fileOf(
      `{${entry("big", "BF16", [big / 2], 0, big)},${entry("end", "U8", [3], big, big + 3)}}`,
    );
    const path = join(dir, "sparse.safetensors");
    const fd = openSync(path, "w");
    writeSync(fd, header);
    ftruncateSync(fd, header.length + big);
    writeSync(fd, Uint8Array.of(7, 8, 9), 0, 3, header.length + big);
    closeSync(fd);
    const file = readSafetensorsHeader(path);
    expect(file.tensors.get("big")?.end).toBe(header.length + big);
    expect(readTensorData(file, "end")).toEqual(Uint8Array.of(7, 8, 9));
  });
});

describe("readTensorData", () => {
  test("names a tensor that is not there", () => {
    const file = readSafetensorsHeader(
      put(dir, "one.safetensors", fileOf(`{${entry("a", "U8", [2], 0, 2)}}`, 2)),
    );
    const error = failure(() => readTensorData(file, "__proto__"));
    expect(error.code).toBe("tensor_not_found");
    expect(error.message).toContain('one.safetensors: no tensor "__proto__" among its 1');
  });

  test("says so where the file has become shorter", () => {
    const whole = fileOf(`{${entry("a", "U8", [2], 0, 2)}}`, 2);
    const file = readSafetensorsHeader(put(dir, "shrinks.safetensors", whole));
    put(dir, "shrinks.safetensors", whole.subarray(0, -1));
    expect(failure(() => readTensorData(file, "a")).message).toContain("2 bytes at");
  });
});

describe("writeSafetensors", () => {
  const source = (name: string, dtype: SafetensorsDType, shape: number[], fill = 1): TensorSource => ({
    name,
    dtype,
    shape,
    data: new Uint8Array(tensorBytes(dtype, shape) as number).fill(fill),
  });

  test("gives back the bytes of a file that PEFT wrote, in whatever order tensors come", () => {
    const golden = readSafetensorsHeader(ADAPTER);
    const tensors = [...golden.tensors.values()].reverse();
    const path = join(dir, "again.safetensors");
    writeSafetensors(
      path,
      tensors.map((t) => ({ ...t, data: () => readTensorData(golden, t.name) })),
      golden.metadata,
    );
    expect(readFileSync(path).equals(readFileSync(ADAPTER))).toBe(true);
  });

  test("orders by dtype, largest first, then by the bytes of the name", () => {
    const path = join(dir, "order.safetensors");
    const names = ["b", "\u{1f600}", "\uffee", "a", "B"];
    const tensors = [
      ...names.map((n) => source(n, "F16", [1])),
      source("u", "U64", [1]),
      source("t", "BOOL", [1]),
    ];
    writeSafetensors(path, [...tensors, source("f", "BF16", []), source("w", "F32", [2])], { format: "pt" });
    const file = readSafetensorsHeader(path);
    expect([...file.tensors.keys()]).toEqual(["u", "w", "f", "B", "a", "b", "\uffee", "\u{1f600}", "t"]);
    expect(file.dataStart % 8).toBe(0);
  });

  test("keeps every dtype, odd names, empty tensors, scalars and metadata", () => {
    const path = join(dir, "all.safetensors");
    const tensors = SAFETENSORS_DTYPES.map((dtype, i) => source(`t.${dtype}`, dtype, [4, 2], i));
    for (const name of ["__proto__", "constructor", "2", "1", 'q"\\\n\u0001'])
      tensors.push(source(name, "U8", [1], 99));
    tensors.push(source("empty", "F32", [0, 4]), source("scalar", "F64", [], 5));
    const metadata = new Map([
      ["b", "2"],
      ["__proto__", '"x"\n'],
      ["a", ""],
    ]);
    writeSafetensors(path, tensors, metadata);
    const file = readSafetensorsHeader(path);
    expect(file.tensors.size).toBe(tensors.length);
    for (const { name, dtype, shape, data } of tensors) {
      expect(file.tensors.get(name)).toMatchObject({ dtype, shape: [...shape] });
      expect(readTensorData(file, name)).toEqual(data as Uint8Array);
    }
    expect([...file.metadata]).toEqual([
      ["__proto__", '"x"\n'],
      ["a", ""],
      ["b", "2"],
    ]);
  });

  test("no tensors at all", () => {
    const path = join(dir, "none.safetensors");
    writeSafetensors(path, []);
    expect(readFileSync(path)).toEqual(Buffer.from([8, 0, 0, 0, 0, 0, 0, 0, ...Buffer.from("{}      ")]));
  });

  test("holds one lazy tensor at a time, in the order of the file", () => {
    const calls: string[] = [];
    const lazy = (name: string): TensorSource => ({
      name,
      dtype: "U8",
      shape: [1],
      data: () => {
        calls.push(name);
        return Uint8Array.of(1);
      },
    });
    writeSafetensors(join(dir, "lazy.safetensors"), [lazy("c"), lazy("a"), lazy("b")]);
    expect(calls).toEqual(["a", "b", "c"]);
  });

  test.each<[string, TensorSource[], string]>([
    [
      "too little data",
      [{ ...source("a", "F32", [2]), data: new Uint8Array(7) }],
      'tensor "a": F32 [2] takes 8 bytes, got 7',
    ],
    [
      "two of a name",
      [source("a", "F32", [2]), source("a", "U8", [2])],
      'tensor "a": two tensors have this name',
    ],
    ["the reserved name", [source("__metadata__", "U8", [2])], "the name is reserved"],
    ["half a byte", [{ ...source("a", "U8", []), dtype: "F4" }], "does not end on a whole byte"],
    [
      "a negative size",
      [{ ...source("a", "U8", []), shape: [-1] }],
      "shape [-1] must be of non-negative integers",
    ],
    [
      "a fraction",
      [{ ...source("a", "U8", []), shape: [0.5] }],
      "shape [0.5] must be of non-negative integers",
    ],
    [
      "too large a shape",
      [{ ...source("a", "U8", []), shape: [2 ** 30, 2 ** 30] }],
      "more than 2^53 elements",
    ],
    ["a dtype not known", [{ ...source("a", "U8", []), dtype: "F31" as "F32" }], "unknown dtype F31"],
    ["a lone surrogate", [{ ...source("a", "U8", []), name: "\ud800" }], "lone surrogate"],
  ])("refuses %s and leaves no file", (_, tensors, reason) => {
    const folder = join(dir, `refused-${Bun.hash(reason)}`);
    mkdirSync(folder);
    const error = failure(() => writeSafetensors(join(folder, "a.safetensors"), tensors));
    expect(error.code).toBe("invalid_tensor");
    expect(error.message).toContain(reason);
    expect(readdirSync(folder)).toEqual([]);
  });

  test("an error midway keeps the file that was there", () => {
    const folder = join(dir, "kept");
    mkdirSync(folder);
    const path = put(folder, "a.safetensors", "the old contents");
    const broken: TensorSource = {
      name: "b",
      dtype: "U8",
      shape: [1],
      data: () => {
        throw new RangeError("the device went away");
      },
    };
    expect(() => writeSafetensors(path, [source("a", "F32", [1000]), broken])).toThrow(
      "the device went away",
    );
    expect(readdirSync(folder)).toEqual(["a.safetensors"]);
    expect(readFileSync(path, "utf8")).toBe("the old contents");
  });

  test("in pieces: the same bytes; too few or too many are refused", () => {
    const folder = join(dir, "pieces");
    mkdirSync(folder);
    const bytes = Uint8Array.from({ length: 1000 }, (_, i) => i & 255);
    const a = (data: TensorSource["data"]): TensorSource => ({ name: "a", dtype: "F32", shape: [250], data });
    const b: TensorSource = { name: "b", dtype: "U8", shape: [1000], data: bytes };
    const path = join(folder, "a.safetensors");
    writeSafetensors(path, [a(bytes), b]);
    const whole = readFileSync(path);
    writeSafetensors(path, [a(() => [bytes.subarray(0, 3), bytes.subarray(3, 999), bytes.subarray(999)]), b]);
    expect(readFileSync(path)).toEqual(whole);
    for (const size of [999, 1001]) {
      const pieces = () => [new Uint8Array(500), new Uint8Array(size - 500)];
      const { message } = failure(() => writeSafetensors(path, [a(pieces), b]));
      expect(message).toContain(`F32 [250] takes 1000 bytes, got ${size}`);
    }
    expect(readFileSync(path)).toEqual(whole);
    expect(readdirSync(folder)).toEqual(["a.safetensors"]);
    const header = readSafetensorsHeader(path);
    const read = Array.from(readTensorPieces(header, "b", 300), (piece) => piece.slice());
    expect(read.map(({ length }) => length)).toEqual([300, 300, 300, 100]);
    expect(Buffer.concat(read)).toEqual(Buffer.from(bytes));
  });

  test("tensors in a list are asked for one after the other, and lie where they would alone", () => {
    const calls: string[] = [];
    const tensor = (name: string, dtype: "F32" | "U8"): TensorSource => ({
      ...{ name, dtype, shape: [2] },
      data: () => {
        calls.push(name);
        return new Uint8Array(dtype === "F32" ? 8 : 2).fill(name.charCodeAt(0));
      },
    });
    const names = ["d", "c", "b", "a"];
    const all = names.map((name, i) => tensor(name, i % 2 === 0 ? "U8" : "F32"));
    const [path, other] = [join(dir, "lists.safetensors"), join(dir, "lone.safetensors")];
    writeSafetensors(path, [all.slice(0, 2), all[2]!, all[3]!]);
    expect(calls).toEqual(["a", "d", "c", "b"]);
    calls.length = 0;
    writeSafetensors(other, all);
    expect(calls).toEqual(["a", "c", "b", "d"]);
    expect(readFileSync(path)).toEqual(readFileSync(other));
  });

  test("a folder that does not exist", () => {
    const error = failure(() => writeSafetensors(join(dir, "nowhere", "a.safetensors"), []));
    expect(error.code).toBe("io");
    expect(error.message).toContain("nowhere/a.safetensors cannot be written: no such file or folder");
  });

  test("a disk that takes no more: a sentence, and no partial file", () => {
    const folder = join(dir, "full");
    mkdirSync(folder);
    const module = resolve(import.meta.dir, "../../src/formats/safetensors.ts");
    const script = put(
      dir,
      "fill.ts",
      `import { writeSafetensors } from ${JSON.stringify(module)};
      try {
        writeSafetensors(${JSON.stringify(join(folder, "a.safetensors"))}, [
          { name: "a", dtype: "U8", shape: [200000], data: new Uint8Array(200000) },
        ]);
      } catch (error) {
        console.log(error.code, error.message);
      }`,
    );
    // A limit on file sizes fails a write as a full disk does, and needs no rights to set up.
    const run = Bun.spawnSync(["bash", "-c", 'ulimit -f 64; exec "$0" "$1"', process.execPath, script]);
    expect(run.stdout.toString()).toContain(
      "a.safetensors cannot be written: larger than the file system or the limit",
    );
    expect(run.stdout.toString()).toStartWith("io ");
    expect(readdirSync(folder)).toEqual([]);
    expect(existsSync(join(folder, "a.safetensors"))).toBe(false);
  });
});
