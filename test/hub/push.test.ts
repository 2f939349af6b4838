// neftune push against the fake Hub: what arrives, what is not sent twice, and what is said where it cannot.

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { pushableFiles } from "../../src/cli/outputs/push-files.ts";
import {
  obtainModel,
  type Pushed,
  type PushOptions,
  type PushRequest,
  pushFiles,
} from "../../src/formats/hub/index.ts";
import { scratchFolder } from "../scratch.ts";
import { spawned } from "../spawned.ts";
import { FakeHub, noise, sha256 } from "./fake-hub.ts";
import { FakeUploads } from "./fake-uploads.ts";
import { impatient, rejection } from "./support.ts";

const root = scratchFolder();

let hub: FakeHub;
let uploads: FakeUploads;
let env: Record<string, string>;
let folder: string;
let notes: string[];
let count = 0;

const adapter = noise(300_000, 1);
const scale = noise(200, 2);

function write(name: string, bytes: Uint8Array | string): void {
  mkdirSync(dirname(join(folder, name)), { recursive: true });
  writeFileSync(join(folder, name), bytes);
}

beforeEach(async () => {
  hub = await new FakeHub().open();
  uploads = new FakeUploads(hub);
  env = { HOME: root, HF_ENDPOINT: hub.endpoint, HF_TOKEN: "hf_write" };
  folder = join(root, `run-${count++}`);
  notes = [];
  write("adapter_config.json", '{"r": 8}');
  write("adapter_model.safetensors", adapter);
  write("neft_scale.safetensors", scale);
  write("README.md", "# A run");
  write("report.html", "<title>a run</title>");
  write("config.json", '{"neftune_version": "1"}');
  write("metrics.jsonl", "{}");
  write("checkpoints/step-1/adapter_model.safetensors", "old");
  write("notes.txt", "mine");
});
afterEach(() => hub.close());

const listed = [
  ...["README.md", "adapter_config.json", "adapter_model.safetensors", "config.json"],
  ...["neft_scale.safetensors", "report.html"],
];

function pushed(more: Partial<PushRequest> = {}, options: Partial<PushOptions> = {}): Promise<Pushed> {
  const request = { id: "me/run", branch: "main", isPrivate: false, message: "a message", folder };
  const reporter = {
    onRead() {},
    onStart() {},
    onProgress() {},
    onDone() {},
    note: (text: string) => notes.push(text),
  };
  return pushFiles(
    { ...request, names: pushableFiles(folder).names, ...more },
    { env, reporter, signal: new AbortController().signal, patience: impatient, ...options },
  );
}

const onMain = (id = "me/run") => uploads.repos.get(id)!.branches.get("main")!;
const puts = () => hub.seen.filter(({ method }) => method === "PUT");

