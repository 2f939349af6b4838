// Downloads from a server that behaves as the Hub does, and from one that does not.

import { afterEach, describe, expect, test } from "bun:test";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { chooseDataFiles } from "../../src/data/splits.ts";
import { cachedFolder, modelCacheState, obtainData, obtainModel } from "../../src/formats/hub/index.ts";
import { etagOf, type Fault, gitHash, lfsFile, noise, type Seen, sha256, smallFile } from "./fake-hub.ts";
import {
  COMMIT,
  FOLDER,
  ID,
  makePlace,
  modelFiles,
  needed,
  type Place,
  rejection,
  SHARD,
  TOKEN,
  tree,
} from "./support.ts";

const places: Place[] = [];
afterEach(() => {
  for (const place of places.splice(0)) place.close();
});

async function place(...args: Parameters<typeof makePlace>): Promise<Place> {
  const made = await makePlace(...args);
  places.push(made);
  return made;
}

const shardBlob = (cache: string) => join(cache, FOLDER, "blobs", sha256(SHARD.bytes));
const isShard = ({ host, path }: Seen) => host === "storage" && path === `/${sha256(SHARD.bytes)}`;

/** Fails the first `times` requests for the shard's bytes. */
function failShard(times: number, fault: Fault): (seen: Seen) => Fault | undefined {
  let left = times;
  return (seen) => (isShard(seen) && left-- > 0 ? fault : undefined);
}

function expectWhole(folder: string): void {
  for (const { name, bytes } of modelFiles) {
    if (needed.includes(name)) expect(readFileSync(join(folder, name)).equals(bytes)).toBe(true);
  }
}

describe("the cache", () => {
  test("has Python's layout, with what a run needs and nothing else", async () => {
    const { model, cache } = await place();
    const folder = await model();
    expect(folder).toBe(join(cache, FOLDER, "snapshots", COMMIT));
    const found = tree(cache);
    const wanted = new Map<string, string>([[`${FOLDER}/refs/main`, Buffer.from(COMMIT).toString("base64")]]);
    for (const file of modelFiles) {
      if (!needed.includes(file.name)) continue;
      const etag = etagOf(file);
      wanted.set(`${FOLDER}/blobs/${etag}`, Buffer.from(file.bytes).toString("base64"));
      wanted.set(`${FOLDER}/snapshots/${COMMIT}/${file.name}`, `-> ../../blobs/${etag}`);
      wanted.set(`.locks/${FOLDER}/${etag}.lock`, "");
    }
    expect([...found.keys()].sort()).toEqual([...wanted.keys()].sort());
    for (const [path, contents] of wanted) expect(found.get(path)).toBe(contents);
  });

  test("that has all is used without a request", async () => {
    const { model, hub } = await place();
    const folder = await model();
    hub.seen.length = 0;
    expect(await model()).toBe(folder);
    expect(hub.seen).toEqual([]);
  });

  test("that lacks a shard gets that shard alone", async () => {
    const { model, hub, cache } = await place();
    await model();
    rmSync(shardBlob(cache));
    hub.seen.length = 0;
    expectWhole(await model());
    expect(hub.downloads().filter(({ host }) => host === "storage")).toHaveLength(1);
  });

  test("text alone for what reads no weights; the rest later", async () => {
    const { hub, options, model } = await place();
    const folder = await obtainModel(ID, "text", options);
    expect(existsSync(join(folder, "tokenizer.json"))).toBe(true);
    expect(existsSync(join(folder, SHARD.name))).toBe(false);
    expect(hub.downloads().some(isShard)).toBe(false);
    expect(modelCacheState(ID, options.env)).toBe("partial");
    expectWhole(await model());
    expect(modelCacheState(ID, options.env)).toBe("whole");
    rmSync(join(folder, "model.safetensors.index.json"));
    writeFileSync(join(folder, "model.safetensors.index.json"), "{");
    expect(modelCacheState(ID, options.env)).toBe("partial");
  });

  test("a blob that another file already brought is linked, not downloaded", async () => {
    const { model, cache, hub } = await place();
    mkdirSync(join(cache, FOLDER, "blobs"), { recursive: true });
    writeFileSync(shardBlob(cache), SHARD.bytes);
    expectWhole(await model());
    expect(hub.downloads().some(isShard)).toBe(false);
  });

  test("a nested file's link leads up as many folders", async () => {
    const nested = smallFile("additional_chat_templates/rag.jinja", "{{ messages }}");
    const { cache, options } = await place([...modelFiles, nested]);
    const folder = await obtainModel(ID, "text", options);
    expect(readFileSync(join(folder, nested.name), "utf8")).toBe("{{ messages }}");
    expect(tree(cache).get(`${FOLDER}/snapshots/${COMMIT}/${nested.name}`)).toBe(
      `-> ../../../blobs/${etagOf(nested)}`,
    );
  });

  test("that holds another split of a data set than the one wanted asks the Hub", async () => {
    const files = ["train", "test"].map((split) =>
      smallFile(`data/${split}.jsonl`, `{"text": "${split}"}\n`),
    );
    const { hub, options, env } = await place(files, { kind: "dataset" });
    const obtain = (splits: readonly string[] | null) =>
      obtainData(ID, { splits, choose: chooseDataFiles }, options);
    expect((await obtain(["test"])).files).toEqual(["data/test.jsonl"]);
    expect((await obtain(["validation", "test"])).files).toEqual(["data/test.jsonl"]);
    env.HF_HUB_OFFLINE = "1";
    expect((await obtain(null)).files).toEqual(["data/test.jsonl"]);
    delete env.HF_HUB_OFFLINE;
    expect((await obtain(null)).files).toEqual(["data/train.jsonl"]);
    const downloaded = hub.downloads().length;
    expect((await obtain(null)).files).toEqual(["data/train.jsonl"]);
    expect((await obtain(["test"])).files).toEqual(["data/test.jsonl"]);
    expect(hub.downloads().length).toBe(downloaded);
    // A Hub that cannot be asked: what is there, and a note that it may not be all.
    env.HF_ENDPOINT = "http://127.0.0.1:9";
    expect((await obtain(["test"])).files).toEqual(["data/test.jsonl"]);
  });

  test("sizes and hashes come from the files' headers where the list has none", async () => {
    const { hub, model, cache } = await place();
    hub.listsDetails = false;
    expectWhole(await model());
    expect(existsSync(shardBlob(cache))).toBe(true);
    expect(hub.seen.some(({ host, method }) => host === "storage" && method === "HEAD")).toBe(false);
  });
});

