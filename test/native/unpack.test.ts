// What is said where an embedded library does not fit into a file in memory.

import { expect, test } from "bun:test";
import { join } from "node:path";
import { unpackError } from "../../src/native/from-memory.ts";
import { spawned } from "../spawned.ts";

const failure = (code: string) => Object.assign(new Error(`${code}: reason, write`), { code });

test("a limit on file sizes: which, and how to remove it", () => {
  const limits = "Max file size             102400               unlimited            bytes     \n";
  expect(unpackError("liba.so", 3 * 2 ** 20, failure("EFBIG"), limits).message).toBe(
    "liba.so (3.0 MiB) cannot be unpacked into memory: files, including those in memory, are limited to 100 KiB (ulimit -f 100); remove the limit with ulimit -f unlimited",
  );
});

test("too little memory, and what is not known", () => {
  const limits = "Max file size             unlimited            unlimited            bytes     \n";
  const said = (code: string) => unpackError("liba.so", 2048, failure(code), limits).message;
  expect(said("ENOSPC")).toContain("too little memory left (ENOSPC); free some, or raise the limit of the");
  expect(said("EFBIG")).toBe("liba.so (2.0 KiB) cannot be unpacked into memory: EFBIG: reason, write");
  expect(said("EIO")).toEndWith(": EIO: reason, write");
});

test("under ulimit -f, from outside", async () => {
  const script = 'import { Device } from "./index.ts"; Device.open();';
  const command = 'ulimit -f 100; exec "$0" -e "$1"';
  const cwd = join(import.meta.dir, "..", "..", "src", "native");
  const { stderr } = await spawned(["bash", "-c", command, process.execPath, script], {
    cwd,
    env: process.env,
  });
  expect(stderr).toMatch(
    /\.so\S* \(.* [KM]iB\) cannot be unpacked .* limited to 100 KiB \(ulimit -f 100\); remove /,
  );
});