describe("what arrives", () => {
  test("a run: large files in storage and verified, small ones in the commit, checkpoints not", async () => {
    const { url, commit, files } = await pushed();
    expect([...onMain().keys()].sort()).toEqual(listed);
    expect(onMain().get("adapter_model.safetensors")).toMatchObject({ bytes: adapter, lfs: true });
    expect(onMain().get("neft_scale.safetensors")).toMatchObject({ bytes: scale, lfs: true });
    expect(onMain().get("README.md")).toMatchObject({
      bytes: new TextEncoder().encode("# A run"),
      lfs: false,
    });
    expect(uploads.verified.sort()).toEqual([sha256(adapter), sha256(scale)].sort());
    expect(uploads.repos.get("me/run")).toMatchObject({
      isPrivate: false,
      commits: [{ branch: "main", summary: "a message" }],
    });
    expect({ url, commit }).toEqual({ url: `${hub.endpoint}/me/run`, commit: `${"c".repeat(39)}1` });
    expect(files.map(({ state }) => state)).toEqual(listed.map(() => "sent"));
    // Storage is another host.
    expect(puts().map(({ host, authorization }) => [host, authorization])).toEqual([
      ["storage", null],
      ["storage", null],
    ]);
  });

  test("a small file whose text is given instead, which another push finds there", async () => {
    const texts = new Map([["README.md", "# Its repository’s"]]);
    await pushed({ texts });
    expect(onMain().get("README.md")!.bytes).toEqual(new TextEncoder().encode("# Its repository’s"));
    expect((await pushed({ texts })).commit).toBeNull();
  });

  test.each([
    [400_000, 3],
    [500_000, 2],
  ])("in parts of %d bytes", async (partBytes, parts) => {
    uploads.partBytes = partBytes;
    const large = noise(1_000_000, 3);
    write("adapter_model.safetensors", large);
    await pushed();
    expect(onMain().get("adapter_model.safetensors")!.bytes).toEqual(large);
    expect(uploads.parts.get(sha256(large))!.size).toBe(parts);
    expect(uploads.verified).toContain(sha256(large));
  });

  test("a model in shards, with tokenizer; an empty file goes with the commit", async () => {
    rmSync(folder, { recursive: true });
    const shards = [noise(50_000, 4), noise(60_000, 5)] as const;
    for (const [i, bytes] of shards.entries()) write(`model-0000${i + 1}-of-00002.safetensors`, bytes);
    const weights = { a: "model-00001-of-00002.safetensors", b: "model-00002-of-00002.safetensors" };
    write("model.safetensors.index.json", JSON.stringify({ weight_map: weights }));
    write("config.json", "{}");
    write("tokenizer.json", noise(20_000, 6));
    write("merges.txt", "");
    write("stray.safetensors", "x");
    const { files } = await pushed({ id: "me/model" });
    expect(files.map(({ name }) => name)).toEqual([
      ...["config.json", "merges.txt", ...Object.values(weights), "model.safetensors.index.json"],
      "tokenizer.json",
    ]);
    expect(onMain("me/model").get(weights.b)!.bytes).toEqual(shards[1]);
    expect(onMain("me/model").get("merges.txt")).toMatchObject({ bytes: new Uint8Array(0), lfs: false });

    const reporter = { onStart() {}, onProgress() {}, onDone() {}, note() {} };
    const signal = new AbortController().signal;
    const cache = { ...env, HF_HUB_CACHE: join(root, "cache") };
    const downloaded = await obtainModel("me/model", "weights", { env: cache, reporter, signal });
    expect(readFileSync(join(downloaded, weights.b)).equals(shards[1])).toBe(true);
  });

  test("equal files are sent once", async () => {
    write("neft_scale.safetensors", adapter);
    await pushed();
    expect(puts().length).toBe(1);
    expect(onMain().get("neft_scale.safetensors")!.bytes).toEqual(adapter);
  });

  test("a private repository", async () => {
    await pushed({ isPrivate: true });
    expect(uploads.repos.get("me/run")!.isPrivate).toBe(true);
  });

  test("--private does not send to a repository that is public", async () => {
    uploads.make("me/run");
    expect(await rejection(pushed({ isPrivate: true }))).toContain(
      "me/run exists and is public; nothing was uploaded",
    );
    expect(uploads.stored.size).toBe(0);
  });

  test("an existing repository: what changed is sent, and what is as it was is not", async () => {
    uploads.make("me/run");
    await pushed();
    hub.seen.length = 0;
    write("README.md", "# Another");
    write("neft_scale.safetensors", noise(300, 7));
    const { files } = await pushed();
    expect(files.filter(({ state }) => state === "sent").map(({ name }) => name)).toEqual([
      "README.md",
      "neft_scale.safetensors",
    ]);
    expect(uploads.repos.get("me/run")!.commits[1]!.paths).toEqual(["README.md", "neft_scale.safetensors"]);
    expect(puts().length).toBe(1);
    expect((await pushed()).commit).toBeNull();
    expect(uploads.repos.get("me/run")!.commits.length).toBe(2);
  });

  test("a branch that is made for it", async () => {
    await pushed({ branch: "trial/1" });
    expect([...uploads.repos.get("me/run")!.branches.get("trial/1")!.keys()].sort()).toEqual(listed);
    expect(onMain().size).toBe(0);
  });

  test("what the repository's .gitignore leaves out", async () => {
    uploads.gitIgnored = ["report.html"];
    const { files } = await pushed();
    expect(files.find(({ name }) => name === "report.html")!.state).toBe("ignored");
    expect(onMain().has("report.html")).toBe(false);
  });
});