describe("the token", () => {
  test("goes to the Hub and to no other host", async () => {
    const { hub, env, model } = await place(modelFiles, { gatedFor: TOKEN });
    env.HF_TOKEN = TOKEN;
    expectWhole(await model());
    const [onHub, elsewhere] = [
      hub.seen.filter(({ host }) => host === "hub"),
      hub.seen.filter(({ host }) => host === "storage"),
    ];
    expect(onHub.every(({ authorization }) => authorization === `Bearer ${TOKEN}`)).toBe(true);
    expect(elsewhere.length).toBeGreaterThan(2);
    expect(elsewhere.every(({ authorization }) => authorization === null)).toBe(true);
  });

  test("does not come back with a redirect from another host to the Hub", async () => {
    const { hub, env, model } = await place();
    env.HF_TOKEN = TOKEN;
    let back = 0;
    hub.fault = (seen) => {
      if (seen.host !== "storage" || back++ > 0) return undefined;
      const location = `${hub.endpoint}/${ID}/resolve/${COMMIT}/README.md`;
      return { answer: { status: 302, headers: { Location: location } } };
    };
    await rejection(model());
    const sent = hub.seen.find(({ path }) => path.endsWith("README.md"));
    expect(sent).toBeDefined();
    expect(sent!.authorization).toBe(null);
  });

  test("goes along with a renamed repository on the Hub itself", async () => {
    const { hub, env, options } = await place(modelFiles, { gatedFor: TOKEN });
    env.HF_TOKEN = TOKEN;
    hub.moved.set("old/name", ID);
    const folder = await obtainModel("old/name", "weights", options);
    expectWhole(folder);
    expect(folder).toContain("models--old--name");
  });

  test("is read from the file that `hf auth login` writes", async () => {
    const { env, model } = await place(modelFiles, { gatedFor: TOKEN });
    env.HF_HOME = join(env.HOME!, "hf");
    mkdirSync(env.HF_HOME);
    writeFileSync(join(env.HF_HOME, "token"), `${TOKEN}\n`);
    expectWhole(await model());
  });
});

