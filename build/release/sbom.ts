// sbom.cdx.json: the parts of a release as a CycloneDX 1.6 bill of materials.

import { createHash } from "node:crypto";
import type { Platform } from "../platform.ts";
import type { Part } from "./parts.ts";

interface License {
  expression?: string;
  license?: { name: string };
}

/** An SPDX expression, or a name where SPDX has none. */
const licenseOf = (license: string): License[] =>
  license.startsWith("LicenseRef-") ? [{ license: { name: license.slice(11) } }] : [{ expression: license }];

/** A UUID that follows from the text. */
function uuid(text: string): string {
  const hex = createHash("sha256").update(text).digest("hex");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-5${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

export interface Released {
  version: string;
  commit: string | null;
  /** Seconds after 1970. */
  date: number;
}

/** The bill of the executables of all `platforms`; a part that several hold is listed once and says which do. */
export function bill(
  { version, commit, date }: Released,
  platforms: readonly { platform: Platform; parts: readonly Part[] }[],
): string {
  const purl = `pkg:npm/neftune@${version}`;
  const parts = new Map<string, { part: Part; on: string[] }>();
  for (const { platform, parts: held } of platforms) {
    for (const part of held) {
      const known = parts.get(part.purl);
      if (known === undefined) parts.set(part.purl, { part, on: [platform.name] });
      else known.on.push(platform.name);
    }
  }
  const components = [...parts.values()].map(({ part, on }) => ({
    type: part.name === "Bun" ? "platform" : "library",
    "bom-ref": part.purl,
    name: part.name,
    version: part.version,
    description: part.purpose,
    licenses: licenseOf(part.license),
    purl: part.purl,
    externalReferences: [{ type: "website", url: part.url }],
    properties: on.map((name) => ({ name: "neftune:platform", value: name })),
    ...(part.holds === undefined
      ? {}
      : {
          components: part.holds.map(([name, license]) => ({
            ...{ type: "library", name, licenses: licenseOf(license) },
          })),
        }),
  }));
  const document = {
    bomFormat: "CycloneDX",
    specVersion: "1.6",
    serialNumber: `urn:uuid:${uuid(`${purl} ${commit} ${[...parts.keys()].join(" ")}`)}`,
    version: 1,
    metadata: {
      timestamp: new Date(date * 1000).toISOString().replace(".000", ""),
      component: {
        type: "application",
        "bom-ref": purl,
        name: "neftune",
        version,
        licenses: [{ license: { id: "Apache-2.0" } }],
        purl,
        ...(commit === null ? {} : { properties: [{ name: "neftune:commit", value: commit }] }),
      },
    },
    components,
    dependencies: [
      { ref: purl, dependsOn: [...parts.keys()] },
      ...Array.from(parts.keys(), (ref) => ({ ref, dependsOn: [] })),
    ],
  };
  return `${JSON.stringify(document, null, 2)}\n`;
}
