import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { backends, emulated } from "../backends.ts";
import { spawned } from "../spawned.ts";

/** A card as the emulator shows it, GiB of memory, and the rows of the loss's chunks by model. */
interface Card {
  multiprocessors: number;
  memory: number;
  rows: Record<keyof typeof models, number>;
}

/** Hidden size and vocabulary. */
const models = {
  "135m": [576, 49_152],
  "1b": [2048, 128_256],
  "7b": [4096, 32_000],
  "8b": [4096, 128_256],
  "13b": [5120, 32_000],
  "70b": [8192, 32_000],
} as const;

// dx of a chunk has rows/128 · H/256 tiles. On 132 multiprocessors 13b's 1,024 rows would be 160 tiles, two waves 60 %
// full; 1,664 rows are 260 of 264.
const cards: Record<string, Card> = {
  "an H200": {
    multiprocessors: 132,
    memory: 140,
    rows: { "135m": 3968, "1b": 2048, "7b": 1024, "8b": 1024, "13b": 1664, "70b": 1024 },
  },
  "a 4090": {
    multiprocessors: 128,
    memory: 24,
    rows: { "135m": 3968, "1b": 2048, "7b": 1024, "8b": 1024, "13b": 2432, "70b": 1024 },
  },
  "a 4090 with little memory": {
    multiprocessors: 128,
    memory: 8,
    rows: { "135m": 2560, "1b": 1024, "7b": 1024, "8b": 1024, "13b": 2432, "70b": 1024 },
  },
};

/** Prints the bytes of workspace that a chunk takes, and that one of a single row takes, for each model. */
const script = `
  import { crossEntropyWorkspace, Device } from ${JSON.stringify(join(import.meta.dir, "../../src/native/index.ts"))};
  const device = Device.open({ kind: "cuda" });
  const bytes = (rows, [H, V]) => crossEntropyWorkspace(device, "bf16", rows, H, V, true);
  const models = ${JSON.stringify(Object.values(models))};
  console.log(JSON.stringify(models.map((model) => [bytes(1e6, model), bytes(256, model) / 256, bytes(300, model)])));`;

describe.skipIf(!backends.some(({ kind }) => kind === "emulated"))("rows of a chunk of the loss", () => {
  for (const [name, { multiprocessors, memory, rows }] of Object.entries(cards)) {
    test(`fill the multiprocessors of ${name}`, async () => {
      const env = {
        ...emulated!.env,
        NEFTUNE_EMULATOR_MULTIPROCESSORS: String(multiprocessors),
        NEFTUNE_EMULATOR_MEMORY: String(memory * 1024),
      };
      const { stdout, stderr } = await spawned([process.execPath, "-e", script], { cwd: process.cwd(), env });
      expect(stderr).toBe("");
      const sizes = JSON.parse(stdout) as [number, number, number][];
      const got = Object.fromEntries(
        Object.keys(models).map((model, i) => [model, sizes[i]![0] / sizes[i]![1]]),
      );
      expect(got).toEqual(rows);
      // Fewer rows than that take no more than their own share.
      for (const [, row, few] of sizes) expect(Math.abs(few / row - 300)).toBeLessThan(1);
    });
  }
});
