// What --prompt-template says: how rows become text.

import { readFileSync } from "node:fs";
import { UsageError } from "../errors.ts";
import { JinjaTemplate } from "./jinja.ts";
import { namedTemplates, type TemplateName } from "./named-templates.ts";

/** What decides how rows become text: by each row's format (`auto`), or one template for all. Plain data, for workers. */
export type PromptTemplate =
  | { kind: "auto" }
  | { kind: "alpaca" }
  /** The tokenizer's own. */
  | { kind: "chat" }
  | { kind: TemplateName }
  | { kind: "file"; path: string; source: string };

/** What `--prompt-template` takes beside the path of a Jinja file. */
const templateNames: readonly string[] = ["alpaca", "chat", ...Object.keys(namedTemplates)];

/** Why a Jinja file cannot be read, in words. */
function whyUnreadable(error: unknown): string {
  if (error instanceof TypeError) return "it is not UTF-8";
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === "ENOENT") return "no such file";
  return code === "EISDIR" ? "it is a folder" : message;
}

/** From `--prompt-template`: a name or the path of a Jinja file; absent, by the rows' format. */
export function promptTemplate(option: string | undefined): PromptTemplate {
  if (option === undefined || option === "auto") return { kind: "auto" };
  if (templateNames.includes(option)) return { kind: option as "alpaca" | "chat" | TemplateName };
  let source: string;
  try {
    source = new TextDecoder("utf-8", { fatal: true }).decode(readFileSync(option));
  } catch (error) {
    throw new UsageError(
      `prompt template ${option}: expected ${templateNames.join(", ")} or a Jinja file (${whyUnreadable(error)})`,
      { cause: error },
    );
  }
  new JinjaTemplate(source, `prompt template ${option}`);
  return { kind: "file", path: option, source };
}
