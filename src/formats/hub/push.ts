// Files into a model repository of the Hub, as one commit: the repository made, large files sent to its storage, small
// ones with the commit. What the Hub has already is not sent again, so the same command goes on after an interruption.

import { NeftuneError } from "../../errors.ts";
import { type ClientOptions, HubClient } from "./client.ts";
import { askActions, type LfsFile, uploadFile } from "./lfs-upload.ts";
import { LocalFile } from "./local-file.ts";
import { inParallel } from "./parallel.ts";
import { stopped, uploading, writeToken } from "./purpose.ts";
import type { Asked } from "./refusal.ts";
import { hubSettings, pageOf } from "./settings.ts";

/** Files at a time; more only share the line out. */
const PARALLEL = 4;
/** The most files that the Hub takes in one question. */
const PREUPLOAD_BATCH = 256;

export interface PushReporter {
  /** Reading the large files, which their names on the Hub are made of. */
  onRead(bytes: number, total: number): void;
  /** `held`: of the bytes, what the Hub has. */
  onStart(what: { id: string; files: number; bytes: number; held: number }): void;
  onProgress(bytes: number, total: number): void;
  onDone(): void;
  note(text: string): void;
}

export interface PushOptions extends Omit<ClientOptions, "note" | "purpose"> {
  env: Readonly<Record<string, string | undefined>>;
  reporter: PushReporter;
}

export interface PushRequest {
  /** org/name. */
  id: string;
  branch: string;
  isPrivate: boolean;
  message: string;
  folder: string;
  /** Paths within the folder. */
  names: readonly string[];
  /** What goes up in place of what small files hold, by name. */
  texts?: ReadonlyMap<string, string>;
}

export interface PushedFile {
  name: string;
  bytes: number;
  /** sent: in this push; present: the Hub had its contents; ignored: the repository's .gitignore leaves it out. */
  state: "sent" | "present" | "ignored";
}

export interface Pushed {
  /** The page of the repository. */
  url: string;
  /** Null where the branch has had all files as they are. */
  commit: string | null;
  files: PushedFile[];
}

/** What is known of a file before the commit. */
interface Planned {
  file: LocalFile;
  isLarge: boolean;
  isIgnored: boolean;
  /** What the branch has at its path: a SHA-256 of large files, git's hash of small ones; null: nothing. */
  remote: string | null;
}

/** Uploads files and commits them. Throws NeftuneError, UsageError, InterruptedError. */
export async function pushFiles(request: PushRequest, options: PushOptions): Promise<Pushed> {
  const { reporter, env, ...rest } = options;
  const settings = hubSettings(env);
  const { id, branch, folder } = request;
  if (settings.offline) {
    throw new NeftuneError("offline", `${id}: HF_HUB_OFFLINE keeps it from being uploaded; unset that`);
  }
  if (settings.token === undefined) {
    throw new NeftuneError("token", `uploading to ${id} needs a token: ${writeToken(settings)}`);
  }
  const client = new HubClient(settings, {
    ...rest,
    note: (text) => reporter.note(text),
    purpose: uploading,
  });
  const asked: Asked = { kind: "model", id, revision: branch };
  const files: LocalFile[] = [];
  try {
    for (const name of request.names) files.push(new LocalFile(folder, name, request.texts?.get(name)));
    await createRepo(client, asked, request.isPrivate);
    const planned = await planOnBranch(client, asked, files);
    return await pushPlanned(client, asked, planned, request, reporter);
  } finally {
    for (const file of files) file.close();
  }
}

const postJson = (value: object) => ({
  method: "POST" as const,
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(value),
});

