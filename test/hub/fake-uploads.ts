// What the fake Hub knows of uploads: repositories made, large files taken into storage whole or in parts, commits.

import type { IncomingMessage, ServerResponse } from "node:http";
import {
  type Answer,
  type FakeFile,
  type FakeHub,
  type Fault,
  failure,
  gitHash,
  type Seen,
  send,
  sha256,
} from "./fake-hub.ts";

interface Made {
  isPrivate: boolean;
  /** Path → file, by branch. */
  branches: Map<string, Map<string, FakeFile>>;
  commits: { branch: string; summary: string; paths: string[] }[];
}

interface Wanted {
  path: string;
  size: number;
  sample: string;
}

const TOKENS = { write: "Bearer hf_write", read: "Bearer hf_read" };
/** A file of more bytes is a large one, as is one that is not text. */
const SMALL_BYTES = 10_000;

export class FakeUploads {
  readonly repos = new Map<string, Made>();
  /** By SHA-256: what storage holds. */
  readonly stored = new Map<string, Uint8Array>();
  /** By SHA-256: parts that came, by number. */
  readonly parts = new Map<string, Map<number, Uint8Array>>();
  /** By SHA-256: what was told to be whole. */
  readonly verified: string[] = [];
  /** Files of more bytes are taken in parts of so many. */
  partBytes = 400_000;
  /** A file of this name is refused at the batch. */
  refused: string | null = null;
  gitIgnored: readonly string[] = [];
  readonly #hub: FakeHub;

  constructor(hub: FakeHub) {
    this.#hub = hub;
    hub.routes = (seen, request, response, fault) => this.#route(seen, request, response, fault);
  }

