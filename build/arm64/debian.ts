// Debian's packages for arm64, pinned in debian.txt: fetched once into .toolchain/debian and unpacked there, not
// installed. In them: SIMDe, the cross compiler that nvcc calls, qemu and arm64's libraries.

import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "../compile.ts";
import { run } from "../toolchain.ts";

const ARCHIVE = "https://deb.debian.org/debian/";
const folder = join(root, ".toolchain", "debian");

/** A file of Debian's archive. Throws where it cannot be fetched or is another than the pinned one. */
export async function fetched(path: string, expected: string): Promise<Uint8Array> {
  const response = await fetch(`${ARCHIVE}${path}`);
  if (!response.ok) throw new Error(`${ARCHIVE}${path}: the server answers ${response.status}`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  const got = new Bun.CryptoHasher("sha256").update(bytes).digest("hex");
  if (got !== expected) throw new Error(`${ARCHIVE}${path}: expected SHA-256 ${expected}, got ${got}`);
  return bytes;
}

/** Unpacks a package's files into a folder that stands for "/". */
export async function unpack(bytes: Uint8Array, root: string): Promise<void> {
  const archive = join(root, "package.deb");
  writeFileSync(archive, bytes);
  await run(["sh", "-c", `ar p "$0" data.tar.xz | tar -xJf - -C "$1"`, archive, root]);
  rmSync(archive);
}

/** The folder that the packages are unpacked in, as if it were "/". */
export async function ensureDebian(): Promise<string> {
  const pins = readFileSync(join(import.meta.dir, "debian.txt"), "utf8");
  const stamp = join(folder, "stamp");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === pins) return folder;
  console.error("fetching Debian's packages for arm64 (about 110 MB), once");
  const unpacking = `${folder}-unpacking`;
  rmSync(unpacking, { recursive: true, force: true });
  mkdirSync(unpacking, { recursive: true });
  for (const [, hash, path] of pins.matchAll(/^([0-9a-f]{64}) {2}(\S+)$/gm)) {
    await unpack(await fetched(path!, hash!), unpacking);
  }
  writeFileSync(join(unpacking, "stamp"), pins);
  rmSync(folder, { recursive: true, force: true });
  renameSync(unpacking, folder);
  return folder;
}

/** The command that runs arm64 programs here, with arm64's libraries. OpenBLAS is wrong on qemu's default processor. */
export const emulator = (debian: string): string[] => [
  join(debian, "usr/bin/qemu-aarch64-static"),
  ...["-L", join(debian, "usr/aarch64-linux-gnu"), "-cpu", "neoverse-n1"],
];
