// npm run release: makes every file of a release in dist/release.
//
//   npm run release -- [--built] [linux-x64] [linux-arm64]     both platforms without a name
//
// The executables are built first, CUDA included; --built takes those in dist as they are.
// Everything follows from the commit: two runs give the same bytes.

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import packageJson from "../../package.json" with { type: "json" };
import { root } from "../compile.ts";
import { commit, sourceDate, version } from "../facts.ts";
import { arm64, type Platform, platforms } from "../platform.ts";
import { loadCommands } from "./commands.ts";
import { mainPackage, platformPackage } from "./npm/packages.ts";
import { libraryTypes } from "./npm/types.ts";
import { partsOf } from "./parts.ts";
import { wheel, wheelName } from "./python/wheel.ts";
import { bill } from "./sbom.ts";
import { shellFiles, tarball } from "./tarball.ts";
import { thirdParty } from "./third-party.ts";

const output = join(root, "dist", "release");

/** The platforms named; all without a name. Throws at an unknown one. */
function chosen(names: readonly string[]): readonly Platform[] {
  const unknown = names.find((name) => platforms.every((platform) => platform.name !== name));
  if (unknown !== undefined)
    throw new Error(
      `unknown platform ${unknown}; expected ${platforms.map(({ name }) => name).join(" or ")}`,
    );
  return names.length === 0 ? platforms : platforms.filter(({ name }) => names.includes(name));
}

function write(name: string, bytes: Uint8Array | string): void {
  writeFileSync(join(output, name), bytes);
}

const read = (...parts: string[]) => readFileSync(join(root, ...parts));

/** Builds a platform's executable. Throws where that fails; what the build says goes to standard error. */
async function build(platform: Platform): Promise<void> {
  const flags = platform === arm64 ? ["--arm64", "--cuda"] : ["--cuda"];
  const child = Bun.spawn([process.execPath, join(root, "build.ts"), ...flags], { stdout: 2, stderr: 2 });
  if ((await child.exited) !== 0) throw new Error(`${platform.name} cannot be built`);
}

/** The files for one platform. Throws where its executable was not built. */
function releaseFor(platform: Platform, shells: ReturnType<typeof shellFiles>, date: number): void {
  const path = platform.executable;
  if (!existsSync(path)) throw new Error(`${path} is missing: leave out --built`);
  const executable = readFileSync(path);
  const documents = {
    LICENSE: read("LICENSE"),
    "README.md": read("README.md"),
    "THIRD_PARTY.md": Buffer.from(thirdParty(partsOf(platform), platform.name)),
  };
  const files = Object.entries(documents).map(([name, bytes]) => ({ path: name, bytes }));
  const name = `neftune-${version}-${platform.name}`;
  write(`${name}.tar.gz`, tarball(name, executable, [...files, ...shells], date));
  write(`neftune-${platform.name}-${version}.tgz`, platformPackage(platform, executable, files, date));
  write(wheelName(platform), wheel(platform, executable, documents, date));
}

/** The installer for this version; it asks for the address of the files where package.json names no repository. */
function installer(): string {
  const repository = (packageJson as { repository?: string }).repository;
  const address = repository === undefined ? "" : `${repository}/releases/download/v${version}`;
  return readFileSync(join(import.meta.dir, "install.sh"), "utf8")
    .replace("@VERSION@", version)
    .replace("@BASE_URL@", address);
}

/** SHA256SUMS of all other files, as sha256sum --check reads it. */
function sums(): string {
  const names = readdirSync(output)
    .filter((name) => name !== "SHA256SUMS")
    .sort();
  return names
    .map(
      (name) =>
        `${createHash("sha256")
          .update(readFileSync(join(output, name)))
          .digest("hex")}  ${name}\n`,
    )
    .join("");
}

async function release(selected: readonly Platform[]): Promise<void> {
  const date = sourceDate();
  rmSync(output, { recursive: true, force: true });
  mkdirSync(output, { recursive: true });
  const shells = shellFiles(await loadCommands(), version, date);
  for (const platform of selected) releaseFor(platform, shells, date);
  const documents = ["LICENSE", "README.md"].map((name) => ({ path: name, bytes: read(name) }));
  write(`neftune-${version}.tgz`, mainPackage(selected, await libraryTypes(), documents, date));
  write("install.sh", installer());
  const bills = selected.map((platform) => ({ platform, parts: partsOf(platform) }));
  write("sbom.cdx.json", bill({ version, commit: commit(), date }, bills));
  write("SHA256SUMS", sums());
  for (const name of readdirSync(output).sort())
    console.error(
      `${(statSync(join(output, name)).size / 1e6).toFixed(1).padStart(7)} MB  dist/release/${name}`,
    );
}

const named = process.argv.slice(2);
const selected = chosen(named.filter((argument) => argument !== "--built"));
if (!named.includes("--built")) for (const platform of selected) await build(platform);
await release(selected);
