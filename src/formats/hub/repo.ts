// The files of a repository that a run needs, out of the Hub into the cache: listed, chosen, checked for space,
// downloaded in parallel.

import { mkdirSync, statfsSync } from "node:fs";
import { NeftuneError } from "../../errors.ts";
import type { RepoKind } from "../hub-cache.ts";
import { ioError } from "../io.ts";
import type { HubClient } from "./client.ts";
import { bytesLeft, downloadFile } from "./download.ts";
import { expectSafeName, type RemoteFile, RepoFolder } from "./layout.ts";
import { inParallel } from "./parallel.ts";
import { type Asked, nameOf } from "./refusal.ts";
import { pageOf } from "./settings.ts";

/** As many as huggingface_hub downloads at once. */
const PARALLEL = 8;

export interface Listing {
  kind: RepoKind;
  id: string;
  revision: string;
  /** What the revision means now. */
  commit: string;
  /** Every file's path. */
  names: readonly string[];
  /** Sizes and hashes, of files where the listing says them. */
  details: ReadonlyMap<string, RemoteFile>;
  /** The data set card's header, where it has one. */
  card: unknown;
}

/** A download as a whole, for a progress line. */
export interface DownloadReporter {
  onStart(what: { id: string; files: number; bytes: number; held: number; folder: string }): void;
  onProgress(bytes: number, total: number): void;
  onDone(): void;
  note(text: string): void;
}

const ETAG = /^[\w.-]{1,128}$/;

/** Asks the Hub what a revision holds. Throws NeftuneError: missing, gated, unreachable. */
export async function listRepo(
  client: HubClient,
  kind: RepoKind,
  id: string,
  revision: string,
): Promise<Listing> {
  const asked = { kind, id, revision };
  const path = `/api/${kind}s/${id}/revision/${encodeURIComponent(revision)}?blobs=true`;
  const answer = await client.json(path, asked);
  const { sha, siblings } = answer;
  if (typeof sha !== "string" || !/^[0-9a-zA-Z]{4,64}$/.test(sha) || !Array.isArray(siblings)) {
    throw new NeftuneError(
      "hub",
      `${nameOf(asked)}: ${client.settings.endpoint} answered without a commit and a list of files; is HF_ENDPOINT a Hub?`,
    );
  }
  const names: string[] = [];
  const details = new Map<string, RemoteFile>();
  for (const entry of siblings as Record<string, unknown>[]) {
    const name = entry?.rfilename;
    if (typeof name !== "string") continue;
    names.push(name);
    const file = detailsOf(name, entry);
    if (file !== null) details.set(name, file);
  }
  return { kind, id, revision, commit: sha, names, details, card: answer.cardData };
}

function detailsOf(name: string, entry: Record<string, unknown>): RemoteFile | null {
  const lfs = entry.lfs as Record<string, unknown> | null | undefined;
  const etag = lfs?.sha256 ?? lfs?.oid ?? entry.blobId;
  const bytes = lfs?.size ?? entry.size;
  if (typeof etag !== "string" || !/^(?:[0-9a-f]{40}|[0-9a-f]{64})$/.test(etag)) return null;
  return Number.isSafeInteger(bytes) && (bytes as number) >= 0
    ? { name, bytes: bytes as number, etag }
    : null;
}

function fileUrl(client: HubClient, { kind, id, commit }: Listing, name: string): string {
  const path = name.split("/").map(encodeURIComponent).join("/");
  return `${pageOf(client.settings, kind, id)}/resolve/${commit}/${path}`;
}

/** What the listing did not say, from the headers that the file itself is announced with. */
async function askDetails(client: HubClient, listing: Listing, name: string): Promise<RemoteFile> {
  const asked: Asked = { ...listing, file: name };
  return client.retrying(asked, async () => {
    const url = fileUrl(client, listing, name);
    const { headers, close } = await client.open(url, asked, { method: "HEAD", stayOnHub: true });
    close();
    const etag = (headers.get("X-Linked-Etag") ?? headers.get("ETag") ?? "")
      .replace(/^W\//, "")
      .replaceAll('"', "");
    const bytes = Number(headers.get("X-Linked-Size") ?? headers.get("Content-Length") ?? Number.NaN);
    if (!ETAG.test(etag) || /^\.+$/.test(etag) || !Number.isSafeInteger(bytes) || bytes < 0) {
      throw new NeftuneError("hub", `${nameOf(asked)}: the Hub says neither its hash (ETag) nor its size`);
    }
    return { name, bytes, etag };
  });
}

/**
 * Makes `names` of a listing readable in its snapshot folder, whose path is returned. Throws NeftuneError, and
 * InterruptedError once the client's signal aborts; what was downloaded by then stays, to go on from.
 */
export async function downloadFiles(
  client: HubClient,
  listing: Listing,
  names: readonly string[],
  reporter: DownloadReporter,
): Promise<string> {
  const { kind, id, commit } = listing;
  const folder = new RepoFolder(client.settings.cacheDir, kind, id);
  for (const name of names) expectSafeName(name);
  const group = new AbortController();
  const grouped = client.within(AbortSignal.any([client.signal, group.signal]));
  const files = await inParallel(names, PARALLEL, group, async (name) => {
    return listing.details.get(name) ?? (await askDetails(grouped, listing, name));
  });
  const missing = files.filter((file) => !folder.holds(commit, file));
  if (missing.length === 0) return folder.snapshot(commit);

  const progress = new Map<string, number>();
  for (const file of missing) {
    progress.set(
      file.name,
      folder.hasBlob(file) ? file.bytes : Math.min(file.bytes, bytesLeft(folder, file)),
    );
  }
  const total = missing.reduce((sum, { bytes }) => sum + bytes, 0);
  const done = () => progress.values().reduce((sum, bytes) => sum + bytes, 0);
  expectSpace(client.settings.cacheDir, id, total - done());
  reporter.onStart({ id, files: missing.length, bytes: total, held: done(), folder: folder.root });
  try {
    await inParallel(missing, PARALLEL, group, (file) =>
      downloadFile({
        client: grouped,
        folder,
        asked: { ...listing, file: file.name },
        commit,
        file,
        url: fileUrl(client, listing, file.name),
        onProgress: (bytes) => {
          progress.set(file.name, bytes);
          reporter.onProgress(done(), total);
        },
        note: (text) => reporter.note(text),
      }),
    );
  } finally {
    reporter.onDone();
  }
  return folder.snapshot(commit);
}

/** Notes in the cache that the listing's revision is its commit: once all that a run needs is there. */
export function rememberRevision(client: HubClient, { kind, id, revision, commit }: Listing): void {
  new RepoFolder(client.settings.cacheDir, kind, id).writeRef(revision, commit);
}

function size(bytes: number): string {
  return bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)} GiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}

/** Throws NeftuneError where the cache's file system has less room than `bytes`. */
function expectSpace(cacheDir: string, id: string, bytes: number): void {
  let free: number;
  try {
    mkdirSync(cacheDir, { recursive: true });
    const { bavail, bsize } = statfsSync(cacheDir);
    free = bavail * bsize;
  } catch (error) {
    throw ioError(cacheDir, "used as the Hugging Face cache", error);
  }
  if (bytes <= free) return;
  throw new NeftuneError(
    "no_space",
    `${id}: ${size(bytes)} to download, ${size(free)} free in ${cacheDir}; free some, or set HF_HUB_CACHE to a folder with more room`,
  );
}
