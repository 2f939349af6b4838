import { expect, test } from "bun:test";
import { join } from "node:path";
import { loadDataset } from "../../src/data/load-dataset.ts";
import { isTemplateDate, strftime, today } from "../../src/data/template-date.ts";
import { Tokenizer } from "../../src/data/tokenizer.ts";
import { folderOf, llamaFolder } from "./tiny-tokenizer.ts";

test("strftime writes what Python's does", () => {
  expect(strftime("2024-07-06", "%d %b %Y, %A %-d %B %y %% %F %m %H:%M:%S|%e|%a")).toBe(
    "06 Jul 2024, Saturday 6 July 24 % 2024-07-06 07 00:00:00| 6|Sat",
  );
  expect(strftime("2023-12-31", "%a %b")).toBe("Sun Dec");
  expect(() => strftime("2024-07-06", "%Q")).toThrow("strftime_now: %Q is not supported");
});

test("today is this time zone's day", () => {
  expect(today(new Date(2024, 0, 5, 23, 59))).toBe("2024-01-05");
  expect(isTemplateDate(today())).toBe(true);
  for (const no of ["2024-02-30", "2024-13-01", "24-01-01", "2024-01-05T00:00", null, 5])
    expect(isTemplateDate(no)).toBe(false);
});

test("a template's date is the one given, and tells data sets apart only where it is used", async () => {
  const tokenizerDir = llamaFolder();
  const folder = folderOf({
    "dated.jinja":
      "{{ strftime_now('%d %b %Y') }} {{ messages[0]['content'] }}{{ messages[1]['content'] }}</s>",
    "plain.jinja": "{{ messages[0]['content'] }}{{ messages[1]['content'] }}</s>",
  });
  const rows = [{ prompt: "hello", completion: " world" }];
  const load = (name: string, templateDate?: string, workers = 0) =>
    loadDataset({ rows, tokenizerDir, template: join(folder, name), maxLength: null, templateDate, workers });
  const dated = await load("dated.jinja", "2024-07-26");
  expect(Tokenizer.load(tokenizerDir).decode(dated.get(0).ids, { skipSpecial: true })).toBe(
    "26 Jul 2024 hello world",
  );
  expect((await load("dated.jinja", "2024-07-26", 1)).get(0).ids).toEqual(dated.get(0).ids);
  expect((await load("dated.jinja", "2024-07-27")).fingerprint).not.toBe(dated.fingerprint);
  expect((await load("dated.jinja")).fingerprint).toBe((await load("dated.jinja", today())).fingerprint);
  const first = { rows: 1, first: ": row 1" };
  for (const workers of [0, 1]) {
    const [told] = (await load("dated.jinja", "2024-07-26", workers)).notes;
    expect(told).toMatchObject({ remarks: { dated: first }, date: undefined });
  }
  expect((await load("dated.jinja")).notes[0]!.date).toBe(today());
  const plain = await load("plain.jinja", "2024-07-26");
  expect(plain.notes[0]!.remarks).not.toHaveProperty("dated");
  expect((await load("plain.jinja", "2024-07-27")).fingerprint).toBe(plain.fingerprint);
});
