// THIRD_PARTY.md: every part of the executable, its license, and the license's text.

import { readFileSync } from "node:fs";
import type { Part } from "./parts.ts";

/** Each line behind four spaces: as it is, in Markdown. */
const verbatim = (text: string) =>
  text
    .replaceAll("\f", "")
    .trimEnd()
    .split(/\r?\n/)
    .map((line) => (line === "" ? "" : `    ${line.trimEnd()}`))
    .join("\n");

function section(part: Part): string {
  const held = (part.holds ?? []).map(([name, license]) => `- ${name}: ${license}`).join("\n");
  return [
    `## ${part.name} ${part.version}`,
    `${part.purpose[0]!.toUpperCase()}${part.purpose.slice(1)}. License: ${part.license}. <${part.url}>`,
    part.note ?? "",
    held === "" ? "" : `It holds:\n\n${held}`,
    ...part.texts.map((path) => verbatim(readFileSync(path, "utf8"))),
  ]
    .filter((paragraph) => paragraph !== "")
    .join("\n\n");
}

export function thirdParty(parts: readonly Part[], platform: string): string {
  const rows = parts.map(
    ({ name, version, license, purpose }) => `| ${name} | ${version} | ${license} | ${purpose} |`,
  );
  return [
    "# Third-party software",
    `neftune's own code is licensed under Apache-2.0 (LICENSE). The executable for ${platform} also contains:`,
    ["| part | version | license | purpose |", "| --- | --- | --- | --- |", ...rows].join("\n"),
    ...parts.map(section),
    "",
  ].join("\n\n");
}
