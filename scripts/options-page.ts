// Writes docs/options.md from the declarations of the options: bun scripts/options-page.ts

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { trainOptions } from "../src/cli/arguments/train-options.ts";
import { expected, type OptionSpec, type TrainingFacts } from "../src/options/spec.ts";

type Documented = OptionSpec & TrainingFacts;

/** What a resumed run has in common with its checkpoints. */
const onResume: Record<NonNullable<TrainingFacts["identity"]>, string> = {
  value: "must stay",
  "unless default": "must stay",
  derived: "must amount to the same",
  rounding: "may change the last bits",
};

const head = `# Options of \`neftune train\`

Each option has the same name on the command line (\`--epochs 2\`), in a config file (\`epochs = 2\`) and in a run's
config.json; the library writes it in camelCase (\`maxSteps\`). Flags win over the config file, the file over
\`--recipe\`, the recipe over presets of the model and data, and those over the defaults.

*On resume* says what \`--resume\` asks of an option: that it stays, that it amounts to the same (\`--batch-size 4\`
with \`--gradient-accumulation-steps 2\` is as good as 8 and 1), or nothing. *Also* lists names from other trainers.

This page is made by \`bun scripts/options-page.ts\` from \`src/options/\`.
`;

const cell = (text: string) => text.replaceAll("|", "\\|").replaceAll("<", "&lt;");
const code = (text: string) => `\`${text}\``;

function defaultOf({ default: value }: OptionSpec): string {
  if (value === undefined) return "";
  if (typeof value === "boolean") return value ? "on" : "off";
  return Array.isArray(value) ? value.join(", ") : String(value);
}

function takes(spec: Documented): string {
  if (spec.type === "bool") return "on, off";
  if (spec.type === "enum") return spec.values.join(", ");
  if (spec.type === "list" && spec.values !== undefined) return `of ${spec.values.join(", ")}`;
  return spec.value ?? expected(spec);
}

function row([name, spec]: readonly [string, Documented]): string {
  const { option = "", value = null } = spec.onlyWith ?? {};
  const modes = typeof value === "string" ? [value] : (value ?? []);
  // Where nearly every mode is fitting, the help names the one that is not.
  const isTold = spec.onlyWith !== undefined && modes.length <= 2;
  const only = isTold ? `; only with --${option}${modes.length > 0 ? ` ${modes.join(" or ")}` : ""}` : "";
  const cells = [
    code(`--${name}`),
    cell(takes(spec)),
    cell(defaultOf(spec)),
    cell(`${spec.help}${only}`),
    spec.identity === undefined ? "" : onResume[spec.identity],
    (spec.aliases ?? []).map(code).join(", "),
  ];
  return `| ${cells.join(" | ")} |`;
}

/** The whole page. */
export function optionsPage(): string {
  const groups = Map.groupBy(Object.entries<Documented>(trainOptions), ([, { group }]) => group ?? "Model");
  const sections = [...groups].map(([group, entries]) =>
    [
      `## ${group}\n`,
      "| option | takes | default | what it does | on resume | also |",
      "| --- | --- | --- | --- | --- | --- |",
      ...entries.map(row),
    ].join("\n"),
  );
  return `${[head.trimEnd(), ...sections].join("\n\n")}\n`;
}

if (import.meta.main) writeFileSync(join(import.meta.dir, "../docs/options.md"), optionsPage());
