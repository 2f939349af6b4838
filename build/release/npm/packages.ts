// The npm packages: `neftune`, which has the command, and one for each platform, which has the executable. npm
// installs the one that fits (os, cpu and libc of an optional dependency), and no script runs at installation.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import packageJson from "../../../package.json" with { type: "json" };
import type { Platform } from "../../platform.ts";
import { type Entry, tarGz } from "../tar.ts";

/** What all packages say alike. */
const common = (name: string, description: string) => ({
  name,
  version: packageJson.version,
  description,
  license: packageJson.license,
});

/** npm wants every file of a package below package/. */
function pack(manifest: object, files: readonly Entry[], seconds: number): Buffer {
  const json = Buffer.from(`${JSON.stringify(manifest, null, 2)}\n`);
  const entries = [{ path: "package.json", bytes: json }, ...files];
  return tarGz(
    entries.map((entry) => ({ ...entry, path: `package/${entry.path}` })),
    seconds,
  );
}

const own = (name: string) => readFileSync(join(import.meta.dir, name));

/** The main package's archive for these platforms: the launcher, the library's types, `documents`. */
export function mainPackage(
  platforms: readonly Platform[],
  types: readonly Entry[],
  documents: readonly Entry[],
  seconds: number,
): Buffer {
  const manifest = {
    ...common("neftune", packageJson.description),
    type: "module",
    bin: { neftune: "bin/neftune" },
    exports: {
      ".": { types: "./types/index.d.ts", default: "./library.js" },
      "./package.json": "./package.json",
    },
    types: "./types/index.d.ts",
    optionalDependencies: Object.fromEntries(
      platforms.map(({ name }) => [`neftune-${name}`, packageJson.version]),
    ),
    peerDependencies: { "bun-types": `>=${packageJson.devDependencies["bun-types"]}` },
    peerDependenciesMeta: { "bun-types": { optional: true } },
  };
  const files = [
    { path: "bin/neftune", bytes: own("launcher.sh"), isExecutable: true },
    { path: "library.js", bytes: own("library.js") },
    ...types.map((entry) => ({ ...entry, path: `types/${entry.path}` })),
    ...documents,
  ];
  return pack(manifest, files, seconds);
}

/** A platform's archive: the executable, `documents`. */
export function platformPackage(
  platform: Platform,
  executable: Uint8Array,
  documents: readonly Entry[],
  seconds: number,
): Buffer {
  const manifest = {
    ...common(`neftune-${platform.name}`, `The executable of neftune for ${platform.name}.`),
    os: ["linux"],
    cpu: [platform.cpu],
    libc: ["glibc"],
    preferUnplugged: true,
  };
  const files = [{ path: "bin/neftune", bytes: executable, isExecutable: true }, ...documents];
  return pack(manifest, files, seconds);
}
