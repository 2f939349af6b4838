// What the environment of the process can and cannot do: variables of Bun's, limits of the shell's.

import { describe, expect, test } from "bun:test";
import packageJson from "../../package.json" with { type: "json" };
import { spawned } from "../spawned.ts";
import { executable, modelPlace } from "./support.ts";

const place = modelPlace();

const shell = (script: string, env: Record<string, string> = {}) =>
  spawned(["/bin/bash", "-c", script], {
    cwd: place.cwd,
    env: { ...place.env, NEFTUNE: executable, ...env },
  });

describe("Bun's variables have no effect", () => {
  test.each([
    ["BUN_OPTIONS", "--preload=./intruder.ts"],
    ["BUN_OPTIONS", "--print 1"],
    ["BUN_BE_BUN", "1"],
  ])("%s=%s", async (name, value) => {
    place.write("intruder.ts", 'console.log("intruder"); process.exit(3);');
    const { status, stdout, stderr } = await shell('"$NEFTUNE" --version', { [name]: value });
    expect(stdout).toStartWith(`neftune ${packageJson.version}\ncommit `);
    expect(stderr).toBe("");
    expect(status).toBe(0);
  });
});

describe("a limit on address space", () => {
  const evaluation = '"$NEFTUNE" eval --model model --dataset train.json --device cpu';

  test.each([600_000, 1_000_000, 2_000_000, 3_000_000])("ulimit -v %d", async (kib) => {
    const help = await shell(`ulimit -v ${kib}; "$NEFTUNE" --help`);
    expect(help.status).toBe(0);
    expect(help.stdout).toContain("Usage:");
    const { status, stderr } = await shell(`ulimit -v ${kib}; ${evaluation}`);
    expect(stderr).toMatch(
      new RegExp(`^error: address space is limited to .* \\(ulimit -v ${kib}\\); eval needs 3.0 GiB`),
    );
    expect(stderr.trimEnd().split("\n")).toHaveLength(1);
    expect(status).toBe(1);
  });

  test("a high one is no obstacle", async () => {
    const { status, stdout } = await shell(`ulimit -v 30000000; ${evaluation}`);
    expect(stdout).toContain("loss ");
    expect(status).toBe(0);
  });
});