/** Makes the repository unless it is there. Throws NeftuneError where --private is asked of a public one. */
async function createRepo(client: HubClient, asked: Asked, isPrivate: boolean): Promise<void> {
  const { id } = asked;
  const { endpoint } = client.settings;
  const [organization, name] = id.split("/");
  const visibility = isPrivate ? { private: true } : {};
  const request = postJson({ type: "model", name, organization, ...visibility });
  const page = `${endpoint}/api/models/${id}`;
  let exists = false;
  try {
    exists = await client.retrying(asked, async () => {
      const answer = await client.open(`${endpoint}/api/repos/create`, asked, { ...request, accept: [409] });
      answer.close();
      return answer.status === 409;
    });
  } catch (error) {
    if (!(error instanceof NeftuneError) || error.code !== "token") throw error;
    // A token that is made for one repository may write to it without being able to make it.
    const isThere = await client.retrying(asked, async () => {
      const answer = await client.open(page, asked, { accept: [400, 401, 403, 404] });
      answer.close();
      return answer.status === 200;
    });
    if (!isThere) throw error;
    exists = true;
  }
  if (!isPrivate) return;
  // Nothing that is meant to be private leaves for a place where all can read it.
  const told = await client.json(`/api/models/${id}`, asked).catch((error: unknown) => {
    if (error instanceof NeftuneError && error.code === "not_found") return {};
    throw error;
  });
  if ((told as { private?: unknown }).private !== false) return;
  const what = exists ? "exists and is public" : "was made public by the Hub";
  throw new NeftuneError(
    "public",
    `--private: ${id} ${what}; nothing was uploaded. Make it private at ${pageOf(client.settings, "model", id)}/settings, or leave out --private`,
  );
}

/** Asks what the branch has; makes the branch where it is missing. */
async function planOnBranch(
  client: HubClient,
  asked: Asked,
  files: readonly LocalFile[],
): Promise<Planned[]> {
  const { id, revision } = asked;
  try {
    return await plan(client, asked, files);
  } catch (error) {
    if (!(error instanceof NeftuneError) || error.code !== "no_revision") throw error;
    await client.retrying(asked, async () => {
      const address = `${client.settings.endpoint}/api/models/${id}/branch/${encodeURIComponent(revision)}`;
      const answer = await client.open(address, asked, { ...postJson({}), accept: [409] });
      answer.close();
    });
    return await plan(client, asked, files);
  }
}

async function plan(client: HubClient, asked: Asked, files: readonly LocalFile[]): Promise<Planned[]> {
  const planned: Planned[] = [];
  for (let start = 0; start < files.length; start += PREUPLOAD_BATCH) {
    const some = files.slice(start, start + PREUPLOAD_BATCH);
    const samples = some.map((file) => ({
      path: file.name,
      size: file.bytes,
      sample: Buffer.from(file.sample()).toString("base64"),
    }));
    const path = `/api/models/${asked.id}/preupload/${encodeURIComponent(asked.revision)}`;
    const answer = await client.json(path, asked, postJson({ files: samples }));
    const told = Array.isArray(answer.files) ? (answer.files as Record<string, unknown>[]) : [];
    for (const file of some) {
      const about = told.find((each) => each?.path === file.name);
      const mode = about?.uploadMode;
      if (mode !== "lfs" && mode !== "regular") {
        throw new NeftuneError(
          "hub",
          `${client.settings.endpoint}${path}: expected whether ${file.name} is uploaded as "lfs" or "regular", got ${JSON.stringify(mode)}; is HF_ENDPOINT a Hub?`,
        );
      }
      planned.push({
        file,
        // Storage takes no empty files.
        isLarge: mode === "lfs" && file.bytes > 0,
        isIgnored: about?.shouldIgnore === true,
        remote: typeof about?.oid === "string" ? about.oid : null,
      });
    }
  }
  return planned;
}

