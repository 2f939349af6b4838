// No part of the executable asks glibc for more than its version 2.28 has.

import { describe, expect, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

const dist = join(import.meta.dir, "../../dist");

/** The versions of glibc's symbols that a file needs, by `readelf --version-info`. */
function needed(file: string): string[] {
  const { exitCode, stdout, stderr } = Bun.spawnSync(["readelf", "--wide", "--version-info", file]);
  expect(exitCode, stderr.toString()).toBe(0);
  return Array.from(stdout.toString().matchAll(/Name: GLIBC_(\S+) /g), ([, version]) => version!);
}

const isLater = (version: string) =>
  Bun.semver.order(`${version}.0`.split(".").slice(0, 3).join("."), "2.28.0") > 0;

/** What goes into the executables, and these. */
function parts(): string[] {
  const folders = ["native", "native-arm64"]
    .map((name) => join(dist, name))
    .filter((path) => existsSync(path));
  const libraries = folders.flatMap((folder) =>
    readdirSync(folder)
      .filter((name) => /\.so(\.\d+)?$/.test(name) && name !== "libneftune-emulated.so")
      .map((name) => join(folder, name)),
  );
  const executables = ["neftune", "neftune-linux-arm64"].map((name) => join(dist, name));
  return [...libraries, ...executables.filter((path) => existsSync(path))];
}

describe("symbols of glibc 2.28 or earlier", () => {
  test.each(parts())("%s", (file) => {
    const versions = needed(file);
    // A static part of the C++ runtime may need none; everything else needs libc.
    if (!/gcc_s|faults/.test(file)) expect(versions).not.toEqual([]);
    expect(versions.filter(isLater)).toEqual([]);
  });

  test("a later one would be noticed", () => {
    expect(["2.2.5", "2.17", "2.28"].filter(isLater)).toEqual([]);
    expect(["2.29", "2.34", "2.38"].filter(isLater)).toEqual(["2.29", "2.34", "2.38"]);
  });
});
