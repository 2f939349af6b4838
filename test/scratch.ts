// A folder for a test file's own use.

import { afterAll } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Makes the folder; it goes after the last test of the file. */
export function scratchFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "neftune-test-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}
