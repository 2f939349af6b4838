// One file of the Hub into the cache. It grows as BLOB.incomplete, goes on there after an interruption, and gets its
// name once size and hash are those that the Hub promised.

import {
  closeSync,
  constants,
  fstatSync,
  fsync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
} from "node:fs";
import { dirname } from "node:path";
import { promisify } from "node:util";
import { NeftuneError } from "../../errors.ts";
import { flushFolder, ioError, writeAllAt } from "../io.ts";
import { type HubClient, Stalled, Transient } from "./client.ts";
import { type RemoteFile, type RepoFolder, sizeOf } from "./layout.ts";
import { FileLock } from "./lock.ts";
import { downloading, stopped } from "./purpose.ts";
import { type Asked, nameOf } from "./refusal.ts";

export interface Download {
  client: HubClient;
  folder: RepoFolder;
  asked: Asked;
  commit: string;
  file: RemoteFile;
  /** Where the file's bytes are. */
  url: string;
  /** Bytes of this file that are on this machine by now. */
  onProgress: (bytes: number) => void;
  note: (text: string) => void;
}

const READ_BYTES = 4 * 2 ** 20;

/** Bytes that an earlier download left. */
export function bytesLeft(folder: RepoFolder, file: RemoteFile): number {
  return Math.max(0, sizeOf(`${folder.blob(file)}.incomplete`));
}

/** Makes `file` readable in the snapshot, downloading what is missing of it. Throws NeftuneError, InterruptedError. */
export async function downloadFile(download: Download): Promise<void> {
  const { client, folder, asked, commit, file, onProgress, note } = download;
  if (!folder.holds(commit, file) && !folder.hasBlob(file)) {
    const lock = await FileLock.acquire(folder.lock(file), client.signal, () =>
      note(`${nameOf(asked)}: another process is downloading it; waiting`),
    );
    if (lock === null) throw stopped(asked, downloading);
    try {
      if (!folder.hasBlob(file)) await fill(download, lock.exclusive);
    } finally {
      lock.release();
    }
  }
  if (!folder.holds(commit, file)) folder.show(commit, file);
  onProgress(file.bytes);
}

async function fill(download: Download, exclusive: boolean): Promise<void> {
  const { client, folder, asked, file } = download;
  const blob = folder.blob(file);
  const partial = exclusive ? `${blob}.incomplete` : `${blob}.${process.pid}.incomplete`;
  let growing: GrowingFile | null = null;
  try {
    mkdirSync(dirname(blob), { recursive: true });
    growing = new GrowingFile(partial, file);
    await growing.readBack(client.signal);
    const found = growing.bytes;
    await client.retrying(asked, () => receive(download, growing!));
    let problem = growing.problem();
    if (problem !== null && found > 0) {
      // What lay there may have been the fault.
      growing.restart();
      await client.retrying(asked, () => receive(download, growing!));
      problem = growing.problem();
    }
    if (problem !== null) {
      rmSync(partial, { force: true });
      throw new NeftuneError(
        "hub",
        `${nameOf(asked)}: ${problem}; the download was discarded. Try again; if the error stays, the Hub or a proxy on the way to it is at fault`,
      );
    }
    await growing.flush();
    renameSync(partial, blob);
    flushFolder(dirname(blob));
  } catch (error) {
    // Under this process's name no other would go on with it.
    if (!exclusive) rmSync(partial, { force: true });
    throw ioError(partial, "written", error);
  } finally {
    growing?.close();
  }
}

