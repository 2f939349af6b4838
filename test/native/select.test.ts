// Which context's GPU is this thread's, with a library made up here: no GPU is needed.

import { expect, test } from "bun:test";
import type { Argument, NativeLibrary } from "../../src/native/bindings.ts";
import { Device } from "../../src/native/index.ts";

test("after a failed nt_create or nt_select the next call selects its device", () => {
  const called: string[] = [];
  const failing = new Set<string>();
  let contexts = 0;
  const call =
    (name: string) =>
    (...args: Argument[]) => {
      called.push(`${name} ${args[0]}`);
      if (failing.has(name)) return 4;
      if (name === "nt_create") (args[2] as BigUint64Array)[0] = BigInt(++contexts);
      if (name === "nt_describe") Buffer.from('{"backend":"cpu"}\0').copy(args[1] as Uint8Array);
      return 0;
    };
  const library: NativeLibrary = {
    functions: new Proxy({} as NativeLibrary["functions"], { get: (_, name) => call(String(name)) }),
    lastError: () => "failed",
    selected: 0,
  };
  const calls = (body: () => void) => {
    called.length = 0;
    body();
    return [...called];
  };

  const first = Device.open({ library });
  expect(calls(() => first.synchronize())).toEqual(["nt_synchronize 1"]);

  failing.add("nt_create");
  expect(() => Device.open({ library, index: 1 })).toThrow("failed");
  failing.clear();
  expect(calls(() => first.synchronize())).toEqual(["nt_select 1", "nt_synchronize 1"]);

  const second = Device.open({ library, index: 1 });
  failing.add("nt_select");
  expect(() => first.synchronize()).toThrow("failed");
  failing.clear();
  expect(calls(() => first.synchronize())).toEqual(["nt_select 1", "nt_synchronize 1"]);
  expect(calls(() => second.synchronize())).toEqual(["nt_select 2", "nt_synchronize 2"]);
  first.close();
  second.close();
});
