// Large files to the Hub by Git LFS: asked for in batches (https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md),
// sent to storage whole ("basic") or in the parts that the Hub cuts them into ("multipart").

import { NeftuneError } from "../../errors.ts";
import { type HubClient, Transient, Unsigned } from "./client.ts";
import type { LocalFile } from "./local-file.ts";
import { type Asked, nameOf } from "./refusal.ts";
import { DEFAULT_ENDPOINT, pageOf } from "./settings.ts";

/** The most files that the Hub takes in one question. */
const BATCH = 100;
const LFS_JSON = "application/vnd.git-lfs+json";

export interface LfsFile {
  file: LocalFile;
  sha256: string;
}

interface Action {
  href: string;
  header: Readonly<Record<string, string>>;
}

/** Where a file's bytes go. */
export interface Actions {
  upload: Action;
  verify: Action | null;
}

/** What the Hub wants done with each of the files, by SHA-256; null for a file that it has. Throws NeftuneError. */
export async function askActions(
  client: HubClient,
  asked: Asked,
  files: readonly LfsFile[],
): Promise<Map<string, Actions | null>> {
  const actions = new Map<string, Actions | null>();
  const unique = [...new Map(files.map((file) => [file.sha256, file])).values()];
  for (let start = 0; start < unique.length; start += BATCH) {
    const some = unique.slice(start, start + BATCH);
    const path = `${pageOf(client.settings, asked.kind, asked.id)}.git/info/lfs/objects/batch`;
    const answer = await client.json(path.slice(client.settings.endpoint.length), asked, {
      method: "POST",
      headers: { Accept: LFS_JSON, "Content-Type": LFS_JSON },
      body: JSON.stringify({
        operation: "upload",
        transfers: ["basic", "multipart"],
        hash_algo: "sha256",
        ref: { name: asked.revision },
        objects: some.map(({ file, sha256 }) => ({ oid: sha256, size: file.bytes })),
      }),
    });
    const objects = Array.isArray(answer.objects) ? (answer.objects as Record<string, unknown>[]) : [];
    for (const { file, sha256 } of some) {
      const object = objects.find((each) => each?.oid === sha256);
      actions.set(sha256, actionsOf(object, { ...asked, file: file.name }, client));
    }
  }
  return actions;
}

function actionsOf(
  object: Record<string, unknown> | undefined,
  asked: Asked,
  client: HubClient,
): Actions | null {
  const { endpoint } = client.settings;
  const { message } = (object?.error ?? {}) as { message?: unknown };
  if (object === undefined || message !== undefined) {
    const why =
      message === undefined ? "says nothing about it" : `refuses it: ${String(message).slice(0, 300)}`;
    throw new NeftuneError("hub", `${nameOf(asked)} cannot be uploaded: ${endpoint} ${why}`);
  }
  const { upload, verify } = (object.actions ?? {}) as { upload?: unknown; verify?: unknown };
  if (upload === undefined || upload === null) return null;
  const actionOf = (value: unknown): Action => {
    const { href, header } = value as { href?: unknown; header?: unknown };
    if (typeof href !== "string" || URL.parse(href) === null) {
      throw new NeftuneError("hub", `${nameOf(asked)}: ${endpoint} names no address to upload it to`);
    }
    const entries = Object.entries(header ?? {}).map(([name, text]) => [name, String(text)]);
    // A mirror of the Hub may pass on its addresses as they are.
    const isOriginal = href.startsWith(`${DEFAULT_ENDPOINT}/`);
    return {
      href: isOriginal ? endpoint + href.slice(DEFAULT_ENDPOINT.length) : href,
      header: Object.fromEntries(entries),
    };
  };
  return { upload: actionOf(upload), verify: verify ? actionOf(verify) : null };
}

/**
 * Sends a file to storage. `onProgress` is told how many of its bytes were sent. Throws NeftuneError, InterruptedError.
 */
export async function uploadFile(
  client: HubClient,
  repo: Asked,
  lfsFile: LfsFile,
  actions: Actions,
  onProgress: (bytes: number) => void,
): Promise<void> {
  const { file, sha256 } = lfsFile;
  const asked = { ...repo, file: file.name };
  let current: Actions | null = actions;
  await client.retrying(asked, async () => {
    file.expectUnchanged();
    // Signed addresses are valid for a while only.
    current ??= (await askActions(client, repo, [lfsFile])).get(sha256) ?? null;
    const now = current;
    current = null;
    if (now !== null) await send(client, asked, lfsFile, now, onProgress);
  });
  file.expectUnchanged();
  onProgress(file.bytes);
}

async function send(
  client: HubClient,
  asked: Asked,
  lfsFile: LfsFile,
  { upload, verify }: Actions,
  onProgress: (bytes: number) => void,
): Promise<void> {
  const { file, sha256 } = lfsFile;
  if (upload.header.chunk_size === undefined) {
    const body = file.part(0, file.bytes, onProgress);
    const answer = await client.open(upload.href, asked, { method: "PUT", body, headers: upload.header });
    answer.close();
  } else {
    await sendParts(client, asked, lfsFile, upload, onProgress);
  }
  if (verify !== null) {
    await post(client, verify.href, asked, { oid: sha256, size: file.bytes }, verify.header);
  }
}

async function sendParts(
  client: HubClient,
  asked: Asked,
  { file, sha256 }: LfsFile,
  { href, header }: Action,
  onProgress: (bytes: number) => void,
): Promise<void> {
  const size = Number(header.chunk_size);
  const numbers = Object.keys(header).filter((name) => /^\d+$/.test(name));
  const addresses = numbers.sort((a, b) => Number(a) - Number(b)).map((name) => header[name]!);
  if (!(size > 0) || addresses.length !== Math.ceil(file.bytes / size)) {
    throw new NeftuneError(
      "hub",
      `${nameOf(asked)}: ${client.settings.endpoint} wants ${file.bytes} bytes in ${addresses.length} parts of ${header.chunk_size} bytes, which does not add up`,
    );
  }
  const parts: { partNumber: number; etag: string }[] = [];
  for (const [i, address] of addresses.entries()) {
    const start = i * size;
    const body = file.part(start, Math.min(file.bytes, start + size), (sent) => onProgress(start + sent));
    // A part that fails is sent again alone, unless its address is the fault: then all are new.
    const etag = await client.retrying(asked, async () => {
      file.expectUnchanged();
      try {
        const answer = await client.open(address, asked, { method: "PUT", body });
        answer.close();
        return answer.headers.get("ETag") ?? "";
      } catch (error) {
        if (error instanceof Unsigned) return error;
        throw error;
      }
    });
    if (etag instanceof Unsigned) throw etag;
    if (etag === "") throw new Transient(`${new URL(address).host} gave part ${i + 1} no ETag`);
    parts.push({ partNumber: i + 1, etag });
  }
  await post(client, href, asked, { oid: sha256, parts }, { Accept: LFS_JSON, "Content-Type": LFS_JSON });
}

/** One try to tell the Hub something whose answer says nothing more than its status. */
async function post(
  client: HubClient,
  address: string,
  asked: Asked,
  value: object,
  headers: Readonly<Record<string, string>>,
): Promise<void> {
  const answer = await client.open(address, asked, {
    method: "POST",
    body: JSON.stringify(value),
    headers: { "Content-Type": "application/json", ...headers },
  });
  answer.close();
}
