// What every start of the executable waits for.

import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";

const root = join(import.meta.dir, "..", "..", "src");
/** Each takes milliseconds to load, and few commands need them: `await import(…)` waits until one does. */
const slow = ["net", "child_process", "readline", "http", "https", "tls", "worker_threads"];

test("no module loads Bun's larger ones: a bundle loads them at once, whichever command runs", () => {
  const transpiler = new Bun.Transpiler({ loader: "ts" });
  const modules = new Set([join(root, "main.ts")]);
  const found: string[] = [];
  for (const module of modules) {
    for (const { kind, path } of transpiler.scanImports(readFileSync(module, "utf8"))) {
      const target = join(dirname(module), path);
      if (path.startsWith(".") && path.endsWith(".ts") && existsSync(target)) modules.add(target);
      if (kind === "import-statement" && slow.includes(path.replace(/^node:/, "")))
        found.push(`${relative(root, module)}: ${path}`);
    }
  }
  expect(modules.size).toBeGreaterThan(200);
  expect(found).toEqual([]);
});
