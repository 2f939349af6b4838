// The cache's layout, which is huggingface_hub's (https://huggingface.co/docs/huggingface_hub/guides/manage-cache):
//
//   models--org--name/blobs/ETAG                 contents, named by SHA-256 (large files) or git's SHA-1 (small ones)
//   models--org--name/snapshots/COMMIT/FILE      a relative link to its blob
//   models--org--name/refs/REVISION              the commit that a branch or tag meant when it was last looked up
//   .locks/models--org--name/ETAG.lock           who downloads

import { mkdirSync, readFileSync, renameSync, rmSync, statSync, symlinkSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { NeftuneError } from "../../errors.ts";
import { type RepoKind, repoFolderName } from "../hub-cache.ts";
import { ioError, writeTextAtomically } from "../io.ts";

/** A file as the Hub lists it. */
export interface RemoteFile {
  /** Its path in the repository, with slashes. */
  name: string;
  bytes: number;
  /** What the blob is called: SHA-256 of the contents in LFS, git's SHA-1 of others. */
  etag: string;
}

/** Throws NeftuneError for a name that could lead out of the folder it is put into. */
export function expectSafeName(name: string): string {
  const parts = name.split("/");
  const isSafe = parts.every((part) => part !== "" && part !== "." && part !== "..");
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  if (isSafe && !/[\\\x00-\x1f]/.test(name) && name.length < 1000) return name;
  throw new NeftuneError(
    "hub",
    `the Hub lists a file called ${JSON.stringify(name.slice(0, 200))}, whose name would lead out of the cache's folder; nothing of it was written`,
  );
}

export class RepoFolder {
  readonly #cacheDir: string;
  readonly #folder: string;

  constructor(cacheDir: string, kind: RepoKind, id: string) {
    this.#cacheDir = cacheDir;
    this.#folder = repoFolderName(kind, id);
  }

  get root(): string {
    return join(this.#cacheDir, this.#folder);
  }

  blob({ etag }: RemoteFile): string {
    return join(this.root, "blobs", etag);
  }

  lock({ etag }: RemoteFile): string {
    return join(this.#cacheDir, ".locks", this.#folder, `${etag}.lock`);
  }

  snapshot(commit: string): string {
    return join(this.root, "snapshots", commit);
  }

  file(commit: string, name: string): string {
    return join(this.snapshot(commit), expectSafeName(name));
  }

  /** True where the file can be read in the snapshot, with the size that the Hub says. */
  holds(commit: string, file: RemoteFile): boolean {
    return sizeOf(this.file(commit, file.name)) === file.bytes;
  }

  hasBlob(file: RemoteFile): boolean {
    return sizeOf(this.blob(file)) === file.bytes;
  }

  /** Makes a file of the snapshot lead to its blob, in one move; where the file system has no links, moves the blob there. */
  show(commit: string, file: RemoteFile): void {
    const path = this.file(commit, file.name);
    const blob = this.blob(file);
    const draft = `${path}.${process.pid}.link`;
    try {
      mkdirSync(dirname(path), { recursive: true });
      try {
        rmSync(draft, { force: true });
        symlinkSync(relative(dirname(path), blob), draft);
        renameSync(draft, path);
      } catch (error) {
        if (!["EPERM", "ENOTSUP", "ENOSYS"].includes((error as NodeJS.ErrnoException).code ?? ""))
          throw error;
        renameSync(blob, path);
      }
    } catch (error) {
      throw ioError(path, "created", error);
    }
  }

  /** Notes which commit a branch or tag means. A commit needs no note. */
  writeRef(revision: string, commit: string): void {
    if (revision === commit) return;
    const path = join(this.root, "refs", revision);
    try {
      if (readFileSync(path, "utf8") === commit) return;
    } catch {
      // Not there yet.
    }
    try {
      mkdirSync(dirname(path), { recursive: true });
    } catch (error) {
      throw ioError(path, "created", error);
    }
    writeTextAtomically(path, commit);
  }
}

/** Bytes of the file that `path` leads to; -1 where there is none. */
export function sizeOf(path: string): number {
  try {
    const found = statSync(path);
    return found.isFile() ? found.size : -1;
  } catch {
    // What keeps it from being read keeps it from being written, too, and is told then.
    return -1;
  }
}
