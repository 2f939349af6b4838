import { expect, test } from "bun:test";
import { join } from "node:path";

/** Sends the signals to a child, a moment apart, once it is ready. */
async function ended(mode: string, ...signals: NodeJS.Signals[]) {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "interrupt-child.ts"), mode], {
    stdout: "pipe",
    stderr: "pipe",
  });
  const reader = child.stdout.getReader();
  let text = "";
  while (!text.includes("ready")) text += new TextDecoder().decode((await reader.read()).value);
  const start = performance.now();
  for (const signal of signals) {
    child.kill(signal);
    await Bun.sleep(300);
  }
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    text += new TextDecoder().decode(part.value);
  }
  await child.exited;
  const seconds = (performance.now() - start) / 1000;
  const stderr = await new Response(child.stderr).text();
  return { status: child.exitCode, signal: child.signalCode, text, stderr, seconds };
}

test.each(["SIGINT", "SIGTERM", "SIGHUP"] as const)(
  "%s is heard where there is time for it",
  async (name) => {
    const { status, text } = await ended("idle", name);
    expect(text).toContain("stopping; Ctrl-C again ends at once");
    expect(status).toBe(3);
  },
  30_000,
);

test("the first ends what is too busy to hear it", async () => {
  const { status, stderr, seconds } = await ended("busy", "SIGINT");
  expect(status).toBe(130);
  expect(stderr).toContain("stopped");
  expect(seconds).toBeLessThan(10);
}, 30_000);

test("and what has heard it and goes on", async () => {
  const { status, seconds } = await ended("heard, then busy", "SIGINT");
  expect(status).toBe(130);
  expect(seconds).toBeLessThan(20);
}, 30_000);

test("what has something to save is waited for", async () => {
  const { status, text, seconds } = await ended("patient", "SIGINT");
  expect(text).toContain("stopping after this step");
  expect(status).toBe(3);
  expect(seconds).toBeGreaterThan(2);
}, 30_000);

test("but not at the second", async () => {
  const { signal, seconds } = await ended("patient", "SIGINT", "SIGINT");
  expect(signal).toBe("SIGINT");
  expect(seconds).toBeLessThan(3);
}, 30_000);
