import { expect, test } from "bun:test";
import { shellWord } from "../src/shell.ts";

test.each([
  "plain",
  "runs/a-1_b.2",
  "org/name@v1",
  "it's",
  "a b",
  "$HOME `x` \\",
  "~/x",
  "日本 🐙",
  "",
  "a\nb",
])("the shell reads %j as it was", (word) => {
  const { stdout } = Bun.spawnSync(["sh", "-c", `printf %s ${shellWord(word)}`]);
  expect(stdout.toString()).toBe(word);
});

test("plain words stay bare", () => {
  expect(["org/name@v1", "a=1"].map(shellWord)).toEqual(["org/name@v1", "a=1"]);
  expect(shellWord("=ls")).toBe("'=ls'"); // zsh would put the path of ls
});
