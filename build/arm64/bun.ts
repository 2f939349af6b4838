// Bun's runtime for arm64, from npm.

import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import packageJson from "../../package.json" with { type: "json" };
import { root } from "../compile.ts";
import { run } from "../toolchain.ts";

const version = packageJson.devDependencies["@oven/bun-linux-x64"];
/** npm's integrity of the package of that version. */
const integrity = "4BXmsSKnjOrlGWqZV4x/oWa7AVoR+B6lCXddMzOAXBIm3t50eslg9wb66gmtW1AamEQ1l1CDvmmruysEhqOWMg==";

/** Its path, fetched once. Throws where npm gives another file than the pinned one. */
export async function ensureBun(): Promise<string> {
  const folder = join(root, ".toolchain", `bun-linux-aarch64-${version}`);
  const bun = join(folder, "package", "bin", "bun");
  if (existsSync(bun)) return bun;
  console.error("fetching Bun's runtime for arm64 (about 53 MB), once");
  const unpacking = `${folder}-unpacking`;
  rmSync(unpacking, { recursive: true, force: true });
  mkdirSync(unpacking, { recursive: true });
  const name = `@oven/bun-linux-aarch64@${version}`;
  const packed = (await run(["npm", "pack", "--silent", "--pack-destination", unpacking, name])).trim();
  const archive = join(unpacking, packed.split("\n").at(-1)!);
  const got = new Bun.CryptoHasher("sha512").update(readFileSync(archive)).digest("base64");
  if (got !== integrity) throw new Error(`${name}: expected SHA-512 ${integrity}, got ${got}`);
  await run(["tar", "-xzf", archive, "-C", unpacking]);
  rmSync(archive);
  renameSync(unpacking, folder);
  return bun;
}
