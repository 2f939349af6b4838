import { expect, test } from "bun:test";
import { join } from "node:path";
import { backends } from "../backends.ts";
import { spawned } from "../spawned.ts";

for (const { env } of backends.filter(({ kind }) => kind === "emulated")) {
  test("two devices on different GPUs take turns in one process", async () => {
    const script = `
      import { checkProduct, Device } from ${JSON.stringify(join(import.meta.dir, "../../src/native/index.ts"))};
      const [first, second] = [0, 1].map((index) => Device.open({ kind: "cuda", index }));
      const uuids = [first.info.uuid, second.info.uuid];
      const right = [first, second, first].map((device) => checkProduct(device).isRight);
      second.close();
      right.push(checkProduct(first).isRight);
      first.close();
      console.log(JSON.stringify({ right, differ: uuids[0] !== uuids[1] }));`;
    const where = { cwd: import.meta.dir, env: { ...env, NEFTUNE_EMULATOR_DEVICES: "2" } };
    const { stdout, stderr } = await spawned([process.execPath, "-e", script], where);
    expect(stderr).toBe("");
    expect(JSON.parse(stdout)).toEqual({ right: [true, true, true, true], differ: true });
  });
}
