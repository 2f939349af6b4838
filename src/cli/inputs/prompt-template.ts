// Which template turns rows into text, and why: an option, else the run's, else the model preset's, else
// the rows' formats.

import { NO_TEMPLATE } from "../../data/encode.ts";
import type { TemplateDate } from "../../data/template-date.ts";
import { readSettings } from "../../data/tokenizer-settings.ts";
import type { ModelPreset } from "../../presets/presets.ts";
import { templateDateOf, templateOfRun } from "../../train/index.ts";

export interface ChosenTemplate {
  /** As --prompt-template takes it; undefined: by row format. */
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
    if (trained !== undefined) return { option: trained.option, why: `as ${trained.run} was trained` };
  }
  if (preset?.prompt_template !== undefined) {
    return { option: preset.prompt_template, why: `preset ${preset.name}` };
  }
  return { option: undefined, why: "by row format" };
}

/** The day that templates are told: an option, else that of the first folder that is a run; undefined: none is fixed. */
export function chooseDate(
  option: TemplateDate | undefined,
  folders: readonly (string | undefined)[],
): TemplateDate | undefined {
  return option ?? templateDateOf(folders);
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
