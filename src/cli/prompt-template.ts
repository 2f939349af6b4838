// Which template turns rows into text, and why: an option, else the run's, else the model preset's, else
// the rows' formats.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { NO_TEMPLATE } from "../data/encode.ts";
import { isTemplateDate, type TemplateDate } from "../data/template-date.ts";
import type { PromptTemplate } from "../data/templates.ts";
import { readSettings } from "../data/tokenizer-settings.ts";
import { readJsonObject } from "../formats/json-file.ts";
import type { ModelPreset } from "../presets/presets.ts";

/** What a run's folder calls the template that it was trained with, and the file that keeps a Jinja template's text. */
const RECORD_KEY = "prompt_template";
/** The day that templates were told: a run that goes on, or is used, another day sees the same tokens. */
export const TEMPLATE_DATE = "template_date";
const TEMPLATE_FILE = "prompt_template.jinja";
/** What the record says where rows of several formats had templates of their own. */
const SEVERAL = "auto";

export interface ChosenTemplate {
  /** As --prompt-template takes it; undefined is by the rows. */
  option: string | undefined;
  /** Where the choice comes from, for the line that says it. */
  why: string;
}

/** Of an option, the folders that may be runs (an adapter's, a model's) and a preset, the first that says a template. */
export function chooseTemplate(
  option: string | undefined,
  folders: readonly (string | undefined)[],
  preset: ModelPreset | undefined,
): ChosenTemplate {
  if (option !== undefined) return { option, why: "--prompt-template" };
  for (const folder of folders) {
    const trained = folder === undefined ? undefined : templateOfRun(folder);
    if (trained !== undefined) return trained;
  }
  if (preset?.prompt_template !== undefined) {
    return { option: preset.prompt_template, why: `preset ${preset.name}` };
  }
  return { option: undefined, why: "by the rows" };
}

/** What the run in a folder, or the one whose checkpoint it is, was trained with; undefined if it was not a single template. */
function templateOfRun(folder: string): ChosenTemplate | undefined {
  for (const { run, record } of runRecords(folder)) {
    const template = record.get(RECORD_KEY);
    if (typeof template !== "string") continue;
    if (template === SEVERAL || template === NO_TEMPLATE) return undefined;
    const option = template === TEMPLATE_FILE ? join(run, template) : template;
    return { option, why: `as ${run} was trained` };
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

/** For a run's record, from what was chosen and the templates that rows were rendered with. */
export function templateRecord(
  { option }: ChosenTemplate,
  template: PromptTemplate,
  used: readonly string[],
): { record: Record<string, string>; files: Record<string, string> } {
  if (template.kind === "file") {
    return { record: { [RECORD_KEY]: TEMPLATE_FILE }, files: { [TEMPLATE_FILE]: template.source } };
  }
  const byRows = used.length > 1 ? SEVERAL : (used[0] ?? NO_TEMPLATE);
  return { record: { [RECORD_KEY]: option ?? byRows }, files: {} };
}

/** One line: which template, why, and that there is another. `used` are those that rows were rendered with. */
export function templateLine(
  { option, why }: ChosenTemplate,
  used: readonly string[],
  tokenizerDir: string,
): string {
  if (option !== undefined) return `template: ${option} (${why})`;
  const names = used.length === 0 ? NO_TEMPLATE : used.join(" and ");
  const hasChat = readSettings(tokenizerDir).chatTemplate !== null;
  if (used.includes("vicuna")) return `template: ${names} (${why}; this tokenizer has no chat template)`;
  const isOther = hasChat && used.length > 0 && !used.includes("chat");
  const hint = isOther ? "; this tokenizer has a chat template, too: --prompt-template chat" : "";
  return `template: ${names} (${why})${hint}`;
}
