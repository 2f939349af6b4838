// The archives that a release is made of: read by the system's tar and Python's zipfile, the same bytes each time.

import { afterAll, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Entry, tarGz } from "../../build/release/tar.ts";
import { zip } from "../../build/release/zip.ts";

const scratch = mkdtempSync(join(tmpdir(), "neftune-archives-"));
afterAll(() => rmSync(scratch, { recursive: true }));

const SECONDS = Date.UTC(2026, 10, 28, 18, 30, 6) / 1000;
const long = `${"folder/".repeat(20)}${"n".repeat(90)}`;
const entries: Entry[] = [
  { path: "b/program", bytes: Buffer.from("#!/bin/sh\nexit 3\n"), isExecutable: true },
  { path: "a-empty", bytes: Buffer.alloc(0) },
  { path: "block", bytes: Buffer.alloc(1024, "x") },
  { path: long, bytes: Buffer.from("far down") },
];

function run(...command: string[]): string {
  const { exitCode, stdout, stderr } = Bun.spawnSync(command, {
    cwd: scratch,
    env: { ...process.env, TZ: "UTC" },
  });
  expect(exitCode, stderr.toString()).toBe(0);
  return stdout.toString();
}

const sum = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

/** Large enough to be compressed once for all archives. */
const large = Buffer.alloc((1 << 20) + 77, Array.from({ length: 999 }, (_, i) => `${i * i},`).join(""));
const around = (path: string): Entry[] => [
  { path: "a", bytes: Buffer.from("before") },
  { path, bytes: large, isExecutable: true },
  { path: "z", bytes: Buffer.from("behind") },
];

test("a large file in a tar, in another and in a zip: whole in each, and compressed alike", () => {
  writeFileSync(join(scratch, "large.tar.gz"), tarGz(around("m"), SECONDS));
  writeFileSync(join(scratch, "other.tar.gz"), tarGz(around("n"), SECONDS));
  writeFileSync(join(scratch, "large.zip"), zip(around("o"), SECONDS));
  for (const name of ["large", "other"]) {
    run("gzip", "--test", `${name}.tar.gz`);
    run("tar", "-xzf", `${name}.tar.gz`);
  }
  const extract =
    'import zipfile\nz = zipfile.ZipFile("large.zip")\nassert z.testzip() is None\nz.extractall()';
  run("python3", "-c", extract);
  for (const name of ["m", "n", "o"]) expect(readFileSync(join(scratch, name)).equals(large)).toBe(true);
  expect(readFileSync(join(scratch, "z"), "utf8")).toBe("behind");
  const sizes = ["large.tar.gz", "large.zip"].map((name) => readFileSync(join(scratch, name)).length);
  expect(Math.max(...sizes)).toBeLessThan(large.length / 50);
});

describe("a tar", () => {
  test("holds every file with its mode, owner and time", () => {
    writeFileSync(join(scratch, "some.tar.gz"), tarGz(entries, SECONDS));
    const lines = run("tar", "--list", "--verbose", "--full-time", "-zf", "some.tar.gz")
      .trimEnd()
      .split("\n");
    expect(lines.map((line) => line.split(/\s+/))).toEqual([
      ["-rw-r--r--", "root/root", "0", "2026-11-28", "18:30:06", "a-empty"],
      ["-rwxr-xr-x", "root/root", "17", "2026-11-28", "18:30:06", "b/program"],
      ["-rw-r--r--", "root/root", "1024", "2026-11-28", "18:30:06", "block"],
      ["-rw-r--r--", "root/root", "8", "2026-11-28", "18:30:06", long],
    ]);
    run("tar", "-xzf", "some.tar.gz");
    for (const { path, bytes } of entries)
      expect(readFileSync(join(scratch, path))).toEqual(Buffer.from(bytes));
  });

  test("does not depend on the order in which files are found", () => {
    expect(sum(tarGz([...entries].reverse(), SECONDS))).toBe(sum(tarGz(entries, SECONDS)));
  });

  test("a name that does not fit is an error, not another name", () => {
    expect(() => tarGz([{ path: "n".repeat(101), bytes: Buffer.alloc(0) }], 0)).toThrow("too long");
  });
});

describe("a zip", () => {
  test("holds every file with its mode and time", () => {
    writeFileSync(join(scratch, "some.zip"), zip(entries, SECONDS));
    const script = `
import json, zipfile
with zipfile.ZipFile("some.zip") as z:
    assert z.testzip() is None
    print(json.dumps([[i.filename, i.file_size, oct(i.external_attr >> 16), list(i.date_time), i.create_system] for i in z.infolist()]))
    z.extractall("unzipped")`;
    expect(JSON.parse(run("python3", "-c", script))).toEqual(
      entries.map(({ path, bytes, isExecutable }) => [
        ...[path, bytes.length, isExecutable === true ? "0o100755" : "0o100644"],
        ...[[2026, 11, 28, 18, 30, 6], 3],
      ]),
    );
    for (const { path, bytes } of entries)
      expect(readFileSync(join(scratch, "unzipped", path))).toEqual(Buffer.from(bytes));
  });

  test("times before 1980, which zip does not have, become 1980", () => {
    writeFileSync(join(scratch, "old.zip"), zip(entries.slice(0, 1), 0));
    const script = 'import zipfile; print(zipfile.ZipFile("old.zip").infolist()[0].date_time)';
    expect(run("python3", "-c", script)).toBe("(1980, 1, 1, 0, 0, 0)\n");
  });
});
