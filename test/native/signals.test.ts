import { expect, test } from "bun:test";
import { join } from "node:path";

test("signals in the middle of native code harm nothing", async () => {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "signals-child.ts")], {
    stdout: "pipe",
    stderr: "pipe",
  });
  const reader = child.stdout.getReader();
  let text = new TextDecoder().decode((await reader.read()).value);
  expect(text).toStartWith("ready");
  for (let i = 0; i < 60 && child.exitCode === null; i++) {
    child.kill("SIGUSR2");
    await Bun.sleep(15);
  }
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    text += new TextDecoder().decode(part.value);
  }
  await child.exited;
  expect(await new Response(child.stderr).text()).toBe("");
  expect(child.exitCode).toBe(0);
  const { signals, changed } = JSON.parse(text.split("\n")[1]!) as { signals: number; changed: number };
  expect(signals).toBeGreaterThan(20);
  expect(changed).toBe(0);
}, 60_000);
