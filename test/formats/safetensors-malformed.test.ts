// Every way in which a safetensors file can be wrong, and the sentence that says so.
import { describe, expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { FormatError } from "../../src/errors.ts";
import { parseSafetensorsHeader, readSafetensorsHeader } from "../../src/formats/safetensors.ts";
import { entry, failure, fileOf, put, temporaryFolder } from "./support.ts";

const dir = temporaryFolder();
const bytes = (...values: number[]) => Uint8Array.from(values);
const textBytes = (text: string) => new TextEncoder().encode(text);
/** An F32 tensor "a" with these raw texts as shape and offsets. */
const raw = (shape: string, offsets: string) =>
  `{"a":{"dtype":"F32","shape":${shape},"data_offsets":${offsets}}}`;
const good = entry("a", "F32", [2], 0, 8);

// [what, file, the reason that must be in the message]
const MALFORMED: [string, Uint8Array, string][] = [
  ["an empty file", bytes(), "too short for a safetensors file: 0 bytes"],
  ["seven bytes", bytes(1, 0, 0, 0, 0, 0, 0), "too short for a safetensors file: 7 bytes"],
  ["header length 0", fileOf(""), "header length is 0"],
  [
    "header past the end",
    fileOf("{}", 0, 3n),
    "header length is 3 bytes, but only 2 follow: the file is truncated",
  ],
  [
    "header over 100 MB",
    fileOf("{}", 0, 100_000_001n),
    "header length is 100000001 bytes, over the limit of 100000000",
  ],
  [
    "header of 2^64 - 1",
    fileOf("{}", 0, 2n ** 64n - 1n),
    "header length is 18446744073709551615 bytes, over the limit",
  ],
  [
    "a Git LFS pointer",
    textBytes(`version https://git-lfs.github.com/spec/v1\noid sha256:${"0".repeat(64)}\nsize 5000000000\n`),
    "is a Git LFS pointer, not the file itself; run git lfs pull",
  ],
  [
    "a further key nested too deep",
    fileOf(`{"a":{"x":${"[".repeat(200)}${"]".repeat(200)}}}`),
    'tensor "a": not valid JSON: nested more than',
  ],
  ["a further key twice", fileOf('{"a":{"x":1,"x":1}}'), 'tensor "a": duplicate key "x"'],
  ["a pickle", textBytes("PK\x03\x04archive/data.pkl"), "probably not a safetensors file"],
  ["a byte that is not UTF-8", fileOf(bytes(0x7b, 0x22, 0xff, 0x22, 0x7d)), "header: not valid UTF-8"],
  ["an overlong encoding", fileOf(bytes(0x7b, 0x22, 0xc0, 0x80, 0x22, 0x7d)), "header: not valid UTF-8"],
  [
    "an encoded surrogate",
    fileOf(bytes(0x7b, 0x22, 0xed, 0xa0, 0x80, 0x22, 0x7d)),
    "header: not valid UTF-8",
  ],
  ["a byte order mark", fileOf("\ufeff{}"), 'must start with "{"'],
  ["a leading space", fileOf(" {}"), 'must start with "{"'],
  ["an array", fileOf("[]"), 'must start with "{"'],
  ["an open object", fileOf('{"a"'), 'expected ":", found the end'],
  ["an open string", fileOf('{"a'), "a string without its closing quote"],
  ["a trailing comma", fileOf(`{${good},}`, 8), 'expected "\\"", found "}"'],
  ["a missing comma", fileOf(`{${good}${good}}`, 8), 'expected "," or "}", found "\\""'],
  ["trailing garbage", fileOf(`{${good}}x`, 8), 'expected the end, found "x"'],
  ["a second object", fileOf("{} {}"), 'expected the end, found "{"'],
  ["padding with zeros", fileOf("{}\0\0"), 'expected the end, found "\\u0000"'],
  ["a control character in a name", fileOf('{"a\nb":{}}'), "unescaped control character"],
  ["an unknown escape", fileOf('{"\\x":{}}'), 'the escape "\\\\x"'],
  ["a short \\u", fileOf('{"\\u12":{}}'), "the escape"],
  ["a lone surrogate", fileOf('{"\\ud800":{}}'), "lone surrogate"],
  ["a comment", fileOf("{/**/}"), 'found "/"'],

  ["one tensor twice", fileOf(`{${good},${good}}`, 8), 'duplicate key "a"'],
  [
    "one tensor twice, once escaped",
    fileOf(`{${good},${good.replace("a", "\\u0061")}}`, 8),
    'duplicate key "a"',
  ],
  ["__proto__ twice", fileOf('{"__proto__":1,"__proto__":1}'), 'tensor "__proto__" must be an object'],
  ["dtype twice", fileOf('{"a":{"dtype":"F32","dtype":"F32"}}'), 'tensor "a": duplicate key "dtype"'],
  ["__metadata__ twice", fileOf('{"__metadata__":{},"__metadata__":{}}'), 'duplicate key "__metadata__"'],
  ["a metadata key twice", fileOf('{"__metadata__":{"k":"1","k":"2"}}'), '__metadata__: duplicate key "k"'],

  ["no dtype", fileOf('{"a":{"shape":[0],"data_offsets":[0,0]}}'), 'tensor "a": dtype is missing'],
  ["no shape", fileOf('{"a":{"dtype":"F32","data_offsets":[0,0]}}'), 'tensor "a": shape is missing'],
  ["no offsets", fileOf('{"a":{"dtype":"F32","shape":[0]}}'), 'tensor "a": data_offsets is missing'],
  ["an empty entry", fileOf('{"a":{}}'), 'tensor "a": dtype is missing'],
  ["a further key alone", fileOf('{"a":{"strides":[1]}}'), 'tensor "a": dtype is missing'],
  ["__proto__ as a key", fileOf('{"a":{"__proto__":{"dtype":"F32"}}}'), 'tensor "a": dtype is missing'],
  ["an entry that is null", fileOf('{"a":null}'), 'tensor "a" must be an object, found null'],
  [
    "an entry that is an array",
    fileOf('{"a":["F32",[0],[0,0]]}'),
    'tensor "a" must be an object, found an array',
  ],
  [
    "an unknown dtype",
    fileOf(`{${entry("a", "F31", [2], 0, 8)}}`, 8),
    'tensor "a": unknown dtype "F31"; known are BOOL',
  ],
  ["a lower-case dtype", fileOf(`{${entry("a", "f32", [2], 0, 8)}}`, 8), 'unknown dtype "f32"'],
  [
    "constructor as dtype",
    fileOf(`{${entry("a", "constructor", [2], 0, 8)}}`, 8),
    'unknown dtype "constructor"',
  ],
  ["a number as dtype", fileOf('{"a":{"dtype":32}}'), "dtype must be a string, found a number"],

  [
    "a number as shape",
    fileOf(raw("2", "[0,8]"), 8),
    'tensor "a": shape must be an array of non-negative integers, found a number',
  ],
  [
    "null as shape",
    fileOf(raw("null", "[0,8]"), 8),
    "shape must be an array of non-negative integers, found null",
  ],
  ["a string in shape", fileOf(raw('["2"]', "[0,8]"), 8), "found a string at index 0"],
  ["true in shape", fileOf(raw("[1,true]", "[0,8]"), 8), "found a boolean at index 1"],
  ["an array in shape", fileOf(raw("[[2]]", "[0,8]"), 8), "found an array at index 0"],
  ["a negative size", fileOf(raw("[-2]", "[0,8]"), 8), "found -2 at index 0"],
  ["minus zero", fileOf(raw("[-0]", "[0,0]")), "found -0 at index 0"],
  ["a fraction", fileOf(raw("[2.5]", "[0,8]"), 8), "found 2.5 at index 0"],
  ["a whole float", fileOf(raw("[2.0]", "[0,8]"), 8), "found 2.0 at index 0"],
  ["an exponent", fileOf(raw("[2e0]", "[0,8]"), 8), "found 2e0 at index 0"],
  ["a leading zero", fileOf(raw("[02]", "[0,8]"), 8), '"02" is not a number'],
  ["a plus sign", fileOf(raw("[+2]", "[0,8]"), 8), 'expected a value, found "+"'],
  ["hexadecimal", fileOf(raw("[0x2]", "[0,8]"), 8), '"0x2" is not a number'],
  ["NaN", fileOf(raw("[NaN]", "[0,8]"), 8), 'expected a value, found "N"'],
  [
    "a size of 2^53",
    fileOf(raw("[9007199254740992]", "[0,8]"), 8),
    "shape has the number 9007199254740992, which is 2^53 or more",
  ],
  ["a size of 2^53 + 1", fileOf(raw("[9007199254740993]", "[0,8]"), 8), "which is 2^53 or more"],
  ["a size of 400 digits", fileOf(raw(`[${"9".repeat(400)}]`, "[0,8]"), 8), "which is 2^53 or more"],
  [
    "more elements than 2^53",
    fileOf(raw("[94906267,94906267]", "[0,8]"), 8),
    'tensor "a": shape [94906267,94906267] has more than 2^53 elements',
  ],
  [
    "a product that wraps to 2 in 64 bits",
    fileOf(raw("[4294967296,4294967296,2]", "[0,8]"), 8),
    "more than 2^53 elements",
  ],
  ["more bytes than 2^53", fileOf(raw("[4503599627370496]", "[0,8]"), 8), "of F32 has more than 2^53 bytes"],
  [
    "too few bytes",
    fileOf(raw("[3]", "[0,8]"), 8),
    'tensor "a": F32 [3] takes 12 bytes, but data_offsets [0,8] hold 8',
  ],
  [
    "too many bytes",
    fileOf(raw("[1]", "[0,8]"), 8),
    'tensor "a": F32 [1] takes 4 bytes, but data_offsets [0,8] hold 8',
  ],
  [
    "half a byte",
    fileOf(`{${entry("a", "F4", [3], 0, 2)}}`, 2),
    'tensor "a": shape [3] of F4 (4 bits) does not end on a whole byte',
  ],

  [
    "no offsets in the array",
    fileOf(raw("[2]", "[]"), 8),
    'tensor "a": data_offsets must be [begin, end], found 0 numbers',
  ],
  ["one offset", fileOf(raw("[2]", "[0]"), 8), "data_offsets must be [begin, end], found 1 numbers"],
  ["three offsets", fileOf(raw("[2]", "[0,8,8]"), 8), "data_offsets must be [begin, end], found 3 numbers"],
  ["reversed offsets", fileOf(raw("[2]", "[8,0]"), 8), 'tensor "a": data_offsets [8,0] are reversed'],
  [
    "a negative offset",
    fileOf(raw("[2]", "[-8,0]"), 8),
    "data_offsets must be an array of non-negative integers, found -8 at index 0",
  ],
  [
    "offsets at 2^63",
    fileOf(raw("[2]", "[9223372036854775808,9223372036854775816]"), 8),
    "data_offsets has the number 9223372036854775808",
  ],
  [
    "offsets past the data",
    fileOf(`{${good},${entry("b", "F32", [2], 8, 16)}}`, 12),
    'tensor "b": data_offsets [8,16] go beyond the data section of 12 bytes: the file is truncated',
  ],
  ["no data", fileOf(`{${good}}`, 0), 'tensor "a": data_offsets [0,8] go beyond the data section of 0 bytes'],
  [
    "trailing bytes",
    fileOf(`{${good}}`, 9),
    "the tensors cover 8 bytes, but the data section has 9: 1 bytes too many",
  ],
  ["data without tensors", fileOf("{}", 4), "the tensors cover 0 bytes, but the data section has 4"],
  [
    "a hole",
    fileOf(`{${good},${entry("b", "U8", [1], 9, 10)}}`, 10),
    'tensor "b": data_offsets [9,10] leave a hole: bytes 8 to 9',
  ],
  [
    "a hole at the start",
    fileOf(raw("[2]", "[4,12]"), 12),
    'tensor "a": data_offsets [4,12] leave a hole: bytes 0 to 4',
  ],
  [
    "overlap",
    fileOf(`{${good},${entry("b", "F32", [2], 4, 12)}}`, 12),
    'tensor "b": data_offsets [4,12] overlap those of tensor "a"',
  ],
  [
    "two tensors on the same bytes",
    fileOf(`{${good},${entry("b", "F32", [2], 0, 8)}}`, 8),
    'tensor "b": data_offsets [0,8] overlap those of tensor "a"',
  ],
  [
    "an empty tensor inside another",
    fileOf(`{${good},${entry("b", "U8", [0], 4, 4)}}`, 8),
    'tensor "b": data_offsets [4,4] overlap',
  ],
  [
    "an empty tensor past the end",
    fileOf(`{${good},${entry("b", "U8", [0], 9, 9)}}`, 8),
    'tensor "b": data_offsets [9,9] go beyond',
  ],

  [
    "metadata that is a string",
    fileOf('{"__metadata__":"x"}'),
    "__metadata__ must be an object of strings, found a string",
  ],
  [
    "metadata that is an array",
    fileOf('{"__metadata__":[]}'),
    "__metadata__ must be an object of strings, found an array",
  ],
  [
    "a number in metadata",
    fileOf('{"__metadata__":{"step":1}}'),
    '__metadata__: "step" must be a string, found a number',
  ],
  [
    "an object in metadata",
    fileOf('{"__metadata__":{"k":{}}}'),
    '__metadata__: "k" must be a string, found an object',
  ],
  ["deep arrays", fileOf(`{"a":${"[".repeat(1_000_000)}`), 'tensor "a" must be an object, found an array'],
  [
    "deep objects",
    fileOf('{"a":'.repeat(1_000_000)),
    'tensor "a": not valid JSON: nested more than 124 deep',
  ],
  ["deep shape", fileOf(`{"a":{"shape":${"[".repeat(1_000_000)}`), "found an array at index 0"],
];

describe("a malformed file is refused with the reason:", () => {
  test.each(MALFORMED)("%s", (_, contents, reason) => {
    const parsed = failure(() => parseSafetensorsHeader("some/model.safetensors", contents, contents.length));
    expect(parsed).toBeInstanceOf(FormatError);
    expect(parsed.message).toStartWith("some/model.safetensors");
    expect(parsed.message).toContain(reason);
    const path = put(dir, "malformed.safetensors", contents);
    const read = failure(() => readSafetensorsHeader(path));
    expect(read.message).toBe(parsed.message.replace("some/model.safetensors", path));
  });

  test("every truncation of a valid file", () => {
    const whole = fileOf(`{${good},${entry("b", "BF16", [2, 2], 8, 16)}}   `, 16);
    for (let size = 0; size < whole.length; size++) {
      expect(failure(() => parseSafetensorsHeader("x", whole.subarray(0, size), size))).toBeInstanceOf(
        FormatError,
      );
    }
    expect(parseSafetensorsHeader("x", whole, whole.length).tensors.size).toBe(2);
  });

  test("a header that was not read whole", () => {
    const whole = fileOf(`{${good}}`, 8);
    const error = failure(() => parseSafetensorsHeader("x", whole.subarray(0, 20), whole.length));
    expect(error.message).toContain("could be read");
  });

  test("shapes in messages are cut short", () => {
    const bytes = fileOf(raw(`[${"1,".repeat(100_000)}1]`, "[0,8]"), 8);
    const error = failure(() => parseSafetensorsHeader("x", bytes, bytes.length));
    expect(error.message).toContain("F32 [1,1,1,1,1,1,1,1,… 100001 sizes] takes 4 bytes");
  });

  test("names in messages are cut short", () => {
    const error = failure(() => parseSafetensorsHeader("x", fileOf(`{"${"n".repeat(10_000)}":1}`), 10_014));
    expect(error.message.length).toBeLessThan(300);
  });
});

describe("what is no file at all is refused:", () => {
  test("a missing file", () => {
    const error = failure(() => readSafetensorsHeader(join(dir, "absent.safetensors")));
    expect(error.code).toBe("io");
    expect(error.message).toContain("absent.safetensors cannot be read: no such file or folder");
  });

  test("a folder", () => {
    mkdirSync(join(dir, "folder.safetensors"));
    expect(failure(() => readSafetensorsHeader(join(dir, "folder.safetensors"))).message).toContain(
      "not a regular file",
    );
  });

  test("a named pipe, without waiting for its other end", () => {
    const pipe = join(dir, "pipe.safetensors");
    expect(Bun.spawnSync(["mkfifo", pipe]).exitCode).toBe(0);
    expect(failure(() => readSafetensorsHeader(pipe)).message).toContain("not a regular file");
  });

  test("a device", () => {
    expect(failure(() => readSafetensorsHeader("/dev/zero")).message).toBe(
      "/dev/zero: not a regular file; expected a safetensors file",
    );
  });
});
