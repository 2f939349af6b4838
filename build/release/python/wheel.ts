// The Python wheel: the executable as the wheel's script, and a module, so that `python -m neftune` runs it.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import packageJson from "../../../package.json" with { type: "json" };
import type { Platform } from "../../platform.ts";
import type { Entry } from "../tar.ts";
import { zip } from "../zip.ts";

const own = (name: string) => readFileSync(join(import.meta.dir, name));

/** The tag of the oldest glibc that the executable runs with. */
const tag = (platform: Platform) => `py3-none-manylinux_2_28_${platform.machine}`;

export const wheelName = (platform: Platform): string =>
  `neftune-${packageJson.version}-${tag(platform)}.whl`;

function metadata(readme: string): string {
  return [
    "Metadata-Version: 2.4",
    "Name: neftune",
    `Version: ${packageJson.version}`,
    `Summary: ${packageJson.description}`,
    `License-Expression: ${packageJson.license}`,
    "License-File: LICENSE",
    "License-File: THIRD_PARTY.md",
    "Requires-Python: >=3.8",
    "Description-Content-Type: text/markdown",
    "",
    readme,
  ].join("\n");
}

function wheelFile(platform: Platform): string {
  return [
    "Wheel-Version: 1.0",
    "Generator: neftune",
    "Root-Is-Purelib: false",
    `Tag: ${tag(platform)}`,
    "",
  ].join("\n");
}

/** RECORD's line for a file: its path, hash and size. */
function recorded({ path, bytes }: Entry): string {
  return `${path},sha256=${createHash("sha256").update(bytes).digest("base64url")},${bytes.length}`;
}

export function wheel(
  platform: Platform,
  executable: Uint8Array,
  documents: Record<"LICENSE" | "THIRD_PARTY.md" | "README.md", Uint8Array>,
  seconds: number,
): Buffer {
  const info = `neftune-${packageJson.version}.dist-info`;
  const text = (path: string, content: string): Entry => ({ path, bytes: Buffer.from(content) });
  const files: Entry[] = [
    { path: "neftune/__init__.py", bytes: own("__init__.py") },
    { path: "neftune/__main__.py", bytes: own("__main__.py") },
    {
      path: `neftune-${packageJson.version}.data/scripts/neftune`,
      bytes: executable,
      isExecutable: true,
    },
    { path: `${info}/licenses/LICENSE`, bytes: documents.LICENSE },
    { path: `${info}/licenses/THIRD_PARTY.md`, bytes: documents["THIRD_PARTY.md"] },
    text(`${info}/METADATA`, metadata(Buffer.from(documents["README.md"]).toString())),
    text(`${info}/WHEEL`, wheelFile(platform)),
  ];
  const record = [...files.map(recorded), `${info}/RECORD,,`, ""].join("\n");
  return zip([...files, text(`${info}/RECORD`, record)], seconds);
}
