import { expect, test } from "bun:test";
import { join } from "node:path";
import { checkProduct, type Device } from "../../src/native/index.ts";
import { backends } from "../backends.ts";
import { spawned } from "../spawned.ts";
import { forEachBackend } from "./harness.ts";

forEachBackend((device) => {
  test("the product whose values are known is right, and one wrong value is seen", () => {
    const { isRight, isPlain } = checkProduct(device);
    expect([isRight, isPlain]).toEqual([true, false]);
    for (const wrong of [0, 511, 512 * 512 - 1]) {
      const readFloats: Device["readFloats"] = (tensor) => {
        const values = device.readFloats(tensor);
        values[wrong]! += 1;
        return values;
      };
      const faulty = new Proxy(device, {
        get: (target, name) => {
          if (name === "readFloats") return readFloats;
          const value = Reflect.get(target, name, target);
          return typeof value === "function" ? value.bind(target) : value;
        },
      });
      expect(checkProduct(faulty).isRight).toBe(false);
    }
  });
});

for (const { kind, env } of backends.filter(({ kind }) => kind !== "cpu")) {
  test(`${kind}: a big product that cuBLASLt has no algorithm for is counted, and said once`, async () => {
    // Rows an odd number of bf16 apart are not copied four bytes at a time.
    const script = `
      import { Device, Weight, linearForward } from ${JSON.stringify(join(import.meta.dir, "../../src/native/index.ts"))};
      const device = Device.open({ kind: "cuda" });
      const counts = [];
      for (const k of [1001, 2 ** 19 + 1, 2 ** 19 + 3]) {
        const [x, w] = [device.allocate("bf16", [8, k]), device.allocate("bf16", [32, k])];
        device.fill(x, 0);
        device.fill(w, 0);
        linearForward(device, device.allocate("f32", [8, 32]), x, Weight.dense(device, w), null);
        counts.push(device.bigPlainProducts());
      }
      device.synchronize();
      console.log(counts.join());`;
    const where = { cwd: import.meta.dir, env };
    const { stdout, stderr } = await spawned([process.execPath, "-e", script], where);
    expect(stdout).toBe("0,1,2\n");
    expect(stderr).toMatch(
      /^neftune: cuBLASLt has no algorithm for a product \[8, 524289\]·\[524289, 32\] in bf16 on this GPU; .*\n$/,
    );
  });
}