describe("refusals say what to do", () => {
  test("gated, without a token", async () => {
    const { model, hub } = await place(modelFiles, { gatedFor: TOKEN });
    const message = await rejection(model());
    expect(message).toContain(`org/model is gated: open ${hub.endpoint}/org/model, log in and accept`);
    expect(message).toContain(`${hub.endpoint}/settings/tokens`);
    expect(message).toContain("HF_TOKEN");
  });

  test("gated, with a token that has no access", async () => {
    const { model, env, hub } = await place(modelFiles, { gatedFor: TOKEN });
    env.HF_TOKEN = "hf_other";
    const message = await rejection(model());
    expect(message).toContain(`has no access yet: open ${hub.endpoint}/org/model, log in and accept`);
    expect(message).not.toContain("hf_other");
  });

  test("missing, with and without a token; a revision that is not there", async () => {
    const { options, env, hub } = await place();
    const ask = (name: string) => rejection(obtainModel(name, "weights", options));
    expect(await ask("no/such")).toMatch(/the Hub has no model no\/such .*private.*HF_TOKEN/);
    env.HF_TOKEN = TOKEN;
    expect(await ask("no/such")).toMatch(/the Hub has no model no\/such .*must have access/);
    expect(await ask(`${ID}@v9`)).toContain(`has no revision "v9"; ${hub.endpoint}/org/model/tree/main`);
  });

  test("a token that the Hub does not know", async () => {
    const { model, env, hub } = await place();
    env.HF_TOKEN = TOKEN;
    hub.fault = () => ({ answer: { status: 401 } });
    expect(await rejection(model())).toContain("does not accept your token");
  });

  test("weights in Python's pickles alone", async () => {
    const files = [modelFiles[0]!, modelFiles[3]!, lfsFile("pytorch_model.bin", noise(10, 1))];
    const { model, hub } = await place(files);
    const message = await rejection(model());
    expect(message).toMatch(/pytorch_model\.bin alone.*run when they are read/);
    expect(hub.downloads()).toEqual([]);
  });

  test("names that lead out of the folder", async () => {
    for (const name of ["../../evil.json", "tokenizer/../../x.json", "/etc/passwd"]) {
      const index = JSON.stringify({ weight_map: { a: name } });
      const { model, cache } = await place([
        ...modelFiles.slice(0, 4),
        smallFile("model.safetensors.index.json", index),
        lfsFile(name, noise(10, 1)),
      ]);
      expect(await rejection(model())).toContain("expected the plain name of a .safetensors file");
      expect(existsSync(join(cache, "..", "evil.json"))).toBe(false);
    }
  });

  test("of data files, too", async () => {
    const { options, cache } = await place([smallFile("../../../evil.json", "[]")], { kind: "dataset" });
    const wish = { splits: null, choose: (names: readonly string[]) => [...names] };
    expect(await rejection(obtainData(ID, wish, options))).toContain("would lead out of the cache's folder");
    expect(existsSync(cache)).toBe(false);
  });

  test("a tokenizer that is announced too large to be read", async () => {
    const files = modelFiles.map((file) =>
      file.name === "tokenizer.json" ? { ...file, announced: 2 ** 31 } : file,
    );
    const { model, hub } = await place(files);
    expect(await rejection(model())).toContain(
      "tokenizer.json has 2147483648 bytes; expected at most 256 MiB",
    );
    expect(hub.downloads()).toEqual([]);
  });

  test("a model that is no Llama, before its weights come", async () => {
    const { hub, options } = await place();
    const check = (folder: string) => {
      throw new Error(`looked at ${folder}`);
    };
    expect(await rejection(obtainModel(ID, "weights", options, check))).toContain("looked at");
    expect(hub.downloads().some(({ host }) => host === "storage")).toBe(false);
    expect(cachedFolder("model", ID, options.env)).toBe(null);
  });

  test("a cache that cannot be one", async () => {
    const { model, env } = await place();
    env.HF_HUB_CACHE = join(import.meta.path, "cache");
    expect(await rejection(model())).toContain(
      `${env.HF_HUB_CACHE} cannot be used as the Hugging Face cache`,
    );
  });

  test("a server that is no Hub", async () => {
    const { model, hub } = await place();
    hub.fault = () => ({ answer: { status: 200, body: "<html>hello</html>" } });
    expect(await rejection(model())).toContain("is HF_ENDPOINT a Hub?");
    hub.fault = () => ({
      answer: { status: 200, body: JSON.stringify({ sha: "../../x", siblings: [] }) },
    });
    expect(await rejection(model())).toContain("is HF_ENDPOINT a Hub?");
  });

  test("no server", async () => {
    const { model, env } = await place();
    env.HF_ENDPOINT = "http://127.0.0.1:1";
    expect(await rejection(model())).toMatch(/no connection to 127\.0\.0\.1:1 .*HF_HUB_OFFLINE/);
  });

  test("HF_HUB_OFFLINE asks nobody", async () => {
    const { model, env, hub, cache } = await place();
    env.HF_HUB_OFFLINE = "1";
    expect(await rejection(model())).toContain(join(cache, FOLDER));
    delete env.HF_HUB_OFFLINE;
    await model();
    rmSync(shardBlob(cache));
    hub.seen.length = 0;
    env.HF_HUB_OFFLINE = "1";
    expect(await rejection(model())).toMatch(/lacks model-00001-of-00002.safetensors, and HF_HUB_OFFLINE/);
    expect(hub.seen).toEqual([]);
  });

  test("an endpoint or token that cannot be one", async () => {
    const { model, env } = await place();
    env.HF_ENDPOINT = "ftp://x";
    expect(await rejection(model())).toContain("HF_ENDPOINT");
    env.HF_ENDPOINT = "http://127.0.0.1:1";
    env.HF_TOKEN = "one\ntwo";
    const message = await rejection(model());
    expect(message).toContain("HF_TOKEN: the token holds characters");
    expect(message).not.toContain("one");
  });
});