async function pushPlanned(
  client: HubClient,
  asked: Asked,
  planned: readonly Planned[],
  request: PushRequest,
  reporter: PushReporter,
): Promise<Pushed> {
  const wanted = planned.filter(({ isIgnored }) => !isIgnored);
  const large = await hashLarge(client, asked, wanted, reporter);
  const small = wanted.filter(({ isLarge }) => !isLarge).map(({ file }) => file);
  const remote = new Map(wanted.map((each) => [each.file, each.remote]));
  const newLarge = large.filter(({ file, sha256 }) => remote.get(file) !== sha256);
  const newSmall = small.filter((file) => remote.get(file) !== file.gitHash());

  const actions = await askActions(client, asked, newLarge);
  const toSend = newLarge.filter(
    ({ sha256 }, i) =>
      actions.get(sha256) != null && newLarge.findIndex((each) => each.sha256 === sha256) === i,
  );
  const sum = (files: readonly LocalFile[]) => files.reduce((bytes, file) => bytes + file.bytes, 0);
  const total = sum(wanted.map(({ file }) => file));
  const sent = [...toSend.map(({ file }) => file), ...newSmall];
  const held = total - sum(sent);
  reporter.onStart({ id: request.id, files: wanted.length, bytes: total, held });
  const progress = new Map<LocalFile, number>();
  const group = new AbortController();
  const grouped = client.within(AbortSignal.any([client.signal, group.signal]));
  try {
    await inParallel(toSend, PARALLEL, group, (file) =>
      uploadFile(grouped, asked, file, actions.get(file.sha256)!, (bytes) => {
        progress.set(file.file, bytes);
        reporter.onProgress(held + progress.values().reduce((all, each) => all + each, 0), total);
      }),
    );
    const commit = await commitFiles(client, asked, request.message, newSmall, newLarge);
    reporter.onProgress(total, total);
    const stateOf = ({ file, isIgnored }: Planned) =>
      isIgnored ? "ignored" : sent.includes(file) ? "sent" : "present";
    return {
      url: pageOf(client.settings, "model", request.id),
      commit,
      files: planned.map((each) => ({
        name: each.file.name,
        bytes: each.file.bytes,
        state: stateOf(each),
      })),
    };
  } finally {
    reporter.onDone();
  }
}

async function hashLarge(
  client: HubClient,
  asked: Asked,
  wanted: readonly Planned[],
  reporter: PushReporter,
): Promise<LfsFile[]> {
  const files = wanted.filter(({ isLarge }) => isLarge).map(({ file }) => file);
  const total = files.reduce((bytes, file) => bytes + file.bytes, 0);
  const hashed: LfsFile[] = [];
  let before = 0;
  for (const file of files) {
    const sha256 = await file.sha256(client.signal, (bytes) => reporter.onRead(before + bytes, total));
    if (client.signal.aborted) throw stopped(asked, uploading);
    hashed.push({ file, sha256 });
    before += file.bytes;
  }
  return hashed;
}

/** Returns the commit's hash, or null where there is nothing to commit. */
async function commitFiles(
  client: HubClient,
  asked: Asked,
  summary: string,
  small: readonly LocalFile[],
  large: readonly LfsFile[],
): Promise<string | null> {
  if (small.length + large.length === 0) return null;
  const lines: object[] = [{ key: "header", value: { summary, description: "" } }];
  for (const file of small) {
    const content = Buffer.from(file.whole()).toString("base64");
    lines.push({ key: "file", value: { path: file.name, content, encoding: "base64" } });
    file.expectUnchanged();
  }
  for (const { file, sha256 } of large) {
    lines.push({ key: "lfsFile", value: { path: file.name, algo: "sha256", oid: sha256, size: file.bytes } });
  }
  const path = `/api/models/${asked.id}/commit/${encodeURIComponent(asked.revision)}`;
  const answer = await client.json(path, asked, {
    method: "POST",
    headers: { "Content-Type": "application/x-ndjson" },
    body: lines.map((line) => `${JSON.stringify(line)}\n`).join(""),
  });
  if (typeof answer.commitOid === "string") return answer.commitOid;
  throw new NeftuneError(
    "hub",
    `${client.settings.endpoint}${path}: answered without a commit; is HF_ENDPOINT a Hub?`,
  );
}
