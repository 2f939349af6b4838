import { afterAll, beforeAll, expect, test } from "bun:test";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { kernels } from "../../build/compile.ts";
import { spawned } from "../spawned.ts";

// Names that no machine has, so that only what a test puts somewhere is found.
const [newer, older] = ["libneftunetest.so.13", "libneftunetest.so.12"];
const place = mkdtempSync(join(tmpdir(), "neftune-find-"));
const at = (...path: string[]) => join(place, ...path);

async function compile(...args: string[]): Promise<void> {
  const { status, stderr } = await spawned(["g++", "-std=c++17", ...args], { cwd: place, env: process.env });
  expect(stderr).toBe("");
  expect(status).toBe(0);
}

beforeAll(async () => {
  const finder = ["-x", "c++", join(kernels, "cuda", "find_library.cu"), "-ldl"];
  await compile("-I", kernels, join(import.meta.dir, "find-library-main.cpp"), ...finder, "-o", at("find"));
  await Bun.write(at("empty.cpp"), "extern const int value = 1;\n");
  await compile("-shared", "-fPIC", at("empty.cpp"), "-o", at("empty.so"));
});
afterAll(() => rmSync(place, { recursive: true }));

/** What is found with these libraries in the places that variables name. */
async function found(libraries: string[], env: Record<string, string>): Promise<string[]> {
  for (const library of libraries) {
    mkdirSync(dirname(at(library)), { recursive: true });
    copyFileSync(at("empty.so"), at(library));
  }
  try {
    const variables = Object.entries(env).map(([name, folder]) => [name, at(folder)]);
    const where = { cwd: place, env: { PATH: "/nowhere/bin", ...Object.fromEntries(variables) } };
    const { stdout } = await spawned([at("find"), newer, older, "cu13"], where);
    return stdout.trimEnd().split("\n");
  } finally {
    for (const library of libraries) rmSync(at(library));
  }
}

const wheel = (name: string) => `env/lib/python3.12/site-packages/nvidia/cu13/lib/${name}`;
const both = { CUDA_HOME: "toolkit", VIRTUAL_ENV: "env" };

test("the newer library in a wheel wins over an older one that a variable names", async () => {
  const [path] = await found([`toolkit/lib64/${older}`, wheel(newer)], both);
  expect(path).toBe(at(wheel(newer)));
});

test("of two newer ones the variable's wins, and an older one is taken where there is no newer", async () => {
  expect((await found([`toolkit/lib64/${newer}`, wheel(newer)], both))[0]).toBe(at("toolkit/lib64", newer));
  expect((await found([`toolkit/lib64/${older}`, wheel(older)], both))[0]).toBe(at("toolkit/lib64", older));
  expect((await found([wheel(older)], both))[0]).toBe(at(wheel(older)));
});

test("a place looked at for both names is listed once", async () => {
  const [path, ...places] = await found([], both);
  expect(path).toBe("none");
  expect(places).toContain(`CUDA_HOME=${at("toolkit")}`);
  expect(new Set(places).size).toBe(places.length);
});