describe("temporary failures", () => {
  test("a cut in the middle is gone on from, with a range", async () => {
    const { model, hub } = await place();
    hub.fault = failShard(2, { cutAfter: 200_000 });
    expectWhole(await model());
    const ranges = hub.seen.filter(isShard).map(({ range }) => range);
    expect(ranges).toEqual([null, "bytes=200000-", "bytes=400000-"]);
  });

  test("cuts that bring bytes are gone on from for ever, those that bring none are not", async () => {
    const { model, hub } = await place();
    hub.fault = failShard(6, { cutAfter: 100_000 });
    expectWhole(await model());
    const other = await place();
    other.hub.fault = failShard(99, { cutAfter: 0 });
    expect(await rejection(other.model())).toMatch(/model-00001-of-00002.safetensors .*continues from where/);
    // fetch itself may try once more where a connection was in use before
    expect(other.hub.seen.filter(isShard).length).toBeOneOf([3, 4, 5, 6]);
    expect(existsSync(shardBlob(other.cache))).toBe(false);
    expect(cachedFolder("model", ID, other.env)).toBe(null);
  });

  test("a server without ranges sends all again", async () => {
    const { model, hub } = await place();
    const cut = failShard(1, { cutAfter: 200_000 });
    hub.fault = (seen) => cut(seen) ?? (isShard(seen) ? { ignoreRange: true } : undefined);
    expectWhole(await model());
  });

  test("429 waits as long as Retry-After says, 503 a little", async () => {
    const { model, hub } = await place();
    const limited = { status: 429, headers: { "Retry-After": "1" } };
    hub.fault = failShard(1, { answer: limited });
    const start = performance.now();
    expectWhole(await model());
    expect(performance.now() - start).toBeGreaterThan(950);
    const other = await place();
    other.hub.fault = failShard(2, { answer: { status: 503 } });
    expectWhole(await other.model());
  });

  test("a wait longer than anybody's patience ends at once and says so", async () => {
    const { model, hub } = await place();
    const headers = { RateLimit: '"api";r=0;t=5000' };
    hub.fault = () => ({ answer: { status: 429, headers } });
    expect(await rejection(model())).toContain("answered 429 and asks to wait 5000 s");
    expect(hub.seen).toHaveLength(1);
  });

  test("a connection that goes silent is given up and made anew", async () => {
    const { model, hub } = await place();
    hub.fault = failShard(1, { silent: true });
    expectWhole(await model());
  });

  test("a slow one is waited for", async () => {
    const { model, hub } = await place();
    hub.fault = (seen) => (isShard(seen) ? { bytesPerSecond: 1_500_000 } : undefined);
    expectWhole(await model());
  });

  test("one that drips is given up", async () => {
    const { model, hub } = await place();
    hub.fault = (seen) => (isShard(seen) ? { bytesPerSecond: 200 } : undefined);
    expect(await rejection(model())).toMatch(/cannot be downloaded .*sent only \d+ bytes in \d s/);
    expect(hub.downloads().filter(isShard)).toHaveLength(3);
  }, 30_000);

  test("an answer of the API without end: drip by drip, or as much as fits", async () => {
    const { model, hub } = await place();
    hub.fault = () => ({ endless: { bytes: 200, milliseconds: 100 } });
    expect(await rejection(model())).toMatch(/the answer takes longer than 2 s about the model org\/model/);
    expect(hub.seen).toHaveLength(1);
    const before = process.memoryUsage().rss;
    hub.fault = () => ({ endless: { bytes: 2 ** 20, milliseconds: 0 } });
    expect(await rejection(model())).toContain("more than 64 MiB about the model org/model");
    expect(process.memoryUsage().rss - before).toBeLessThan(800 * 2 ** 20);
    const headers = { "Content-Length": String(2 ** 40) };
    hub.fault = () => ({ answer: { status: 200, headers } });
    expect(await rejection(model())).toContain("more than 64 MiB");
  }, 60_000);

  test("a file whose answer has no end is cut off at the size that was announced", async () => {
    const { model, hub, cache } = await place();
    hub.fault = (seen) => (isShard(seen) ? { endless: { bytes: 2 ** 18, milliseconds: 0 } } : undefined);
    expect(await rejection(model())).toMatch(/expected 700000 bytes, got \d+ or more/);
    expect(existsSync(`${shardBlob(cache)}.incomplete`)).toBe(false);
  }, 30_000);

  test("a redirect without end is refused", async () => {
    const { model, hub } = await place();
    hub.fault = ({ path }) => ({ answer: { status: 302, headers: { Location: path } } });
    expect(await rejection(model())).toContain("more than 10 redirects");
  });
});

