import { expect, test } from "bun:test";
import { versionText } from "../../src/cli/version.ts";

const platform = `${process.platform}-${process.arch}`;

test("what a release says", () => {
  const facts = { commit: "0123456789abcdef0123456789abcdef01234567", cudaArchitectures: ["80", "90"] };
  expect(versionText("1.2.3", facts)).toBe(
    `neftune 1.2.3\ncommit    0123456789abcdef0123456789abcdef01234567\nplatform  ${platform}\nCUDA      sm_80, sm_90, and PTX for later GPUs\n`,
  );
});

test("without CUDA, outside a git checkout", () => {
  expect(versionText("1.2.3", { commit: null, cudaArchitectures: [] })).toBe(
    `neftune 1.2.3\ncommit    unknown\nplatform  ${platform}\nCUDA      not in this build\n`,
  );
});

test("run from source, nothing is claimed about a build", () => {
  expect(versionText("1.2.3")).toContain("commit    run from source\n");
});
