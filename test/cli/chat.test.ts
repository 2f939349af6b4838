// What lines of a chat do.

import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Chat } from "../../src/cli/chat/conversation.ts";

const root = mkdtempSync(join(tmpdir(), "chat-"));
afterAll(() => rmSync(root, { recursive: true }));

const settings = {
  temperature: 0,
  topP: 1,
  topK: 0,
  minP: 0,
  repetitionPenalty: 1,
  seed: 42,
  maxNewTokens: 512,
};
const user = (content: string) => ({ role: "user" as const, content });
const assistant = (content: string) => ({ role: "assistant" as const, content });
const system = (content: string) => ({ role: "system" as const, content });

function told(): Chat {
  const chat = new Chat("be brief", { ...settings });
  expect(chat.take("one")).toEqual({ isQuestion: true });
  chat.add("1");
  chat.take("two");
  chat.add("2");
  return chat;
}

test("questions and answers, behind the system message; two slashes are one", () => {
  const chat = told();
  chat.take("//etc is a folder");
  expect(chat.messages).toEqual([
    ...[system("be brief"), user("one"), assistant("1"), user("two"), assistant("2")],
    user("/etc is a folder"),
  ]);
  chat.takeBack();
  expect(chat.messages.at(-1)).toEqual(assistant("2"));
});

test("/regenerate asks the last question again, with other draws", () => {
  const chat = told();
  const first = chat.nextDraw();
  expect(chat.take("/regenerate")).toEqual({ isQuestion: true });
  expect(chat.messages.at(-1)).toEqual(user("two"));
  expect(chat.nextDraw()).not.toBe(first);
  expect(new Chat(null, settings).take("/regenerate").note).toBe("there is no answer yet");
});

test("/reset keeps the system message, /system changes it", () => {
  const chat = told();
  chat.take("/reset");
  expect(chat.messages).toEqual([system("be brief")]);
  chat.take("hello");
  chat.take("/system  Answer in rhymes. ");
  expect(chat.messages).toEqual([system("Answer in rhymes.")]);
  chat.take("/system");
  expect(chat.messages).toEqual([]);
});

test("/set changes what answers are made with, within the options' ranges", () => {
  const chat = told();
  expect(chat.take("/set temperature 0.7").note).toContain("temperature 0.7, top-p 1,");
  chat.take("/set max-new-tokens 20");
  chat.take("/set min-p 0.05");
  expect(chat.settings).toMatchObject({ temperature: 0.7, minP: 0.05, maxNewTokens: 20 });
  for (const [line, note] of [
    ["/set temperature -1", "/set temperature expects a number of at least 0, got -1"],
    ["/set top-p warm", "/set top-p expects a number above 0 and at most 1, got warm"],
    ["/set min-p 2", "/set min-p expects a number of at least 0 and at most 1, got 2"],
    ["/set seed 1.5", "/set seed expects a whole number of at least 0, got 1.5"],
    ["/set heat 1", "/set takes a name and a value: temperature 0.7"],
    ["/set temperature", "/set takes a name and a value"],
    ["/set", "/set takes a name and a value"],
  ] as const)
    expect(chat.take(line).note).toContain(note);
  expect(chat.settings).toMatchObject({ temperature: 0.7, topP: 1, seed: 42 });
});

test("/save writes a row to train on, and no file that is there", () => {
  const path = join(root, "talk.jsonl");
  expect(new Chat(null, settings).take(`/save ${path}`).note).toBe("nothing has been said yet");
  const chat = told();
  expect(chat.take(`/save ${path}`).note).toBe(`saved as ${path}`);
  expect(JSON.parse(readFileSync(path, "utf8"))).toEqual({ messages: chat.messages });
  expect(chat.take(`/save ${path}`).note).toBe(`${path} already exists; choose another name`);
  expect(chat.take(`/save ${join(root, "none", "x")}`).note).toContain(
    "cannot be written: no such file or folder",
  );
  expect(chat.take("/save").note).toBe("/save takes the name of a file");
});

test("/help, /exit, and what is none of them", () => {
  const chat = told();
  expect(chat.take("/help").note).toContain("/regenerate answers the last message again");
  expect(chat.take("/exit")).toEqual({ isExit: true });
  expect(chat.take("/rest").note).toBe("unknown command /rest; did you mean /reset?");
  expect(chat.messages.length).toBe(5);
});
