// kernels/neftune.h and src/native/bindings.ts say the same.

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { bindings, type ParameterType } from "../../src/native/bindings.ts";

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

test("no function has more than 32 parameters", () => {
  for (const types of Object.values(bindings)) expect(types.length).toBeLessThanOrEqual(32);
});
