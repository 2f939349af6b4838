// The README's library example does what it says, run as its own program on a small model.

import { afterAll, expect, test } from "bun:test";
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { makeDemoData } from "../src/cli/demo/data.ts";
import { trainTokenizer, writeTokenizer } from "../src/cli/demo/tokenizer.ts";

const root = join(import.meta.dir, "..");
const scratch = mkdtempSync(join(tmpdir(), "readme-"));
// Inside the package, so that it can import "neftune" by name.
const program = join(root, "dist", "readme-example.ts");
afterAll(() => {
  rmSync(scratch, { recursive: true });
  rmSync(program, { force: true });
});

test("the example of the README trains an adapter", async () => {
  const example = /```ts\n([\s\S]*?)```/.exec(readFileSync(join(root, "README.md"), "utf8"))?.[1];
  if (example === undefined) throw new Error("README.md has no TypeScript example");
  writeFileSync(program, example);

  const model = join(scratch, "model");
  cpSync(join(root, "test/golden/models/tiny-mha-f32"), model, { recursive: true });
  const rows = makeDemoData(0).train.slice(0, 32);
  writeTokenizer(
    model,
    trainTokenizer(
      rows.map(({ instruction, output }) => `${instruction} ${output}`),
      300,
    ),
  );
  const data = join(scratch, "data.json");
  writeFileSync(data, JSON.stringify(rows));

  const output = join(scratch, "run");
  const child = Bun.spawn([process.execPath, program, model, data, output], {
    stdout: "pipe",
    stderr: "pipe",
  });
  const [printed, complaints, status] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  expect(status, complaints).toBe(0);
  expect(printed).toMatch(/^loss \d+\.\d+ after 4 steps: /);
  expect(existsSync(join(output, "adapter_model.safetensors"))).toBe(true);
});
