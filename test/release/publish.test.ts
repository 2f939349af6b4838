// The scripts that the release workflow calls, with programs in place of gh, npm and twine that write down what they
// are asked to do.

import { afterAll, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const root = join(import.meta.dir, "../..");
const checkout = mkdtempSync(join(tmpdir(), "neftune-publish-"));
const released = join(checkout, "dist", "release");
const asked = join(checkout, "asked.txt");
for (const folder of ["build/release", "dist/release", "bin"])
  mkdirSync(join(checkout, folder), { recursive: true });
for (const script of ["check-tag.sh", "publish.sh"])
  cpSync(join(root, "build/release", script), join(checkout, "build/release", script));
writeFileSync(
  join(checkout, "package.json"),
  '{\n  "name": "neftune",\n  "version": "1.2.3",\n  "private": true\n}\n',
);
const files = [
  "install.sh",
  "neftune-1.2.3.tgz",
  "neftune-linux-arm64-1.2.3.tgz",
  "neftune-linux-x64-1.2.3.tgz",
].concat([
  "neftune-1.2.3-linux-x64.tar.gz",
  "neftune-1.2.3-py3-none-manylinux_2_28_x86_64.whl",
  "sbom.cdx.json",
]);
for (const name of files) writeFileSync(join(released, name), name);
writeFileSync(
  join(released, "SHA256SUMS"),
  files.map((name) => `${createHash("sha256").update(name).digest("hex")}  ${name}\n`).join(""),
);
const npmrc = join(checkout, "npmrc.txt");
const registry = "https://packages.test/npm/";
/** What npm does beside: it tells its registry, and has its settings in a file. */
const npm = `if [ "$1" = config ]; then echo ${registry}; exit; fi\ncat "$NPM_CONFIG_USERCONFIG" >"${npmrc}"\n`;
for (const program of ["gh", "npm", "twine"]) {
  const script = `#!/bin/sh\n${program === "npm" ? npm : ""}echo "${program} $*" >>"${asked}"\n`;
  writeFileSync(join(checkout, "bin", program), script, { mode: 0o755 });
}
afterAll(() => rmSync(checkout, { recursive: true }));

function run(script: string, tag: string) {
  const env = { ...process.env, PATH: `${join(checkout, "bin")}:${process.env.PATH}` };
  const { exitCode, stderr } = Bun.spawnSync([join(checkout, "build/release", script), tag], { env });
  return { status: exitCode, stderr: stderr.toString() };
}

test("a tag has to be v and the version, and the changelog has to have a section for it", () => {
  const changelog = (heading: string) =>
    writeFileSync(join(checkout, "CHANGELOG.md"), `# Changelog\n\n${heading}\n`);
  changelog("## [Unreleased]");
  expect(run("check-tag.sh", "v1.2.4").stderr).toContain(
    "the tag is v1.2.4, but package.json has version 1.2.3",
  );
  expect(run("check-tag.sh", "v1.2.3")).toMatchObject({
    status: 1,
    stderr: expect.stringContaining("no section"),
  });
  changelog("## [1.2.3] - soon");
  expect(run("check-tag.sh", "v1.2.3").status).toBe(1);
  changelog("## [1.2.3] - 2026-11-28");
  expect(run("check-tag.sh", "v1.2.3")).toEqual({ status: 0, stderr: "" });
});

test("npm gets the platforms' packages before the main one; PyPI the wheels; GitHub everything", () => {
  expect(run("publish.sh", "v1.2.3")).toEqual({ status: 0, stderr: "" });
  const lines = readFileSync(asked, "utf8").trimEnd().split("\n");
  expect(lines.slice(0, 4)).toEqual([
    "npm publish --access public ./neftune-linux-arm64-1.2.3.tgz",
    "npm publish --access public ./neftune-linux-x64-1.2.3.tgz",
    "npm publish --access public ./neftune-1.2.3.tgz",
    "twine upload --non-interactive neftune-1.2.3-py3-none-manylinux_2_28_x86_64.whl",
  ]);
  expect(lines).toHaveLength(5);
  const token = "//packages.test/npm/:_authToken=$" + "{NODE_AUTH_TOKEN}"; // npm fills it in
  expect(readFileSync(npmrc, "utf8")).toBe(`registry=${registry}\n${token}\n`);
  expect(lines[4]).toStartWith("gh release create v1.2.3 ");
  for (const name of [...files, "SHA256SUMS"]) expect(lines[4]).toContain(`./${name}`);
});

test("nothing is published when a file is another than SHA256SUMS says", () => {
  rmSync(asked);
  writeFileSync(join(released, "install.sh"), "changed");
  const { status, stderr } = run("publish.sh", "v1.2.3");
  expect(status).toBe(1);
  expect(stderr).toContain("did NOT match");
  expect(() => readFileSync(asked)).toThrow();
});
