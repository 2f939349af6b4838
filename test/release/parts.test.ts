// THIRD_PARTY.md and the bill of materials list what is bundled: every npm package, and no other.

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { entrypoints } from "../../build/executable.ts";
import { x64 } from "../../build/platform.ts";
import { npmParts } from "../../build/release/parts.ts";
import { bill } from "../../build/release/sbom.ts";
import { thirdParty } from "../../build/release/third-party.ts";

test("every npm package in the bundle is a part, and every part is in it", async () => {
  const built = await Bun.build({
    entrypoints,
    target: "bun",
    sourcemap: "external",
    naming: "[dir]/[name].[hash].[ext]",
  });
  const maps = built.outputs.filter(({ kind }) => kind === "sourcemap");
  const sources = await Promise.all(maps.map(async (map) => (await map.json()).sources as string[]));
  const names = sources
    .flat()
    .flatMap((path) => /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1] ?? []);
  expect([...new Set(names)].sort()).toEqual(npmParts().map(({ name }) => name));
}, 60_000);

test("a part that two platforms hold is listed once", () => {
  const parts = npmParts();
  const both = [x64, { ...x64, name: "linux-arm64" as const }].map((platform) => ({ platform, parts }));
  const { components, serialNumber } = JSON.parse(bill({ version: "1.2.3", commit: null, date: 0 }, both));
  expect(components).toHaveLength(parts.length);
  expect(components[0].properties.map(({ value }: { value: string }) => value)).toEqual([
    "linux-x64",
    "linux-arm64",
  ]);
  expect(serialNumber).toMatch(/^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}$/);
});

test("the text of each license is there, as it is", () => {
  const parts = npmParts();
  const text = thirdParty(parts, "linux-x64");
  expect(text.match(/^ {4}.*Permission (is hereby granted|to use, copy)/gm)!.length).toBeGreaterThan(5);
  for (const { name, version, license, texts } of parts) {
    expect(text).toContain(`| ${name} | ${version} | ${license} |`);
    const first = readFileSync(texts[0]!, "utf8").trim().split(/\r?\n/)[0]!;
    expect(text).toContain(`    ${first.trimEnd()}\n`);
  }
});
