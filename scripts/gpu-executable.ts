// The executable is Bun with a few changed bytes and the program behind it: beside Bun, an archive needs only what differs.
//   bun scripts/gpu-executable.ts split EXECUTABLE DIFFERENCE
//   bun scripts/gpu-executable.ts join DIFFERENCE EXECUTABLE
// The Bun that runs this is the one that is built in.

import { readFileSync, writeFileSync } from "node:fs";

const BLOCK = 4096;
/** Length of the executable, count of changed blocks; then their numbers, their bytes, and what lies behind Bun. */
const HEADER = 2;

/** Blocks of `executable` that differ from Bun's, the last one shorter where Bun ends within it. */
function split(bun: Buffer, executable: Buffer): Buffer {
  const common = Math.min(bun.length, executable.length);
  const blocks: number[] = [];
  for (let at = 0; at < common; at += BLOCK) {
    const end = Math.min(at + BLOCK, common);
    if (!bun.subarray(at, end).equals(executable.subarray(at, end))) blocks.push(at / BLOCK);
  }
  const numbers = Uint32Array.of(executable.length, blocks.length, ...blocks);
  const changed = blocks.map((block) =>
    executable.subarray(block * BLOCK, Math.min((block + 1) * BLOCK, common)),
  );
  return Buffer.concat([Buffer.from(numbers.buffer), ...changed, executable.subarray(common)]);
}

function join(bun: Buffer, difference: Buffer): Buffer {
  const words = (count: number) => Array.from({ length: count }, (_, i) => difference.readUInt32LE(4 * i));
  const [length = 0, count = 0] = words(HEADER);
  const blocks = words(HEADER + count).slice(HEADER);
  const executable = Buffer.alloc(length);
  const common = Math.min(bun.length, length);
  bun.copy(executable, 0, 0, common);
  let at = 4 * (HEADER + count);
  for (const block of blocks) {
    const end = Math.min((block + 1) * BLOCK, common);
    difference.copy(executable, block * BLOCK, at, at + end - block * BLOCK);
    at += end - block * BLOCK;
  }
  difference.copy(executable, common, at);
  return executable;
}

const [way, from, to] = process.argv.slice(2);
if ((way !== "split" && way !== "join") || from === undefined || to === undefined)
  throw new Error("bun scripts/gpu-executable.ts split|join FROM TO");
writeFileSync(to, (way === "split" ? split : join)(readFileSync(process.execPath), readFileSync(from)), {
  mode: 0o755,
});
