// For commands that write a model's folder: what is left of one that is stopped.

import { beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import type { Place } from "./support.ts";

/** Large enough that most of the time goes into computing and writing weights. */
const shape = {
  ...{ hidden_size: 512, intermediate_size: 1376, num_hidden_layers: 12 },
  ...{ num_attention_heads: 8, num_key_value_heads: 8 },
};

/**
 * Stops a command that reads the model "big" at random moments. `prepare` makes what else it needs; `args` are all of its
 * arguments but --output.
 */
export function describeStopped(place: Place, args: readonly string[], prepare = async () => {}): void {
  const run = (output: string) => [...args, "--output", output];
  const names = () => readdirSync(place.cwd);
  const filesOf = (folder: string) =>
    readdirSync(place.path(folder))
      .sort()
      .map((name) => [name, Bun.hash(readFileSync(place.path(folder, name)))]);

  /** Sends `signal` so many milliseconds after the device is open. */
  async function stop(signal: NodeJS.Signals, delay: number) {
    const child = place.start(run("killed"));
    const decoder = new TextDecoder();
    let stderr = "";
    for await (const part of child.stderr) {
      const isFirst = stderr === "";
      stderr += decoder.decode(part, { stream: true });
      if (!isFirst) continue;
      expect(stderr).toContain("device:");
      await Bun.sleep(delay);
      child.kill(signal);
    }
    await child.exited;
    return { status: child.exitCode, stderr };
  }

  describe("stopped", () => {
    beforeAll(async () => {
      place.write("big.json", JSON.stringify({ ...JSON.parse(place.read("shape.json")), ...shape }));
      await place.must("init", "--shape", "big.json", "--output", "big", "--tokenizer", "tokenizer");
      await prepare();
      await place.must(...run("straight"));
    }, 60_000);

    test("kill -9 at random moments: whole or not there, and the next one cleans up", async () => {
      let stops = 0;
      for (let i = 0; i < 10; i++) {
        await stop("SIGKILL", Math.random() * 200);
        if (existsSync(place.path("killed"))) {
          expect(filesOf("killed")).toEqual(filesOf("straight"));
          rmSync(place.path("killed"), { recursive: true });
        } else stops++;
      }
      expect(stops).toBeGreaterThan(0);
      await place.must(...run("killed"));
      expect(filesOf("killed")).toEqual(filesOf("straight"));
      rmSync(place.path("killed"), { recursive: true });
      expect(names().filter((name) => name.includes("killed"))).toEqual([]);
    }, 60_000);

    test("Ctrl-C: 130, a sentence, nothing left", async () => {
      const { status, stderr } = await stop("SIGINT", 10);
      expect(stderr).toContain(`${args[0]} was stopped; it left nothing`);
      expect(status).toBe(130);
      expect(names().filter((name) => name.includes("killed"))).toEqual([]);
    }, 30_000);
  });
}
