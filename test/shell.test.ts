import { expect, test } from "bun:test";
import { shellWord } from "../src/shell.ts";

test.each([
  "plain",
  "runs/a-1_b.2",
  "org/name@v1",
  "it's",
  "'a' 'b'",
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

test("of ASCII, letters, digits and @%+=:,./_- stay bare; all else is quoted", () => {
  const characters = Array.from({ length: 128 }, (_, code) => String.fromCharCode(code)).slice(1);
  const bare = characters.filter((one) => shellWord(`a${one}b`) === `a${one}b`);
  expect(bare.join("")).toBe("%+,-./0123456789:=@ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz");
});

test("plain words stay bare", () => {
  expect(["org/name@v1", "a=1"].map(shellWord)).toEqual(["org/name@v1", "a=1"]);
  expect(shellWord("=ls")).toBe("'=ls'"); // zsh would put the path of ls
});