  /** A repository that is there, with main. */
  make(id: string, isPrivate = false): Made {
    const made: Made = { isPrivate, branches: new Map([["main", new Map()]]), commits: [] };
    this.repos.set(id, made);
    this.#hub.add({
      ...{ kind: "model", id },
      get commit() {
        return commitOf(made);
      },
      get files() {
        return [...made.branches.get("main")!.values()];
      },
    });
    return made;
  }

  #route(seen: Seen, request: IncomingMessage, response: ServerResponse, fault: Fault | undefined): boolean {
    const { host, method, path } = seen;
    if (host === "storage") {
      if (method !== "PUT") return false;
      answerWith(response, this.#take(path, request, fault));
      return true;
    }
    const info = /^\/api\/models\/([^/]+\/[^/]+)$/.exec(path)?.[1];
    if (method === "GET" && info !== undefined) {
      const made = this.repos.get(info);
      send(response, json(made === undefined ? null : { id: info, private: made.isPrivate }));
      return true;
    }
    if (method !== "POST") return false;
    answerWith(
      response,
      bodyOf(request).then((body) => this.#post(seen, body)),
    );
    return true;
  }

  #post({ path, authorization }: Seen, body: Uint8Array): Answer {
    // Completion's address is a signed one.
    if (authorization !== TOKENS.write && path !== "/lfs/complete") {
      const status = authorization === TOKENS.read ? 403 : 401;
      const error =
        status === 403 ? "you have read access only" : "Invalid credentials in Authorization header";
      return { status, body: JSON.stringify({ error }) };
    }
    const text = new TextDecoder().decode(body);
    if (path === "/api/repos/create") return this.#create(JSON.parse(text));
    const batch = /^\/([^/]+\/[^/]+)\.git\/info\/lfs\/objects\/batch$/.exec(path);
    if (batch !== null) return this.#batch(JSON.parse(text));
    if (path === "/lfs/verify" || path === "/lfs/complete") return this.#finish(path, JSON.parse(text));
    const api = /^\/api\/models\/([^/]+\/[^/]+)\/(preupload|commit|branch)\/(.+)$/.exec(path);
    const made = this.repos.get(api?.[1] ?? "");
    if (api === null || made === undefined) return failure(404, "RepoNotFound");
    const branch = api[3]!;
    if (api[2] === "branch") {
      made.branches.set(branch, new Map(made.branches.get("main")));
      return json({});
    }
    const files = made.branches.get(branch);
    if (files === undefined) return failure(404, "RevisionNotFound");
    if (api[2] === "preupload") return this.#preupload(JSON.parse(text), files);
    return this.#commit(api[1]!, branch, text);
  }

  #create(asked: Record<string, unknown>): Answer {
    const id = `${asked.organization}/${asked.name}`;
    if ((asked.type ?? "model") !== "model") return { status: 400, body: '{"error": "what type?"}' };
    const url = `${this.#hub.endpoint}/${id}`;
    if (this.repos.has(id)) {
      const body = JSON.stringify({ error: "You already created this model repo", url });
      return { status: 409, body };
    }
    this.make(id, asked.private === true || asked.visibility === "private");
    return json({ url, name: id });
  }

  #preupload(asked: { files: Wanted[] }, files: Map<string, FakeFile>): Answer {
    const told = asked.files.map(({ path, size, sample }) => {
      const isText = !Buffer.from(sample, "base64").includes(0);
      const there = files.get(path);
      const oid = there && (there.lfs ? sha256(there.bytes) : gitHash(there.bytes));
      const uploadMode = isText && size <= SMALL_BYTES ? "regular" : "lfs";
      return { path, uploadMode, shouldIgnore: this.gitIgnored.includes(path), ...(oid && { oid }) };
    });
    return json({ files: told });
  }

  #batch(asked: { objects: { oid: string; size: number }[] }): Answer {
    const { endpoint, storage } = this.#hub;
    const objects = asked.objects.map(({ oid, size }) => {
      if (this.refused === oid) return { oid, size, error: { code: 422, message: "too large for you" } };
      if (this.stored.has(oid)) return { oid, size };
      const verify = { href: `${endpoint}/lfs/verify` };
      if (size <= this.partBytes)
        return { oid, size, actions: { upload: { href: `${storage}/${oid}?signed=1` }, verify } };
      this.parts.set(oid, new Map());
      const count = Math.ceil(size / this.partBytes);
      const addresses = Array.from({ length: count }, (_, i) => [
        i + 1,
        `${storage}/${oid}/${i + 1}?signed=1`,
      ]);
      const header = { chunk_size: String(this.partBytes), ...Object.fromEntries(addresses) };
      return { oid, size, actions: { upload: { href: `${endpoint}/lfs/complete`, header }, verify } };
    });
    return json({ transfer: "basic", objects });
  }

  /** A whole file at /OID, a part at /OID/NUMBER; nothing that a signed address does not announce. */
  async #take(path: string, request: IncomingMessage, fault: Fault | undefined): Promise<Answer | null> {
    const [, oid = "", part] = path.split("/");
    const announced = Number(request.headers["content-length"]);
    const cut = fault !== undefined && "cutAfter" in fault ? fault.cutAfter : Number.POSITIVE_INFINITY;
    const pause = fault !== undefined && "bytesPerSecond" in fault ? 1000 / fault.bytesPerSecond : 0;
    const bytes = await bodyOf(request, cut, pause);
    if (fault !== undefined && "silent" in fault) return null;
    if (request.headers.authorization !== undefined || announced !== bytes.length) {
      return { status: 400, body: "two ways to sign, or no length" };
    }
    if (part !== undefined) this.parts.get(oid)!.set(Number(part), bytes);
    else if (sha256(bytes) === oid) this.stored.set(oid, bytes);
    else return { status: 400, body: "another checksum" };
    return { status: 200, headers: { ETag: `"${gitHash(bytes)}"` } };
  }

  #finish(
    path: string,
    asked: { oid: string; size: number; parts: { partNumber: number; etag: string }[] },
  ): Answer {
    const { oid } = asked;
    if (path === "/lfs/complete") {
      const held = this.parts.get(oid)!;
      const parts = asked.parts.map(({ partNumber }) => held.get(partNumber)!);
      const fits = asked.parts.every(({ etag }, i) => etag === `"${gitHash(parts[i]!)}"`);
      const bytes = new Uint8Array(Buffer.concat(parts));
      if (!fits || sha256(bytes) !== oid) return { status: 422, body: '{"error": "parts"}' };
      this.stored.set(oid, bytes);
    } else {
      if (this.stored.get(oid)?.length !== asked.size) return { status: 404 };
      this.verified.push(oid);
    }
    return json({});
  }

  #commit(id: string, branch: string, text: string): Answer {
    const made = this.repos.get(id)!;
    const lines = text
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));
    const files = new Map(made.branches.get(branch));
    for (const { key, value } of lines.slice(1)) {
      const bytes =
        key === "file" ? new Uint8Array(Buffer.from(value.content, "base64")) : this.stored.get(value.oid);
      if (bytes === undefined) return { status: 400, body: '{"error": "a pointer to nothing"}' };
      files.set(value.path, { name: value.path, bytes, lfs: key === "lfsFile" });
    }
    made.branches.set(branch, files);
    made.commits.push({
      ...{ branch, summary: lines[0].value.summary },
      paths: lines.slice(1).map(({ value }) => value.path),
    });
    const commitOid = commitOf(made);
    return json({ success: true, commitOid, commitUrl: `${this.#hub.endpoint}/${id}/commit/${commitOid}` });
  }
}

const commitOf = ({ commits }: Made) => String(commits.length).padStart(40, "c");

function json(value: object | null): Answer {
  if (value === null) return failure(404, "RepoNotFound");
  return { status: 200, headers: { "Content-Type": "application/json" }, body: JSON.stringify(value) };
}

/** Null: no answer, ever. */
async function answerWith(response: ServerResponse, coming: Promise<Answer | null>): Promise<void> {
  try {
    const answer = await coming;
    if (answer !== null) send(response, answer);
  } catch {
    response.destroy();
  }
}

/** The whole body, every byte taking `pause` milliseconds; ends the connection after `most` bytes. */
async function bodyOf(
  request: IncomingMessage,
  most = Number.POSITIVE_INFINITY,
  pause = 0,
): Promise<Uint8Array> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request) {
    chunks.push(chunk as Buffer);
    bytes += (chunk as Buffer).length;
    if (pause > 0) await Bun.sleep((chunk as Buffer).length * pause);
    if (bytes < most) continue;
    request.socket.destroy();
    throw new Error("cut");
  }
  return new Uint8Array(Buffer.concat(chunks));
}
