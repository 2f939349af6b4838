// A Modelfile, which tells Ollama how to use a GGUF: what to load, the conversation's form, what ends an answer.

import { existsSync, mkdirSync } from "node:fs";
import { isAbsolute, join, relative, resolve } from "node:path";
import { alpacaPrompt } from "../../data/alpaca.ts";
import { ChatTemplate } from "../../data/chat-template.ts";
import { namedTemplates, type TemplateName } from "../../data/named-templates.ts";
import { promptTemplate } from "../../data/templates.ts";
import type { Tokenizer } from "../../data/tokenizer.ts";
import { UsageError } from "../../errors.ts";
import { ioError, writeTextAtomically } from "../../formats/io.ts";
import type { Context } from "../command.ts";

const MODELFILE = "Modelfile";

type KnownTemplate = TemplateName | "alpaca";

const MARK = "{{ .Prompt }}";

/** Conversations in Go's templates, as Ollama renders them; the tokenizer's BOS is llama.cpp's to add. */
const goTemplates: Readonly<Record<KnownTemplate, string>> = {
  alpaca: `${alpacaPrompt(MARK, "")}{{ .Response }}`,
  vicuna: "{{ if .System }}{{ .System }} {{ end }}USER: {{ .Prompt }} ASSISTANT:{{ .Response }}</s>",
  llama2:
    "[INST] {{ if .System }}<<SYS>>\n{{ .System }}\n<</SYS>>\n\n{{ end }}{{ .Prompt }} [/INST]{{ .Response }}</s>",
  mistral: "[INST] {{ if .System }}{{ .System }}\n\n{{ end }}{{ .Prompt }} [/INST]{{ .Response }}</s>",
  llama3:
    "{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}<|start_header_id|>assistant<|end_header_id|>\n\n",
  chatml:
    "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
};

/** Texts that end an answer beside the tokenizer's EOS. */
const stops: Readonly<Partial<Record<KnownTemplate, string>>> = {
  alpaca: "### Instruction:",
  vicuna: "USER:",
  llama3: "<|eot_id|>",
  chatml: "<|im_end|>",
};

interface OllamaForm {
  name: KnownTemplate;
  /** What the template tells a model that is told nothing. */
  system: string | null;
}

/** What --prompt-template's value is to Ollama; `option` undefined: the tokenizer's own. Null: nothing that is known. */
function ollamaForm(option: string | undefined, tokenizer: Tokenizer): OllamaForm | null {
  const template = promptTemplate(option);
  if (template.kind === "alpaca") return { name: "alpaca", system: null };
  const names = Object.keys(namedTemplates) as TemplateName[];
  const named = names.find((name) => name === template.kind);
  const own = template.kind === "file" ? template.source : tokenizer.chatTemplate;
  const source = named === undefined ? own : namedTemplates[named];
  if (source === null) return null;
  const text = rendered(source, tokenizer);
  const name =
    named ?? names.find((one) => text !== null && text === rendered(namedTemplates[one], tokenizer));
  return name === undefined ? null : { name, system: defaultSystem(source, tokenizer) };
}

const CONVERSATION = (["system", "user", "assistant", "user"] as const).map((role, i) => ({
  role,
  content: `text ${i}`,
}));

/** What a template puts in a system message's place where there is none; null: nothing. */
function defaultSystem(source: string, tokenizer: Tokenizer): string | null {
  const [told, untold] = [0, 1].map((first) => rendered(source, tokenizer, CONVERSATION.slice(first, 2)));
  const [before, after] = told?.split(CONVERSATION[0]!.content) ?? [];
  if (untold == null || before === undefined || after === undefined) return null;
  if (!untold.startsWith(before) || !untold.endsWith(after)) return null;
  return untold.slice(before.length, untold.length - after.length) || null;
}

/** A conversation by a template; null where it refuses it or takes too long. */
function rendered(source: string, { bosToken, eosToken }: Tokenizer, messages = CONVERSATION): string | null {
  try {
    const template = new ChatTemplate(source, "template", { bosToken, eosToken, date: "2026-01-01" });
    template.beginRow();
    return template.render(messages, null, true).replace(bosToken, "");
  } catch {
    return null;
  }
}

/** Throws UsageError where DIR has a Modelfile, which someone may have edited. */
export function expectNoModelfile(dir: string): void {
  if (existsSync(join(dir, MODELFILE)))
    throw new UsageError(`--ollama ${dir} has a ${MODELFILE} already; choose another folder`);
}

/** Makes DIR where it is missing, as the GGUF may go there, too. Throws NeftuneError ("io"). */
export function makeOllamaFolder(dir: string): void {
  try {
    mkdirSync(dir, { recursive: true });
  } catch (error) {
    throw ioError(dir, "created", error);
  }
}

export interface OllamaModel {
  /** The folder to write into. */
  dir: string;
  /** The GGUF of the model, or the folder of the base of an adapter. */
  from: string;
  /** The GGUF of the adapter; null: none, or merged. */
  adapter: string | null;
  tokenizer: Tokenizer;
  /** As --prompt-template takes it; undefined: the tokenizer's chat template. */
  template: string | undefined;
}

/** Writes DIR/Modelfile and returns its path. Throws NeftuneError ("io"). */
export function writeModelfile(model: OllamaModel, context: Pick<Context, "note">): string {
  const { dir, tokenizer, template } = model;
  const form = ollamaForm(template, tokenizer);
  const lines = [`FROM ${pathFrom(dir, model.from)}`];
  if (model.adapter !== null) lines.push(`ADAPTER ${pathFrom(dir, model.adapter)}`);
  if (form === null)
    context.note("note: neftune has no Ollama form of this model's template; the Modelfile has no TEMPLATE");
  else lines.push(`TEMPLATE """${goTemplates[form.name]}"""`);
  if (form?.system != null) lines.push(`SYSTEM """${form.system}"""`);
  const ends = tokenizer.eosIds.map((id) => tokenizer.decode([id]));
  const stop = form === null ? undefined : stops[form.name];
  for (const end of new Set([...ends, ...(stop === undefined ? [] : [stop])].filter((text) => text !== "")))
    lines.push(`PARAMETER stop ${JSON.stringify(end)}`);
  const path = join(dir, MODELFILE);
  writeTextAtomically(path, `${lines.join("\n")}\n`);
  return path;
}

/** Ollama takes a path from the Modelfile's folder where it begins with a dot. */
function pathFrom(dir: string, path: string): string {
  const short = relative(resolve(dir), resolve(path));
  if (isAbsolute(path) && short.startsWith("..")) return path;
  return short.startsWith(".") ? short : `./${short}`;
}