describe("an upload that breaks", () => {
  test("is tried again: a cut connection, an error of storage, an address that is not valid any more", async () => {
    const faults = [{ cutAfter: 100_000 }, { answer: { status: 500 } }, { answer: { status: 403 } }];
    write("neft_scale.safetensors", adapter);
    hub.fault = ({ method }) => (method === "PUT" ? faults.shift() : undefined);
    await pushed({}, { patience: { ...impatient, attempts: 4 } });
    expect(onMain().get("adapter_model.safetensors")!.bytes).toEqual(adapter);
    expect(hub.seen.filter(({ path }) => path.endsWith("/objects/batch")).length).toBe(4);
  });

  test("a part is sent again alone", async () => {
    uploads.partBytes = 100_000;
    let isFirst = true;
    hub.fault = ({ path }) => {
      if (!path.endsWith("/2") || !isFirst) return undefined;
      isFirst = false;
      return { cutAfter: 10_000 };
    };
    await pushed();
    const parts = puts().map(({ path }) => path.split("/")[2]);
    expect(parts.filter((part) => part !== undefined)).toEqual(["1", "2", "2", "3"]);
    expect(onMain().get("adapter_model.safetensors")!.bytes).toEqual(adapter);
  });

  test("and is given up: the same command sends only what has not arrived", async () => {
    const other = sha256(adapter);
    hub.fault = ({ method, path }) =>
      method === "PUT" && path.includes(other) ? { answer: { status: 503 } } : undefined;
    expect(await rejection(pushed())).toMatch(
      /adapter_model.safetensors of the model me\/run cannot be uploaded to .*: 127.0.0.2:\d+ answered 503; the same command skips the files that have arrived/,
    );
    expect(uploads.repos.get("me/run")!.commits).toEqual([]);
    hub.fault = () => undefined;
    uploads.stored.set(sha256(scale), scale);
    hub.seen.length = 0;
    const { files } = await pushed();
    expect(puts().map(({ path }) => path)).toEqual([`/${other}`]);
    expect(files.find(({ name }) => name === "neft_scale.safetensors")!.state).toBe("present");
    expect([...onMain().keys()].sort()).toEqual(listed);
  });

  test("Ctrl-C, and on", async () => {
    const controller = new AbortController();
    hub.fault = ({ method }) => {
      if (method === "PUT") controller.abort();
      return undefined;
    };
    expect(await rejection(pushed({}, { signal: controller.signal }))).toMatch(
      /^the upload of .* was stopped/,
    );
    hub.fault = () => undefined;
    await pushed();
    expect([...onMain().keys()].sort()).toEqual(listed);
  });

  test("a commit that fails", async () => {
    hub.fault = ({ path }) => (path.includes("/commit/") ? { answer: { status: 502 } } : undefined);
    expect(await rejection(pushed())).toContain("answered 502");
  });

  test("storage that takes a file and says nothing is given up after the time for answers", async () => {
    hub.fault = ({ method }) => (method === "PUT" ? { silent: true } : undefined);
    const patience = { ...impatient, attempts: 2, answer: 200 };
    expect(await rejection(pushed({}, { patience }))).toMatch(/no answer from 127.0.0.2:\d+ for 0.2 s/);
  });

  test("a slow line is no silence, however long the file takes", async () => {
    const large = noise(12_000_000, 8);
    write("adapter_model.safetensors", large);
    uploads.partBytes = large.length;
    hub.fault = ({ method }) => (method === "PUT" ? { bytesPerSecond: 8_000_000 } : undefined);
    const patience = { ...impatient, attempts: 1, silence: 500, answer: 1200 };
    await pushed({}, { patience });
    expect(uploads.stored.get(sha256(large))).toEqual(large);
  });

  test("a file that changes meanwhile is not committed", async () => {
    hub.fault = ({ method }) => {
      if (method === "PUT") utimesSync(join(folder, "adapter_model.safetensors"), 1, 1);
      return undefined;
    };
    expect(await rejection(pushed())).toContain(
      "adapter_model.safetensors changed while it was being uploaded",
    );
    expect(uploads.repos.get("me/run")!.commits).toEqual([]);
  });

  test("storage that holds another size than was sent", async () => {
    hub.fault = ({ path }) => (path === "/lfs/verify" ? { answer: { status: 422 } } : undefined);
    expect(await rejection(pushed())).toContain("answered 422");
    expect(uploads.repos.get("me/run")!.commits).toEqual([]);
  });
});

