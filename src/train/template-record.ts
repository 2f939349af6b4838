// What a run's folder says of the template that turned its rows into text, for those who use or continue the run.

import { existsSync } from "node:fs";
import { join } from "node:path";
import type { FileNotes } from "../data/dataset.ts";
import { NO_TEMPLATE } from "../data/encode.ts";
import { isTemplateDate, type TemplateDate } from "../data/template-date.ts";
import type { PromptTemplate } from "../data/templates.ts";
import { readJsonObject } from "../formats/json-file.ts";

/** What a run's folder calls the template that it was trained with, and the file that keeps a Jinja template's text. */
const RECORD_KEY = "prompt_template";
/** The day that templates were told: a run that goes on, or is used, another day sees the same tokens. */
export const TEMPLATE_DATE = "template-date";
const TEMPLATE_FILE = "prompt_template.jinja";
/** What the record says where rows of several formats had templates of their own. */
const SEVERAL = "auto";

/** The templates that rows were rendered with. */
export function usedTemplates(notes: readonly FileNotes[]): string[] {
  return [...new Set(notes.flatMap(({ templates }) => templates))];
}

/** For a run's record, from --prompt-template, what it names, and the templates that rows were rendered with. */
export function templateRecord(
  option: string | undefined,
  template: PromptTemplate,
  used: readonly string[],
): { record: Record<string, string>; files: Record<string, string> } {
  if (template.kind === "file") {
    return { record: { [RECORD_KEY]: TEMPLATE_FILE }, files: { [TEMPLATE_FILE]: template.source } };
  }
  const byRows = used.length > 1 ? SEVERAL : (used[0] ?? NO_TEMPLATE);
  return { record: { [RECORD_KEY]: option ?? byRows }, files: {} };
}

/**
 * What the run in a folder, or the one whose checkpoint it is, was trained with, as --prompt-template takes it;
 * undefined if it was not a single template.
 */
export function templateOfRun(folder: string): { run: string; option: string } | undefined {
  for (const { run, record } of runRecords(folder)) {
    const template = record.get(RECORD_KEY);
    if (typeof template !== "string") continue;
    if (template === SEVERAL || template === NO_TEMPLATE) return undefined;
    return { run, option: template === TEMPLATE_FILE ? join(run, template) : template };
  }
  return undefined;
}

/** Of folders that may be runs, the first one's day that templates were told; undefined, today, where none says it. */
export function templateDateOf(folders: readonly (string | undefined)[]): TemplateDate | undefined {
  for (const folder of folders) {
    for (const { record } of folder === undefined ? [] : runRecords(folder)) {
      const date = record.get(TEMPLATE_DATE);
      if (isTemplateDate(date)) return date;
    }
  }
  return undefined;
}

/** What runs say of themselves, in a folder and in the one that it is a checkpoint of. */
function* runRecords(folder: string): Generator<{ run: string; record: ReadonlyMap<string, unknown> }> {
  for (const run of [folder, join(folder, "..", "..")]) {
    for (const name of ["run.json", "config.json"]) {
      const path = join(run, name);
      if (!existsSync(path)) continue;
      const record = readJsonObject(path);
      if (record.has("neftune_version")) yield { run, record };
    }
  }
}
