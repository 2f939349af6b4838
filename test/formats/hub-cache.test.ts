import { describe, expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { findModel, findRepo, hubCacheDir } from "../../src/formats/hub-cache.ts";
import { failure, put, temporaryFolder } from "./support.ts";

const root = temporaryFolder();
const COMMIT = "0123456789abcdef0123456789abcdef01234567";

/** A cache with one repository, its `refs` as given and a snapshot folder for each of `snapshots`. */
function cacheOf(name: string, repo: string, refs: Record<string, string>, snapshots: string[]) {
  const cache = join(root, name);
  const dir = join(cache, repo);
  for (const snapshot of snapshots) mkdirSync(join(dir, "snapshots", snapshot), { recursive: true });
  for (const [ref, commit] of Object.entries(refs)) {
    mkdirSync(join(dir, "refs", ref, ".."), { recursive: true });
    put(join(dir, "refs"), ref, commit);
  }
  return { env: { HF_HUB_CACHE: cache, HOME: root }, snapshots: join(dir, "snapshots") };
}

test("where the cache is", () => {
  const HOME = "/home/u";
  const XDG_CACHE_HOME = "/xdg";
  const HF_HOME = "/hf";
  expect(hubCacheDir({ HOME })).toBe("/home/u/.cache/huggingface/hub");
  expect(hubCacheDir({ HOME, XDG_CACHE_HOME })).toBe("/xdg/huggingface/hub");
  expect(hubCacheDir({ HOME, XDG_CACHE_HOME, HF_HOME })).toBe("/hf/hub");
  expect(hubCacheDir({ HOME, XDG_CACHE_HOME, HF_HOME, HF_HUB_CACHE: "/hub" })).toBe("/hub");
  expect(hubCacheDir({ HOME, HF_HUB_CACHE: "" })).toBe("/home/u/.cache/huggingface/hub");
  expect(hubCacheDir({ HOME, HF_HOME: "~/hf" })).toBe("/home/u/hf/hub");
});

describe("findModel finds", () => {
  test("a folder, also one whose name holds an @", () => {
    const dir = join(root, "local@1");
    mkdirSync(dir);
    expect(findModel(dir, {})).toEqual({ dir, source: "directory" });
  });

  test("a branch, a tag, a pull request and a commit in the cache", () => {
    const refs = { main: `${COMMIT}\n`, "v1.0": "bbbb", "refs/pr/1": "cccc" };
    const { env, snapshots } = cacheOf("many", "models--org--name", refs, [COMMIT, "bbbb", "cccc", "dddd"]);
    const at = (commit: string) => ({ dir: join(snapshots, commit), source: "cache" as const });
    expect(findModel("org/name", env)).toEqual(at(COMMIT));
    expect(findModel("org/name@main", env)).toEqual(at(COMMIT));
    expect(findModel("org/name@v1.0", env)).toEqual(at("bbbb"));
    expect(findModel("org/name@refs/pr/1", env)).toEqual(at("cccc"));
    expect(findModel("org/name@dddd", env)).toEqual(at("dddd"));
  });

  test("a model without an organization, and a data set", () => {
    const plain = cacheOf("kinds", "models--gpt2", { main: "aaaa" }, ["aaaa"]);
    const data = cacheOf("kinds", "datasets--tatsu-lab--alpaca", { main: "eeee" }, ["eeee"]);
    expect(findModel("gpt2", plain.env).dir).toBe(join(plain.snapshots, "aaaa"));
    expect(findRepo("dataset", "tatsu-lab/alpaca", data.env).dir).toBe(join(data.snapshots, "eeee"));
    expect(() => findModel("tatsu-lab/alpaca", data.env)).toThrow("not found");
  });
});

describe("findModel says where it looked:", () => {
  const { env } = cacheOf("known", "models--org--name", { main: "aaaa", gone: "ffff", odd: "../../.." }, [
    "aaaa",
  ]);

  test("an id that the cache does not hold", () => {
    const { message, code } = failure(() => findModel("org/other", env));
    expect(code).toBe("not_found");
    expect(message).toContain('model "org/other" not found. Looked at: ');
    expect(message).toContain(`${join(process.cwd(), "org/other")} (no such folder)`);
    expect(message).toContain(`${join(root, "known/models--org--other")} (no such folder)`);
    expect(message).toContain("hf download org/other");
    expect(message).toContain("HF_HUB_CACHE or HF_HOME");
  });

  test("a revision that the cache does not hold", () => {
    const { message } = failure(() => findModel("org/name@v2", env));
    expect(message).toContain(
      "known/models--org--name/refs/v2 (no such revision; the cache holds gone, main, odd)",
    );
    expect(message).toContain("snapshots/v2 (no such folder)");
    expect(message).toContain("hf download org/name --revision v2");
  });

  test("an unfinished download", () => {
    expect(failure(() => findModel("org/name@gone", env)).message).toContain(
      "snapshots/ffff (no such folder, though",
    );
  });

  test("a ref that leads out of the cache is not followed", () => {
    expect(failure(() => findModel("org/name@odd", env)).message).toContain("refs/odd (no such revision");
  });

  test("a file in place of a folder", () => {
    const file = put(root, "model.gguf", "");
    expect(failure(() => findModel(file, env)).message).toContain("model.gguf (a file; expected a folder)");
  });

  test.each([
    "./models/llama",
    "/models/llama",
    "a/b/c",
    "../no-such-org",
    "org/name@..",
    "org/name@a/../..",
    "org/name@",
    "a--b/c",
    "-x",
    "",
  ])("%p is not an id, and makes no path into the cache", (name) => {
    const { message } = failure(() => findModel(name, env));
    expect(message).toContain("is not an id of the form org/name[@revision]");
    expect(message).not.toContain("models--");
  });
});
