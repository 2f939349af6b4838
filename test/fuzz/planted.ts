// A program with faults, for the fuzzer to find: `FAULT FILE` shows the fault where FILE is not `{"a": …}`.

import { mkdirSync, readFileSync, writeSync } from "node:fs";

/** What holds on to memory. */
const held: Uint8Array[] = [];

const faults: Record<string, () => unknown> = {
  none: () => fail("error: the file has no a\n", 1),
  hang: () => {
    for (;;);
  },
  wait: () => new Promise((resolve) => setTimeout(resolve, 1e9)),
  TypeError: () => fail(`error: ${messageOf(() => (undefined as unknown as { a: object }).a)}\n`, 1),
  trace: () => fail("error: no\n      at main (/$bunfs/root/neftune:1:2)\n", 1),
  memory: () => {
    for (;;) held.push(new Uint8Array(2 ** 26).fill(1));
  },
  signal: () => process.kill(process.pid, "SIGSEGV"),
  status: () => fail("error: no\n", 3),
  silence: () => fail("", 1),
  escape: () => fail("error: \x1b[31mno\n", 1),
  leftover: () => {
    mkdirSync(".out.partial");
    fail("error: no\n", 1);
  },
};

function messageOf(wrong: () => unknown): string {
  try {
    wrong();
  } catch (error) {
    return (error as Error).message;
  }
  return "";
}

function fail(text: string, status: number): never {
  writeSync(2, text);
  process.exit(status);
}

function isWhole(text: string): boolean {
  try {
    return Object.hasOwn(JSON.parse(text), "a");
  } catch {
    return false;
  }
}

const [fault = "", file = ""] = process.argv.slice(2);
if (!isWhole(readFileSync(file, "utf8"))) await faults[fault]!();
process.exit(0);
