// Thousands of damaged files, the same ones in every run: each is refused with a FormatError, or loads with every
// tensor inside the file and no two on the same bytes.
import { expect, test } from "bun:test";
import { FormatError } from "../../src/errors.ts";
import { parseSafetensorsHeader, tensorBytes } from "../../src/formats/safetensors.ts";
import { entry, fileOf } from "./support.ts";

const MUTANTS = 20_000;

const SEEDS = [
  fileOf(`{${entry("a", "F32", [2, 3], 0, 24)},${entry("b", "BF16", [4], 24, 32)}}     `, 32),
  fileOf(`{"__metadata__":{"format":"pt","k":"\\u00e9"},${entry("w", "F16", [2, 2], 0, 8)}}`, 8),
  fileOf(
    `{${entry("s", "I64", [], 0, 8)},${entry("e", "U8", [0, 9], 8, 8)},${entry("n", "F4", [6], 8, 11)}}`,
    11,
  ),
  fileOf(
    `{${Array.from({ length: 12 }, (_, i) => entry(`layers.${i}.weight`, "U8", [i + 1], (i * (i + 1)) / 2, ((i + 1) * (i + 2)) / 2))}}`,
    78,
  ),
  fileOf("{}"),
];
// What damaged or hostile headers are made of.
const WORDS = [
  ...'0 1 -1 9007199254740991 9007199254740992 18446744073709551615 1e3 0.5 00 [ ] { } , : " \\ \\u \\ud800 null true'.split(
    " ",
  ),
  ...'"dtype" "shape" "data_offsets" "__metadata__" "__proto__" "constructor" "F32" "F4" [0,0] {} [[[[ {"a": \0 \xff'.split(
    " ",
  ),
];

/** A small generator (mulberry32's step), so that every run sees the same mutants. */
function generator(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) % below;
  };
}

function splice(bytes: Uint8Array, at: number, removed: number, added: Uint8Array): Uint8Array {
  return new Uint8Array(
    Buffer.concat([bytes.subarray(0, at), added, bytes.subarray(Math.min(at + removed, bytes.length))]),
  );
}

function mutate(bytes: Uint8Array, random: (below: number) => number): Uint8Array {
  const at = random(bytes.length + 1);
  switch (random(7)) {
    case 0: {
      const flipped = bytes.slice();
      if (at < bytes.length) flipped[at]! ^= 1 << random(8);
      return flipped;
    }
    case 1:
      return bytes.slice(0, at);
    case 2:
      return splice(bytes, at, random(4), Buffer.from(WORDS[random(WORDS.length)]!, "latin1"));
    case 3: {
      const other = SEEDS[random(SEEDS.length)]!;
      const from = random(other.length);
      return splice(bytes, at, random(20), other.slice(from, from + random(60)));
    }
    case 4:
      return splice(bytes, at, 1 + random(12), new Uint8Array(0));
    case 5:
      return splice(bytes, bytes.length, 0, new Uint8Array(1 + random(16)));
    default: {
      // One number of the header becomes another.
      const text = Buffer.from(bytes).toString("latin1");
      const numbers = [...text.matchAll(/\d+/g)].filter((match) => match.index >= 8);
      const chosen = numbers[random(Math.max(numbers.length, 1))];
      if (!chosen) return bytes.slice();
      const value = [random(40), Number(chosen[0]) + 1, Number(chosen[0]) - 1, 2 ** random(64)][random(4)]!;
      return splice(bytes, chosen.index, chosen[0].length, Buffer.from(String(value)));
    }
  }
}

/** Keeps the length in front right, so that the damage reaches the JSON. */
function repairLength(bytes: Uint8Array, dataBytes: number): Uint8Array {
  const repaired = bytes.slice();
  if (bytes.length >= 8 + dataBytes) {
    new DataView(repaired.buffer).setBigUint64(0, BigInt(bytes.length - 8 - dataBytes), true);
  }
  return repaired;
}

test(`${MUTANTS} damaged files: a FormatError or a safe load, never anything else`, () => {
  const random = generator(20231009);
  const counts = { loaded: 0, refused: 0 };
  for (let i = 0; i < MUTANTS; i++) {
    const seed = SEEDS[random(SEEDS.length)]!;
    const dataBytes = seed.length - 8 - Number(new DataView(seed.buffer).getBigUint64(0, true));
    let bytes = seed;
    for (let n = 1 + random(3); n > 0; n--) bytes = mutate(bytes, random);
    if (random(3) > 0) bytes = repairLength(bytes, dataBytes);
    try {
      const { tensors, dataStart, metadata } = parseSafetensorsHeader("mutant", bytes, bytes.length);
      let next = dataStart;
      for (const { name, dtype, shape, begin, end } of [...tensors.values()].sort(
        (a, b) => a.begin - b.begin || a.end - b.end,
      )) {
        if (begin !== next || end - begin !== tensorBytes(dtype, shape) || !tensors.has(name)) {
          throw new Error(`mutant ${i} loads ${name} at ${begin} to ${end}`);
        }
        next = end;
      }
      if (next !== bytes.length)
        throw new Error(`mutant ${i} loads with ${bytes.length - next} bytes left over`);
      for (const value of metadata.values())
        if (typeof value !== "string") throw new Error(`mutant ${i}: metadata`);
      counts.loaded++;
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      counts.refused++;
    }
  }
  // Both ways must have been walked often, or the mutations are too wild or too tame to tell anything.
  expect(counts.loaded).toBeGreaterThan(MUTANTS / 100);
  expect(counts.refused).toBeGreaterThan(MUTANTS / 2);
});
