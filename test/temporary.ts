// Folders of a test process, in one folder that goes when its tests are done (preload.ts).

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

let root: string | null = null;

/** A new folder, whose name begins with `prefix`. */
export function temporaryFolder(prefix: string): string {
  root ??= mkdtempSync(join(tmpdir(), "neftune-tests-"));
  return mkdtempSync(join(root, prefix));
}

export function removeTemporaryFolders(): void {
  if (root !== null) rmSync(root, { recursive: true, force: true });
  root = null;
}