/** One try to receive what is missing. */
async function receive(
  { client, asked, file, url, onProgress }: Download,
  growing: GrowingFile,
): Promise<void> {
  if (growing.bytes > file.bytes) growing.restart();
  onProgress(growing.bytes);
  const start = growing.bytes;
  if (start === file.bytes) return;
  const headers: Record<string, string> = start > 0 ? { Range: `bytes=${start}-` } : {};
  const answer = await client.open(url, asked, { headers, accept: [416] });
  if (answer.status === 416) {
    answer.close();
    growing.restart();
    throw new Transient("the server does not have the missing byte range");
  }
  const range = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(answer.headers.get("Content-Range") ?? "");
  if (answer.status === 206 && Number(range?.[1]) !== start) {
    answer.close();
    growing.restart();
    throw new Transient("the server sent another range than the one asked for");
  }
  // A server that knows no ranges sends all of it.
  if (answer.status !== 206 && start > 0) growing.restart();
  const before = growing.bytes;
  try {
    for await (const chunk of answer.chunks()) {
      growing.append(chunk);
      onProgress(Math.min(growing.bytes, file.bytes));
      // More than was promised is told by its size; no need to fill the disk with it.
      if (growing.bytes > file.bytes) return;
    }
  } catch (error) {
    if (!(error instanceof Transient) || error instanceof Stalled) throw error;
    throw new Transient(error.message, error.delay, growing.bytes > before);
  }
  if (growing.bytes < file.bytes) {
    throw new Transient(
      `the connection ended after ${growing.bytes} of ${file.bytes} bytes`,
      null,
      growing.bytes > before,
    );
  }
}

/** A file that is appended to while its hash is computed. */
class GrowingFile {
  readonly #fd: number;
  readonly #file: RemoteFile;
  #hasher: Bun.CryptoHasher;
  #bytes = 0;

  constructor(path: string, file: RemoteFile) {
    this.#fd = openSync(path, constants.O_RDWR | constants.O_CREAT, 0o666);
    this.#file = file;
    this.#hasher = hasherOf(file);
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Hashes what an earlier download left; more than the whole file is thrown away. */
  async readBack(signal: AbortSignal): Promise<void> {
    const { size } = fstatSync(this.#fd);
    if (size > this.#file.bytes) return this.restart();
    const buffer = new Uint8Array(Math.min(size, READ_BYTES));
    while (this.#bytes < size && !signal.aborted) {
      const count = readSync(this.#fd, buffer, 0, buffer.length, this.#bytes);
      if (count === 0) break;
      this.#hasher.update(buffer.subarray(0, count));
      this.#bytes += count;
      // Others go on meanwhile.
      await Bun.sleep(0);
    }
  }

  restart(): void {
    ftruncateSync(this.#fd, 0);
    this.#hasher = hasherOf(this.#file);
    this.#bytes = 0;
  }

  append(chunk: Uint8Array): void {
    writeAllAt(this.#fd, chunk, this.#bytes);
    this.#hasher.update(chunk);
    this.#bytes += chunk.length;
  }

  /** What is wrong with the whole file, or null. */
  problem(): string | null {
    const { bytes, etag } = this.#file;
    if (this.#bytes !== bytes) return `expected ${bytes} bytes, got ${this.#bytes} or more`;
    const kind = hashOf(etag);
    if (kind === null) return null;
    const digest = this.#hasher.digest("hex");
    if (digest === etag) return null;
    return `expected the ${kind === "sha256" ? "SHA-256" : "git hash"} ${etag}, got ${digest}`;
  }

  flush(): Promise<void> {
    return promisify(fsync)(this.#fd);
  }

  close(): void {
    closeSync(this.#fd);
  }
}

function hashOf(etag: string): "sha256" | "sha1" | null {
  return /^[0-9a-f]{64}$/.test(etag) ? "sha256" : /^[0-9a-f]{40}$/.test(etag) ? "sha1" : null;
}

/** Large files are named by SHA-256, small ones as git names blobs: SHA-1 of `blob SIZE\0` and the contents. */
function hasherOf({ bytes, etag }: RemoteFile): Bun.CryptoHasher {
  if (hashOf(etag) !== "sha1") return new Bun.CryptoHasher("sha256");
  return new Bun.CryptoHasher("sha1").update(`blob ${bytes}\0`);
}