describe("what comes is checked", () => {
  test("one wrong byte, twice: nothing becomes visible", async () => {
    const { model, hub, cache, env } = await place();
    hub.fault = failShard(99, { wrongByte: 1234 });
    const message = await rejection(model());
    expect(message).toContain(`expected the SHA-256 ${sha256(SHARD.bytes)}`);
    expect(existsSync(shardBlob(cache))).toBe(false);
    expect(existsSync(`${shardBlob(cache)}.incomplete`)).toBe(false);
    expect(cachedFolder("model", ID, env)).toBe(null);
    hub.fault = () => undefined;
    expectWhole(await model());
  });

  test("a small file by its git hash", async () => {
    const { model, hub } = await place();
    hub.fault = ({ path }) => (path.endsWith("/config.json") ? { wrongByte: 3 } : undefined);
    expect(await rejection(model())).toContain(`expected the git hash ${gitHash(modelFiles[0]!.bytes)}`);
  });

  test("more bytes, or fewer for ever, than were announced", async () => {
    const { model, hub } = await place();
    hub.fault = failShard(99, { answer: { status: 200, body: noise(800_000, 9) } });
    expect(await rejection(model())).toContain("expected 700000 bytes, got");
    hub.fault = failShard(99, { answer: { status: 200 } });
    expect(await rejection(model())).toContain("ended after 0 of 700000 bytes");
  });

  test("what an earlier download left: gone on from, or begun anew where it is wrong", async () => {
    for (const [left, requests] of [
      [SHARD.bytes.slice(0, 300_000), ["bytes=300000-"]],
      [SHARD.bytes, []],
      [noise(300_000, 77), ["bytes=300000-", null]],
      [noise(900_000, 78), [null]],
    ] as const) {
      const { model, hub, cache } = await place();
      const partial = `${shardBlob(cache)}.incomplete`;
      mkdirSync(dirname(partial), { recursive: true });
      writeFileSync(partial, left);
      expectWhole(await model());
      expect(hub.seen.filter(isShard).map(({ range }) => range)).toEqual([...requests]);
      expect(existsSync(partial)).toBe(false);
    }
  });

  test("a blob of the wrong size is downloaded again", async () => {
    const { model, cache } = await place();
    await model();
    truncateSync(shardBlob(cache), 5000);
    // As the snapshot stands, a run would find a shard there.
    rmSync(join(cache, FOLDER, "refs"), { recursive: true });
    expectWhole(await model());
    appendFileSync(shardBlob(cache), "more");
    rmSync(join(cache, FOLDER, "refs"), { recursive: true });
    expectWhole(await model());
  });
});

test("Ctrl-C stops it with what is there kept, and the next goes on", async () => {
  const { options, hub, cache, model } = await place();
  hub.fault = (seen) => (isShard(seen) ? { bytesPerSecond: 400_000 } : undefined);
  const controller = new AbortController();
  setTimeout(() => controller.abort(), 600);
  const stopped = obtainModel(ID, "weights", { ...options, signal: controller.signal });
  expect(await rejection(stopped)).toContain("the same command continues from there");
  const left = readFileSync(`${shardBlob(cache)}.incomplete`).length;
  expect(left).toBeGreaterThan(0);
  hub.fault = () => undefined;
  expectWhole(await model());
  expect(hub.seen.findLast(isShard)!.range).toBe(`bytes=${left}-`);
});