describe("what is refused", () => {
  test.each([
    ["hf_other", /does not accept your token .* make a token with write permission .*Invalid credentials/],
    ["hf_read", /your token may not write to me\/run: it lacks write permission.*you have read access only/],
    ["", /uploading to me\/run needs a token: make a token with write permission at .*settings\/tokens/],
  ])("the token %j", async (token, message) => {
    env.HF_TOKEN = token;
    expect(await rejection(pushed())).toMatch(message);
    expect(uploads.repos.size).toBe(0);
  });

  test("a token that may write to the repository, but make none", async () => {
    uploads.make("me/run");
    hub.fault = ({ path }) => (path === "/api/repos/create" ? { answer: { status: 403 } } : undefined);
    await pushed();
    expect([...onMain().keys()].sort()).toEqual(listed);
  });

  test("offline", async () => {
    env.HF_HUB_OFFLINE = "1";
    expect(await rejection(pushed())).toBe("me/run: HF_HUB_OFFLINE keeps it from being uploaded; unset that");
    expect(hub.seen).toEqual([]);
  });

  test("a repository that is not there", async () => {
    hub.fault = ({ path }) =>
      path.includes("preupload")
        ? { answer: { status: 404, headers: { "X-Error-Code": "RepoNotFound" } } }
        : undefined;
    expect(await rejection(pushed())).toContain("the Hub has no model me/run that your token may write to");
  });

  test("a file that the Hub does not take, with its reason", async () => {
    uploads.refused = sha256(adapter);
    expect(await rejection(pushed())).toMatch(
      /adapter_model.safetensors of the model me\/run cannot be uploaded: .* refuses it: too large for you/,
    );
  });

  test("a model card that the Hub does not take, with its reason", async () => {
    const body = JSON.stringify({ error: "license: must be one of" });
    hub.fault = ({ path }) => (path.includes("/commit/") ? { answer: { status: 400, body } } : undefined);
    expect(await rejection(pushed())).toContain("answered 400: license: must be one of");
  });
});

describe("the command", () => {
  const main = join(import.meta.dir, "..", "..", "src", "main.ts");
  const run = (...args: string[]) =>
    spawned([process.execPath, main, "push", ...args], { cwd: root, env: { PATH: "/usr/bin:/bin", ...env } });

  test("says what was sent where, as text and as JSON; the card names the repository", async () => {
    const card = (name: string) => `# here\n\n## How to use it\n\nmodel = A.from_pretrained("${name}")\n`;
    write("README.md", card("here"));
    const { status, stdout, stderr } = await run(folder, "me/run");
    expect(stderr).toMatch(/uploading to me\/run: 6 files, 293 KiB/);
    expect({ status, stdout }).toMatchObject({
      status: 0,
      stdout: expect.stringMatching(/^http:.*\/me\/run: 6 files, 293 KiB, .* commit c+1\n$/),
    });
    expect(uploads.repos.get("me/run")!.commits[0]!.summary).toBe(
      `Upload ${folder.split("/").at(-1)} with neftune`,
    );
    expect(Buffer.from(onMain().get("README.md")!.bytes).toString()).toBe(card("me/run"));
    const again = await run(folder, "me/run", "--json", "--revision", "main", "--message", "again");
    expect(JSON.parse(again.stdout)).toMatchObject({
      ...{ repo: "me/run", revision: "main", kind: "adapter", commit: null, sent_bytes: 0 },
      files: listed.map((name) => ({ name, state: "present" })),
    });
  });

  test("Ctrl-C ends it with status 130 and a word on how to go on", async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    hub.fault = ({ method }) => {
      if (method !== "PUT") return undefined;
      resolve();
      return { silent: true };
    };
    const child = Bun.spawn([process.execPath, main, "push", folder, "me/run"], {
      env: { PATH: "/usr/bin:/bin", ...env },
      stderr: "pipe",
    });
    await promise;
    child.kill("SIGINT");
    expect(await new Response(child.stderr).text()).toMatch(
      /the upload of .*the model me\/run was stopped; the same command skips the files that have arrived/,
    );
    expect(await child.exited).toBe(130);
  });

  test.each([
    [["run"], /not the name of a repository; expected org\/name/],
    [["a/b/c"], /not the name of a repository/],
    [["me/run@v1"], /a branch is given as --revision/],
    [["me/run", "--revision", "a b"], /--revision "a b": expected the name of a branch/],
  ])("%j is refused before anything is sent", async (args, message) => {
    const { status, stderr } = await run(folder, ...args);
    expect(stderr).toMatch(message);
    expect(status).toBe(2);
    expect(hub.seen).toEqual([]);
  });
});
