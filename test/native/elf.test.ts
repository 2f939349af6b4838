// A library without its symbol table loads and computes; a file of another layout is refused.

import { dlopen } from "bun:ffi";
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { withoutSymbols } from "../../build/elf.ts";

const scratch = mkdtempSync(join(tmpdir(), "neftune-elf-"));
afterAll(() => rmSync(scratch, { recursive: true }));
const path = (name: string) => join(scratch, name);

function run(...command: string[]): string {
  const { exitCode, stdout, stderr } = Bun.spawnSync(command);
  expect(exitCode, stderr.toString()).toBe(0);
  return stdout.toString();
}

test("what is left has its sections and works", () => {
  const source =
    "static int hidden_helper(int a) { return 3 * a; } int thrice(int a) { return hidden_helper(a); }";
  writeFileSync(path("thrice.c"), source);
  run("gcc", "-shared", "-fPIC", "-O0", "-o", path("whole.so"), path("thrice.c"));
  const whole = readFileSync(path("whole.so"));
  const cut = withoutSymbols(whole);
  writeFileSync(path("cut.so"), cut);
  expect(whole.includes("hidden_helper")).toBe(true);
  expect(cut.includes("hidden_helper")).toBe(false);
  const names = (file: string) =>
    [...run("readelf", "--wide", "--section-headers", path(file)).matchAll(/\] (\.\S+)/g)].map(
      ([, name]) => name!,
    );
  const kept = names("whole.so").filter((name) => ![".symtab", ".strtab"].includes(name));
  expect(kept.length).toBeGreaterThan(10);
  expect(names("cut.so")).toEqual(kept);
  const { symbols } = dlopen(path("cut.so"), { thrice: { args: ["i32"], returns: "i32" } });
  expect(symbols.thrice(14)).toBe(42);
  expect(() => withoutSymbols(cut)).toThrow("expected .symtab");
});

test("oneDNN is embedded without", () => {
  const library = readFileSync(join(import.meta.dir, "../../dist/native/libdnnl.so.3"));
  expect(() => withoutSymbols(library)).toThrow("expected .symtab");
});
