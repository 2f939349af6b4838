// The declarations of the library, as tsc writes them.

import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "../../compile.ts";
import { run } from "../../toolchain.ts";
import type { Entry } from "../tar.ts";

/** Every .d.ts file that src/index.ts reaches, by its path below src. */
export async function libraryTypes(): Promise<Entry[]> {
  const folder = mkdtempSync(join(tmpdir(), "neftune-types-"));
  try {
    const config = join(root, "build", "release", "npm", "tsconfig.json");
    await run([
      process.execPath,
      join(root, "node_modules/typescript/bin/tsc"),
      "-p",
      config,
      "--outDir",
      folder,
    ]);
    return readdirSync(folder, { recursive: true, encoding: "utf8" })
      .filter((path) => path.endsWith(".d.ts"))
      .map((path) => ({ path, bytes: readFileSync(join(folder, path)) }));
  } finally {
    rmSync(folder, { recursive: true });
  }
}
