// A server that answers as the Hub does: its API, files that redirect to a second host, ranges, gates, limits; and
// faults on demand. What it was asked is kept, for tests to look at.

import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface FakeFile {
  name: string;
  bytes: Uint8Array;
  /** Stored apart, under its SHA-256, behind a redirect to another host. */
  lfs: boolean;
  /** What the API says of its size, where that is not its size. */
  announced?: number;
}

export interface FakeRepo {
  kind: "model" | "dataset";
  id: string;
  commit: string;
  files: readonly FakeFile[];
  /** What a token must be for a gated repository. */
  gatedFor?: string;
  card?: unknown;
}

/** A request as it arrived. */
export interface Seen {
  host: "hub" | "storage";
  method: string;
  path: string;
  authorization: string | null;
  range: string | null;
}

/** What goes wrong with a request: another answer, or something done to the body. */
export type Fault =
  | { answer: Answer }
  | { cutAfter: number }
  | { bytesPerSecond: number }
  | { ignoreRange: true }
  | { silent: true }
  /** A body without end or announced size, so many bytes every so many milliseconds. */
  | { endless: { bytes: number; milliseconds: number } }
  | { wrongByte: number };

/** Answers requests that the Hub itself has no answer to; false where it has none either. */
export type Routes = (
  seen: Seen,
  request: IncomingMessage,
  response: ServerResponse,
  fault: Fault | undefined,
) => boolean;

export interface Answer {
  status: number;
  headers?: Readonly<Record<string, string>>;
  body?: Uint8Array | string;
}

export const lfsFile = (name: string, bytes: Uint8Array): FakeFile => ({ name, bytes, lfs: true });
export const smallFile = (name: string, text: string): FakeFile => ({
  name,
  bytes: new TextEncoder().encode(text),
  lfs: false,
});

export const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
export const gitHash = (bytes: Uint8Array) =>
  createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
export const etagOf = ({ bytes, lfs }: FakeFile) => (lfs ? sha256(bytes) : gitHash(bytes));

/** Bytes that differ from place to place. */
export function noise(length: number, seed: number): Uint8Array {
  let state = seed >>> 0;
  return Uint8Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 24;
  });
}

export class FakeHub {
  readonly seen: Seen[] = [];
  /** Asked before every answer; what it returns goes wrong. */
  fault: (seen: Seen) => Fault | undefined = () => undefined;
  /** False: the API lists names alone, as it does without ?blobs=true. */
  listsDetails = true;
  /** Old id → new id. */
  readonly moved = new Map<string, string>();
  /** More of the Hub, asked first. */
  routes: Routes = () => false;
  readonly #repos: FakeRepo[] = [];
  readonly #servers: Server[] = [];

  /** Listens on two addresses of this machine, so that they are two hosts. */
  async open(): Promise<this> {
    for (const [host, address] of [
      ["hub", "127.0.0.1"],
      ["storage", "127.0.0.2"],
    ] as const) {
      const server = createServer((request, response) => this.#handle(host, request, response));
      const { promise, resolve } = Promise.withResolvers<void>();
      server.listen(0, address, resolve);
      await promise;
      this.#servers.push(server);
    }
    return this;
  }

  #address(i: number): string {
    const { address, port } = this.#servers[i]!.address() as AddressInfo;
    return `http://${address}:${port}`;
  }

  get endpoint(): string {
    return this.#address(0);
  }

  /** Where large files are. */
  get storage(): string {
    return this.#address(1);
  }

  add(repo: FakeRepo): void {
    this.#repos.push(repo);
  }

  close(): void {
    for (const server of this.#servers) {
      server.closeAllConnections();
      server.close();
    }
  }

  /** Requests for the contents of files. */
  downloads(): Seen[] {
    return this.seen.filter(({ method, path }) => method === "GET" && !path.startsWith("/api/"));
  }

