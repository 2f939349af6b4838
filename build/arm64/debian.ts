// Debian's packages for arm64, pinned in debian.txt: fetched once into .toolchain/debian and unpacked there, not
// installed. In them: SIMDe, the cross compiler that nvcc calls, qemu and arm64's libraries.

import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "../compile.ts";
import { run } from "../toolchain.ts";

const folder = join(root, ".toolchain", "debian");
let archive: Promise<string> | null = null;

/** The address of Debian's archive: NEFTUNE_DEBIAN_ARCHIVE, or where apt has its packages from on a Debian machine. */
async function findArchive(): Promise<string> {
  const given = process.env.NEFTUNE_DEBIAN_ARCHIVE;
  if (given) return given;
  const apt = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(SITE)", "Created-By: Packages"];
  const sources = Bun.which("apt-get") === null ? "" : await run(apt);
  const [, site] = /^Debian (\S+(?<!-security))$/m.exec(sources) ?? [];
  if (site !== undefined) return site;
  throw new Error(
    "arm64 needs packages of Debian 12, and apt knows no Debian archive here; give its address in NEFTUNE_DEBIAN_ARCHIVE",
  );
}

const TRIES = 3;

/** What is at an address, tried three times, as archives have bad moments. Throws what the last try ended with. */
export async function download(address: string, pause = 5000): Promise<Uint8Array> {
  for (let left = TRIES - 1; ; left--) {
    try {
      const response = await fetch(address);
      if (!response.ok) throw new Error(`${address}: the server answers ${response.status}`);
      return new Uint8Array(await response.arrayBuffer());
    } catch (error) {
      if (left === 0) throw error;
      await Bun.sleep(pause);
    }
  }
}

/** A file of Debian's archive. Throws where it cannot be fetched or is another than the pinned one. */
export async function fetched(path: string, expected: string): Promise<Uint8Array> {
  archive ??= findArchive();
  const address = `${(await archive).replace(/\/+$/, "")}/${path}`;
  const bytes = await download(address);
  const got = new Bun.CryptoHasher("sha256").update(bytes).digest("hex");
  if (got !== expected) throw new Error(`${address}: expected SHA-256 ${expected}, got ${got}`);
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
