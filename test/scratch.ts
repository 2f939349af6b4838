// A folder for a test file's own use.

import { afterAll } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Where a folder lies in memory, if there is such a place: a checkpoint waits for the disk ten times. */
export const inMemory = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();

/** Makes the folder; it goes after the last test of the file. */
export function scratchFolder(parent = tmpdir()): string {
  const folder = mkdtempSync(join(parent, "neftune-test-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Gives a new place in one such folder at each call. */
export function scratchFolders(parent?: string): () => string {
  const root = scratchFolder(parent);
  let count = 0;
  return () => join(root, `folder-${count++}`);
}
