// Completions and the man page know every option of every command, because they are made from the same tables.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { allOptions, loadCommands } from "../../build/release/commands.ts";
import { shellFiles } from "../../build/release/tarball.ts";
import type { LoadedCommand } from "../../src/cli/commands.ts";

const scratch = mkdtempSync(join(tmpdir(), "neftune-shells-"));
let commands: LoadedCommand[];
const texts = new Map<string, string>();
beforeAll(async () => {
  commands = await loadCommands();
  for (const { path, bytes } of shellFiles(commands, "1.2.3", 0)) {
    writeFileSync(join(scratch, basename(path)), bytes);
    texts.set(basename(path), Buffer.from(bytes).toString());
  }
});
afterAll(() => rmSync(scratch, { recursive: true }));

function shell(command: string[]): string {
  const { exitCode, stdout, stderr } = Bun.spawnSync(command, { cwd: scratch });
  expect(stderr.toString()).toBe("");
  expect(exitCode).toBe(0);
  return stdout.toString();
}

/** What bash offers for the last of `words`. */
function offered(...words: string[]): string[] {
  const script = `compopt() { :; }
source ./neftune.bash
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
_neftune
printf '%s\\n' "\${COMPREPLY[@]}"`;
  return shell(["bash", "-c", script, "bash", ...words])
    .split("\n")
    .filter(Boolean);
}

describe("bash", () => {
  test("offers the commands, then a command's own options", () => {
    expect(offered("neftune", "")).toEqual([...commands.map(({ name }) => name), "help"]);
    for (const command of commands) {
      const own = allOptions(command).map(([name]) => `--${name}`);
      expect(offered("neftune", command.name, "--")).toEqual([...own, "--help"]);
    }
  });

  test("without a command, train's", () => {
    expect(offered("neftune", "--lora-a")).toEqual(["--lora-alpha"]);
    expect(offered("neftune", "--versio")).toEqual(["--version"]);
    expect(offered("neftune", "--alpha", "5", "--dtyp")).toEqual(["--dtype"]);
  });

  test("offers the words that an option takes, also after =", () => {
    expect(offered("neftune", "train", "--dtype", "")).toEqual(["bf16", "f32"]);
    expect(offered("neftune", "train", "--dtype", "=", "f")).toEqual(["f32"]);
    expect(offered("neftune", "train", "--dtype", "=")).toEqual(["bf16", "f32"]);
    expect(offered("neftune", "train", "--packing", "of")).toEqual(["off"]);
    expect(offered("neftune", "help", "quan")).toEqual(["quantize"]);
  });

  test("offers files where a path may stand, and nothing where a number does", () => {
    const files = ["neftune.1", "neftune.bash", "neftune.fish"];
    expect(offered("neftune", "train", "--config", "neft").sort()).toEqual(files);
    expect(offered("neftune", "inspect", "neftune.b")).toEqual(["neftune.bash"]);
    expect(offered("neftune", "train", "--alpha", "")).toEqual([]);
  });
});

test("every option of every command is in zsh's and fish's files and in the man page", () => {
  const fish = texts.get("neftune.fish")!.split("\n");
  const zsh = texts.get("_neftune")!;
  const man = texts.get("neftune.1")!;
  for (const command of commands) {
    const inZsh = zsh.slice(zsh.indexOf(`\n    ${command.name})\n`)).split(";;")[0]!;
    const condition =
      command.name === "train" ? "-n 'not __fish_seen_" : `-n '__fish_seen_subcommand_from ${command.name}'`;
    const inFish = fish.filter((line) => line.includes(condition));
    for (const [name] of allOptions(command)) {
      expect(inZsh).toMatch(new RegExp(`'\\*?--${name}[=[]`));
      expect(inFish.filter((line) => line.includes(` -l ${name} `))).toHaveLength(1);
      expect(man).toContain(`\\fB\\-\\-${name.replaceAll("-", "\\-")}\\fR`);
    }
  }
});

test.skipIf(Bun.which("zsh") === null)("zsh parses its file (skipped where there is no zsh)", () => {
  shell(["zsh", "-n", "_neftune"]);
});

test.skipIf(Bun.which("fish") === null)("fish parses its file (skipped where there is no fish)", () => {
  shell(["fish", "--no-execute", "neftune.fish"]);
});

test.skipIf(Bun.which("groff") === null)(
  "the man page has no warning (skipped where there is no groff)",
  () => {
    // All but "break": a line with a long word cannot be stretched to the margin, which is no fault.
    const page = shell(["groff", "-man", "-Tutf8", "-Kutf8", "-ww", "-Wbreak", "neftune.1"]);
    expect(page).toContain("neftune 1.2.3");
    expect(page).toContain("1970-01-01");
  },
);
