import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { optionsPage } from "../../scripts/options-page.ts";

test("docs/options.md is what the declarations say; bun scripts/options-page.ts writes it", () => {
  expect(readFileSync(join(import.meta.dir, "../../docs/options.md"), "utf8")).toBe(optionsPage());
});
