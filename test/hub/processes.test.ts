// Several processes on one cache, and processes that die.

import { afterEach, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { type Seen, sha256 } from "./fake-hub.ts";
import { COMMIT, FOLDER, makePlace, modelFiles, needed, type Place, SHARD } from "./support.ts";

setDefaultTimeout(60_000);
const child = join(import.meta.dir, "child.ts");
const isShard = ({ host, path }: Seen) => host === "storage" && path === `/${sha256(SHARD.bytes)}`;
const places: Place[] = [];
afterEach(() => {
  for (const place of places.splice(0)) place.close();
});

async function place(): Promise<Place> {
  const made = await makePlace();
  places.push(made);
  return made;
}

function start({ env }: Place) {
  return Bun.spawn([process.execPath, child], {
    env: { ...env, PATH: "/usr/bin:/bin" },
    stdout: "pipe",
    stderr: "pipe",
  });
}

async function finished(process: ReturnType<typeof start>): Promise<string> {
  const [out, error] = await Promise.all([
    new Response(process.stdout).text(),
    new Response(process.stderr).text(),
  ]);
  if ((await process.exited) !== 0) throw new Error(error);
  return out.trim();
}

function expectWhole({ cache }: Place): void {
  const snapshot = join(cache, FOLDER, "snapshots", COMMIT);
  for (const { name, bytes } of modelFiles) {
    if (needed.includes(name)) expect(readFileSync(join(snapshot, name)).equals(bytes)).toBe(true);
  }
  const blobs = readdirSync(join(cache, FOLDER, "blobs"));
  expect(blobs.filter((name) => name.includes("incomplete"))).toEqual([]);
  expect(blobs).toHaveLength(needed.length);
}

const sizeOf = (path: string) => statSync(path, { throwIfNoEntry: false })?.size ?? 0;

/** Waits until some of the shard is on the disk. */
async function someOfShard({ cache }: Place): Promise<number> {
  const partial = join(cache, FOLDER, "blobs", `${sha256(SHARD.bytes)}.incomplete`);
  for (let i = 0; i < 1000; i++) {
    const size = sizeOf(partial);
    if (size > 0) return size;
    await Bun.sleep(10);
  }
  throw new Error("the download did not begin");
}

test("two processes at once download each file once, and both end well", async () => {
  const both = await place();
  both.hub.fault = (seen) => (isShard(seen) ? { bytesPerSecond: 1_000_000 } : undefined);
  const folders = await Promise.all([finished(start(both)), finished(start(both))]);
  expect(folders[0]).toBe(folders[1]!);
  expectWhole(both);
  expect(both.hub.seen.filter(({ host }) => host === "storage")).toHaveLength(3);
});

test("killed in the middle: the next process goes on from there", async () => {
  const killed = await place();
  killed.hub.fault = (seen) => (isShard(seen) ? { bytesPerSecond: 300_000 } : undefined);
  const first = start(killed);
  await someOfShard(killed);
  first.kill("SIGKILL");
  await first.exited;
  const left = sizeOf(join(killed.cache, FOLDER, "blobs", `${sha256(SHARD.bytes)}.incomplete`));
  killed.hub.fault = () => undefined;
  await finished(start(killed));
  expectWhole(killed);
  expect(killed.hub.seen.findLast(isShard)!.range).toBe(`bytes=${left}-`);
});

test("killed while another waits: the other takes over", async () => {
  const shared = await place();
  shared.hub.fault = (seen) => (isShard(seen) ? { bytesPerSecond: 400_000 } : undefined);
  const first = start(shared);
  await someOfShard(shared);
  const second = finished(start(shared));
  await Bun.sleep(500);
  first.kill("SIGKILL");
  await second;
  expectWhole(shared);
  expect(shared.hub.seen.filter(isShard)).toHaveLength(2);
});
