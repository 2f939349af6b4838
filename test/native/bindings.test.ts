// kernels/neftune.h and src/native/bindings.ts say the same.

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { floatTypes } from "../../src/floats.ts";
import { bindings, type ParameterType } from "../../src/native/bindings.ts";
import { PhiloxStream } from "../../src/philox-streams.ts";

const scalars: Record<string, ParameterType> = {
  int32_t: "i32",
  int64_t: "i64",
  uint32_t: "u32",
  uint64_t: "u64",
  float: "f32",
};

function parameterType(declaration: string): ParameterType {
  if (declaration.includes("*")) return "ptr";
  const type = scalars[declaration.trim().split(/\s+/)[0]!];
  if (type === undefined) throw new Error(`a parameter type the table does not know: ${declaration}`);
  return type;
}

test("the binding table has every function of the header, with the same parameters in the same order", () => {
  const header = readFileSync(join(import.meta.dir, "../../kernels/neftune.h"), "utf8").replace(
    /\/\/.*$/gm,
    "",
  );
  const declared = Object.fromEntries(
    Array.from(header.matchAll(/NT_API int32_t (\w+)\(([^)]*)\);/g), ([, name, parameters]) => [
      name,
      parameters!.split(",").map(parameterType),
    ]),
  );
  expect(Object.keys(declared).length).toBeGreaterThan(40);
  expect(declared).toEqual(bindings as unknown as typeof declared);
});

/** The constants of a header that begin with `prefix`, by the rest of their names in lower case. */
const constants = (header: string, prefix: string) =>
  Object.fromEntries(
    Array.from(
      readFileSync(join(import.meta.dir, "../../kernels", header), "utf8").matchAll(/(NT_\w+) = (\d+)/g),
      ([, name, value]) => [name!, Number(value)] as const,
    )
      .filter(([name]) => name.startsWith(prefix))
      .map(([name, value]) => [name.slice(prefix.length).toLowerCase(), value]),
  );

test("dtypes and random streams have the numbers of the headers", () => {
  expect(constants("philox.h", "NT_STREAM_")).toEqual(PhiloxStream);
  const all = constants("neftune.h", "NT_");
  for (const [dtype, { code }] of Object.entries(floatTypes)) expect(all[dtype]).toBe(code);
});

test("native functions are called in src/native alone", () => {
  const src = join(import.meta.dir, "../../src");
  const files = [...new Bun.Glob("**/*.ts").scanSync(src)].filter((file) => !file.startsWith("native/"));
  expect(files.length).toBeGreaterThan(100);
  const callers = files.filter((file) => /\.call\(\s*"nt_/.test(readFileSync(join(src, file), "utf8")));
  expect(callers).toEqual([]);
});

test("no function has more than 32 parameters", () => {
  for (const types of Object.values(bindings)) expect(types.length).toBeLessThanOrEqual(32);
});