  #handle(host: Seen["host"], request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url ?? "/", "http://host");
    const seen = {
      host,
      method: request.method ?? "GET",
      path: decodeURIComponent(url.pathname),
      authorization: request.headers.authorization ?? null,
      range: request.headers.range ?? null,
    };
    this.seen.push(seen);
    const fault = this.fault(seen);
    if (fault !== undefined && "answer" in fault) send(response, fault.answer);
    else if (fault !== undefined && "endless" in fault) pour(response, fault.endless).catch(() => {});
    else if (this.routes(seen, request, response, fault)) return;
    else if (host === "hub") this.#answerHub(seen, url.searchParams, fault, response);
    else this.#answerStorage(seen, fault, response);
  }

  #answerHub(seen: Seen, query: URLSearchParams, fault: Fault | undefined, response: ServerResponse): void {
    const { path } = seen;
    for (const [from, to] of this.moved) {
      if (path.includes(`/${from}/`)) {
        return void send(response, {
          status: 307,
          headers: { Location: `${path.replace(from, to)}?${query}` },
        });
      }
    }
    const api = /^\/api\/(model|dataset)s\/([^/]+\/[^/]+)\/revision\/(.+)$/.exec(path);
    if (api !== null) {
      const [, kind, id, revision] = api;
      return void send(response, this.#listing(kind!, id!, revision!, seen, query.get("blobs") === "true"));
    }
    const file = /^\/(datasets\/)?([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(path);
    if (file === null) return void send(response, { status: 404, body: "no such page" });
    const kind = file[1] === undefined ? "model" : "dataset";
    this.#file(this.#find(kind, file[2]!), file[3]!, file[4]!, seen, fault, response);
  }

  #find(kind: string, id: string): FakeRepo | undefined {
    return this.#repos.find((repo) => repo.kind === kind && repo.id === id);
  }

  #listing(kind: string, id: string, revision: string, seen: Seen, blobs: boolean): Answer {
    const repo = this.#find(kind, id);
    // To strangers a repository that is not there looks like a private one.
    if (repo === undefined) return failure(seen.authorization === null ? 401 : 404, "RepoNotFound");
    if (revision !== "main" && revision !== repo.commit) return failure(404, "RevisionNotFound");
    const siblings = repo.files.map((file) =>
      blobs && this.listsDetails ? detailsOf(file) : { rfilename: file.name },
    );
    const body = JSON.stringify({ id, sha: repo.commit, siblings, cardData: repo.card });
    return { status: 200, headers: { "Content-Type": "application/json" }, body };
  }

  #file(
    repo: FakeRepo | undefined,
    revision: string,
    name: string,
    seen: Seen,
    fault: Fault | undefined,
    response: ServerResponse,
  ): void {
    if (repo === undefined) return void send(response, failure(401, "RepoNotFound"));
    if (repo.gatedFor !== undefined && seen.authorization !== `Bearer ${repo.gatedFor}`) {
      return void send(response, failure(seen.authorization === null ? 401 : 403, "GatedRepo"));
    }
    if (revision !== "main" && revision !== repo.commit)
      return void send(response, failure(404, "RevisionNotFound"));
    const file = repo.files.find((candidate) => candidate.name === name);
    if (file === undefined) return void send(response, failure(404, "EntryNotFound"));
    const headers = { "X-Repo-Commit": repo.commit, ETag: `"${etagOf(file)}"` };
    if (!file.lfs) return void sendBytes(response, file.bytes, seen, headers, fault);
    send(response, {
      status: 302,
      headers: {
        ...headers,
        Location: `${this.#address(1)}/${sha256(file.bytes)}?signed=1`,
        "X-Linked-Etag": `"${sha256(file.bytes)}"`,
        "X-Linked-Size": String(file.bytes.length),
      },
    });
  }

  #answerStorage(seen: Seen, fault: Fault | undefined, response: ServerResponse): void {
    const hash = seen.path.slice(1);
    const file = this.#repos.flatMap(({ files }) => files).find(({ bytes }) => sha256(bytes) === hash);
    if (file === undefined) send(response, { status: 403 });
    else sendBytes(response, file.bytes, seen, {}, fault);
  }
}

function detailsOf(file: FakeFile): object {
  const size = file.announced ?? file.bytes.length;
  if (!file.lfs) return { rfilename: file.name, size, blobId: gitHash(file.bytes) };
  const blobId = gitHash(new TextEncoder().encode("a pointer"));
  return { rfilename: file.name, size, blobId, lfs: { sha256: sha256(file.bytes), size, pointerSize: 135 } };
}

export function failure(status: number, code: string): Answer {
  return { status, headers: { "X-Error-Code": code, "X-Error-Message": `a ${code}` }, body: code };
}

export function send(response: ServerResponse, { status, headers = {}, body = "" }: Answer): void {
  response.writeHead(status, { ...headers });
  response.end(body);
}

/** The bytes, or the range of them that was asked for, whole or as the fault has it. */
function sendBytes(
  response: ServerResponse,
  bytes: Uint8Array,
  { method, range }: Seen,
  headers: Record<string, string>,
  fault: Fault | undefined,
): void {
  const knowsRanges = fault === undefined || !("ignoreRange" in fault);
  const from = knowsRanges ? /^bytes=(\d+)-$/.exec(range ?? "")?.[1] : undefined;
  const start = Number(from ?? 0);
  if (start > 0 && start >= bytes.length) {
    return void send(response, { status: 416, headers: { "Content-Range": `bytes */${bytes.length}` } });
  }
  const part = bytes.slice(start);
  response.writeHead(from === undefined ? 200 : 206, {
    ...headers,
    "Accept-Ranges": "bytes",
    "Content-Length": part.length,
    ...(from === undefined ? {} : { "Content-Range": `bytes ${start}-${bytes.length - 1}/${bytes.length}` }),
  });
  if (method === "HEAD") response.end();
  else if (fault === undefined) response.end(part);
  else spoil(response, part, start, fault).catch(() => {});
}

async function pour(
  response: ServerResponse,
  { bytes, milliseconds }: { bytes: number; milliseconds: number },
): Promise<void> {
  response.writeHead(200, { "Content-Type": "application/json" });
  response.write('{"sha": "');
  const chunk = new Uint8Array(bytes).fill(0x61);
  while (!response.destroyed) {
    if (!response.writableNeedDrain) response.write(chunk);
    await Bun.sleep(milliseconds);
  }
}

async function spoil(response: ServerResponse, part: Uint8Array, start: number, fault: Fault): Promise<void> {
  if ("silent" in fault) {
    response.write(part.slice(0, 1));
    return;
  }
  if ("cutAfter" in fault) {
    response.write(part.slice(0, fault.cutAfter));
    // Otherwise the bytes might not leave this machine's buffers.
    await Bun.sleep(40);
    response.socket?.destroy();
    return;
  }
  if ("bytesPerSecond" in fault) {
    const chunk = Math.max(1, Math.round(fault.bytesPerSecond / 20));
    for (let at = 0; at < part.length && !response.destroyed; at += chunk) {
      response.write(part.slice(at, at + chunk));
      await Bun.sleep(50);
    }
  } else {
    if ("wrongByte" in fault && fault.wrongByte >= start) part[fault.wrongByte - start]! ^= 1;
    response.write(part);
  }
  response.end();
}
