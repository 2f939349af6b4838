import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { chooseDate, chooseTemplate, templateLine } from "../../src/cli/inputs/prompt-template.ts";
import { rowNotes } from "../../src/cli/inputs/row-notes.ts";
import { promptTemplate } from "../../src/data/templates.ts";
import { templateDateOf, templateRecord, usedTemplates } from "../../src/train/template-record.ts";
import { byteFolder, folderOf, llamaFolder } from "../data/tiny-tokenizer.ts";

const run = (template: unknown, file = "config.json") =>
  folderOf({
    [file]: { neftune_version: "1", prompt_template: template },
    "prompt_template.jinja": "{{ 'kept' }}",
  });
const byRows = { option: undefined, why: "by row format" };

describe("the template is", () => {
  const preset = { name: "chatty", prompt_template: "llama2" } as never;

  test("the option's, else the run's, else the preset's, else that of the rows", () => {
    const adapter = run("alpaca");
    expect(chooseTemplate("vicuna", [adapter], preset)).toEqual({
      option: "vicuna",
      why: "--prompt-template",
    });
    const asTrained = { option: "alpaca", why: `as ${adapter} was trained` };
    expect(chooseTemplate(undefined, [adapter], preset)).toEqual(asTrained);
    expect(chooseTemplate(undefined, [undefined, adapter], undefined)).toEqual(asTrained);
    expect(chooseTemplate(undefined, [undefined], preset)).toEqual({
      option: "llama2",
      why: "preset chatty",
    });
    expect(chooseTemplate(undefined, [undefined], undefined)).toEqual(byRows);
  });

  test("read from a run's record: that of an adapter, of a whole model, or of the run of a checkpoint", () => {
    const full = run("chatml", "run.json");
    expect(chooseTemplate(undefined, [full], undefined).option).toBe("chatml");
    const parent = run("mistral");
    expect(chooseTemplate(undefined, [join(parent, "checkpoints", "step-00000001")], undefined).option).toBe(
      "mistral",
    );
    const jinja = run("prompt_template.jinja");
    const { option } = chooseTemplate(undefined, [jinja], undefined);
    expect(promptTemplate(option)).toMatchObject({ kind: "file", source: "{{ 'kept' }}" });
    for (const template of ["none", "auto", null, 5]) {
      expect(chooseTemplate(undefined, [run(template)], undefined)).toEqual(byRows);
    }
    const foreign = folderOf({ "config.json": { prompt_template: "alpaca" } });
    expect(chooseTemplate(undefined, [foreign, folderOf({})], undefined)).toEqual(byRows);
  });

  test("told the day that the run was told", () => {
    const dated = (date: unknown, file: string) =>
      folderOf({ [file]: { neftune_version: "1", prompt_template: "none", "template-date": date } });
    const [adapter, full] = [dated("2025-02-03", "config.json"), dated("2024-05-06", "run.json")];
    expect(templateDateOf([undefined, adapter, full])).toBe("2025-02-03");
    expect(templateDateOf([full])).toBe("2024-05-06");
    expect(templateDateOf([join(adapter, "checkpoints", "step-00000001")])).toBe("2025-02-03");
    for (const date of ["2025-02-30", null, 5]) {
      expect(templateDateOf([dated(date, "config.json"), folderOf({})])).toBeUndefined();
    }
    expect(chooseDate("2023-01-02", [adapter])).toBe("2023-01-02");
    expect(chooseDate(undefined, [adapter])).toBe("2025-02-03");
    const foreign = folderOf({ "config.json": { "template-date": "2025-02-03" } });
    expect(templateDateOf([foreign, undefined])).toBeUndefined();
  });

  test("written into the run as it took effect, a Jinja file with its text", () => {
    const record = (used: string[], option?: string) => templateRecord(option, promptTemplate(option), used);
    expect(record(["alpaca"])).toEqual({ record: { prompt_template: "alpaca" }, files: {} });
    expect(record(["alpaca", "chat"]).record).toEqual({ prompt_template: "auto" });
    expect(record([]).record).toEqual({ prompt_template: "none" });
    expect(record(["llama3"], "llama3").record).toEqual({ prompt_template: "llama3" });
    const path = join(folderOf({ "my.jinja": "{{ bos_token }}" }), "my.jinja");
    expect(record([path], path)).toEqual({
      record: { prompt_template: "prompt_template.jinja" },
      files: { "prompt_template.jinja": readFileSync(path, "utf8") },
    });
  });

  test("said in one line, with the other that there is", () => {
    expect(templateLine(byRows, ["alpaca"], byteFolder())).toBe(
      "template: alpaca (by row format); this tokenizer has a chat template, too: --prompt-template chat",
    );
    expect(templateLine(byRows, ["none"], byteFolder())).toContain(
      "none (by row format); this tokenizer has",
    );
    expect(templateLine(byRows, ["chat"], byteFolder())).toBe("template: chat (by row format)");
    expect(templateLine(byRows, ["alpaca"], llamaFolder())).toBe("template: alpaca (by row format)");
    expect(templateLine(byRows, ["vicuna"], llamaFolder())).toBe(
      "template: vicuna (by row format; this tokenizer has no chat template)",
    );
    expect(templateLine(byRows, [], byteFolder())).toBe("template: none (by row format)");
    const given = chooseTemplate("mistral", [], undefined);
    expect(templateLine(given, ["mistral"], byteFolder())).toBe("template: mistral (--prompt-template)");
  });
});

test("notes on rows: how many, the first, and columns once", () => {
  const notes = [
    {
      path: "a.jsonl",
      remarks: { "no-stop": { rows: 2, first: ":3: row 3" } },
      unused: ["id"],
      templates: ["chat"],
    },
    {
      path: "b.jsonl",
      remarks: {
        "no-stop": { rows: 4, first: ":1: row 1" },
        "empty-answer": { rows: 1, first: ":7: row 7" },
      },
      unused: ["source", "id"],
      templates: ["chat", "alpaca"],
    },
  ];
  expect(rowNotes(notes)).toEqual([
    "1 row with an empty answer (b.jsonl:7: row 7)",
    expect.stringMatching(/^6 rows without a stop: .* \(first a\.jsonl:3: row 3\)$/) as unknown as string,
    "columns not used: id, source",
  ]);
  const dated = { dated: { rows: 9, first: ":2: row 2" } };
  const file = { path: "c.jsonl", remarks: dated, unused: [], templates: [] };
  const line = "9 rows with the date in the template's own text (first c.jsonl:2: row 2)";
  expect(rowNotes([{ ...file, date: "2024-07-26" }])).toEqual([
    `${line}; --template-date 2024-07-26 gives the same tokens on another day`,
  ]);
  expect(rowNotes([file])).toEqual([line]);
  expect(usedTemplates(notes)).toEqual(["chat", "alpaca"]);
  expect(rowNotes([{ path: "a", remarks: {}, unused: [], templates: [] }])).toEqual([]);
});
