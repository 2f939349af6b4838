// RUN/README.md: a model card in the Hub's form. The YAML head is what the Hub reads (huggingface.co/docs/hub/model-cards).

import { DEFAULT_REVISION, parseRepoName } from "../formats/hub-cache.ts";
import { shellWord } from "../shell.ts";
import { compare } from "./compare.ts";
import type { Run } from "./run.ts";

export interface CardFacts {
  /** What the base is called in the run's files: a Hub id or a folder. */
  base: string | null;
  /** The base's license, as the Hub names it; null: not known. */
  license: string | null;
  /** What the data sets are called. */
  datasets: readonly string[];
  isAdapter: boolean;
  version: string;
}

/** org/name, with neither a revision nor a file's ending. */
const HUB_ID = /^[\w-][\w.-]*\/[\w-][\w.-]*$/;
const DATA_FILE = /\.(jsonl?|csv|parquet|txt|toml)(\.\w+)?$/i;

const isHubId = (name: string) => HUB_ID.test(name) && !DATA_FILE.test(name) && !/^(runs|\.)\b/.test(name);
/** "org/name@revision" → ["org/name", "revision"]; folders keep their names. */
function withoutRevision(name: string): [name: string, revision: string | null] {
  const repo = name.includes("@") ? parseRepoName(name) : null;
  return repo !== null && isHubId(repo.id) ? [repo.id, repo.revision] : [name, null];
}
const yaml = (text: string) =>
  /^[\w./-]+$/.test(text) && !/^[\d.-]/.test(text) ? text : JSON.stringify(text);
const cell = (text: string) => text.replaceAll("|", "\\|").replaceAll("\n", " ");

function head({ base: given, license, datasets, isAdapter }: CardFacts, hasNoise: boolean): string {
  const base = given === null ? null : withoutRevision(given)[0];
  const sets = [...new Set(datasets.map((name) => withoutRevision(name)[0]))];
  const list = (name: string, items: readonly string[]) =>
    items.length === 0 ? [] : [`${name}:`, ...items.map((item) => `- ${yaml(item)}`)];
  return [
    "---",
    ...(base !== null && isHubId(base) ? [`base_model: ${yaml(base)}`] : []),
    `library_name: ${isAdapter ? "peft" : "transformers"}`,
    "pipeline_tag: text-generation",
    ...(license === null ? [] : [`license: ${yaml(license)}`]),
    ...list("datasets", sets.filter(isHubId)),
    ...list("tags", [...(hasNoise ? ["neftune"] : []), ...(isAdapter ? ["lora"] : []), "text-generation"]),
    "---",
  ].join("\n");
}

function usage({ base, isAdapter }: CardFacts, name: string): string {
  const model = base ?? "BASE_MODEL";
  const [id, revision] = withoutRevision(model);
  const loaded = [id, name].map((text) => JSON.stringify(text));
  const [from, own] = [
    revision === null ? loaded[0] : `${loaded[0]}, revision=${JSON.stringify(revision)}`,
    loaded[1],
  ];
  const python = isAdapter
    ? [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        `base = AutoModelForCausalLM.from_pretrained(${from})`,
        `tokenizer = AutoTokenizer.from_pretrained(${from})`,
        `model = PeftModel.from_pretrained(base, ${own})`,
      ]
    : [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        `model = AutoModelForCausalLM.from_pretrained(${own})`,
        `tokenizer = AutoTokenizer.from_pretrained(${own})`,
      ];
  const run = shellWord(name);
  const asked = isAdapter ? `--model ${shellWord(model)} --adapter ${run}` : `--model ${run}`;
  return [
    `With ${isAdapter ? "PEFT" : "Transformers"}:`,
    ...["", "```python", ...python, "```", "", "With neftune:", "", "```sh"],
    `neftune generate ${asked} --prompt "…"`,
    "```",
    ...["", "For llama.cpp and Ollama:", "", "```sh"],
    `neftune export ${asked} --output ${shellWord(`${name}.gguf`)}`,
    "```",
  ].join("\n");
}

/** The card of a finished run. `figures`: what compare gives for it. */
export function modelCard(run: Run, facts: CardFacts, [figures] = compare([run])): string {
  const hasNoise =
    !["0", undefined].includes(run.options.get("alpha")) && run.options.get("neft-noise") !== "none";
  const what = facts.isAdapter ? "A LoRA adapter" : "A fine-tuned model";
  const noise = hasNoise
    ? `, trained with NEFTune's noisy embeddings (alpha ${run.options.get("alpha")}, [arXiv 2310.05914](https://arxiv.org/abs/2310.05914))`
    : "";
  const loss = (value: number | null) => value?.toFixed(4) ?? null;
  const { best_eval_loss, best_eval_step, eval_loss_interval: interval } = figures!;
  const isBest =
    run.options.get("load-best-model-at-end") === "on" && best_eval_step !== run.metrics.evalLoss.x.at(-1);
  const results: (readonly [string, string | null])[] = [
    ["steps", String(figures!.steps)],
    ["training loss, mean of the last steps", loss(figures!.train_loss)],
    ...(isBest
      ? ([
          [`evaluation loss, after step ${best_eval_step}, whose model this is`, loss(best_eval_loss)],
        ] as const)
      : ([
          ["evaluation loss", loss(figures!.eval_loss)],
          [
            "its 95 % interval over samples",
            interval === null ? null : `${loss(interval.low)} to ${loss(interval.high)}`,
          ],
          ["best evaluation loss", loss(best_eval_loss)],
        ] as const)),
  ];
  const chosen = [...run.options].filter(([name]) => run.chosen.size === 0 || run.chosen.has(name));
  const table = (rows: readonly (readonly [string, string])[]) =>
    rows.map(([name, value]) => `| ${cell(name)} | ${cell(value)} |`).join("\n");
  return [
    head(facts, hasNoise),
    "",
    `# ${run.name}`,
    "",
    `${what}${facts.base === null ? "" : ` for ${facts.base}`}${noise}.`,
    ...["", "## Results", "", "| | |", "| --- | --- |"],
    table(results.flatMap(([name, value]) => (value === null ? [] : [[name, value] as const]))),
    ...["", "## How to use it", "", usage(facts, run.name)],
    ...["", "## Options", "", "| option | value |", "| --- | --- |"],
    table(chosen),
    "",
    `Trained with neftune ${facts.version}; config.json has every option, metrics.jsonl every step.`,
    "",
  ].join("\n");
}

/**
 * A card as it goes to the Hub: the lines that use the run name its repository and branch instead of its folder. An adapter
 * is downloaded before neftune uses it, as --adapter takes a folder.
 */
export function cardOfRepository(card: string, id: string, branch: string): string {
  const [, name] = /^# (.+)$/m.exec(card) ?? [];
  if (name === undefined) return card;
  const isDefault = branch === DEFAULT_REVISION;
  const inPython = `${JSON.stringify(id)}${isDefault ? "" : `, revision=${JSON.stringify(branch)}`}`;
  const revision = isDefault ? "" : ` --revision ${shellWord(branch)}`;
  const download = `hf download ${shellWord(id)}${revision} --local-dir ${shellWord(name)}`;
  const model = shellWord(isDefault ? id : `${id}@${branch}`);
  const used = (section: string) => {
    // An adapter's base may be called as its run is.
    const isAdapter = section.includes(" --adapter ");
    const load = isAdapter ? "PeftModel.from_pretrained(base, " : ".from_pretrained(";
    const loaded = section.replaceAll(`${load}${JSON.stringify(name)}`, `${load}${inPython}`);
    if (loaded === section) return section;
    return isAdapter
      ? loaded.replace(/^neftune .* --adapter /gm, (command) => `${download}\n${command}`)
      : loaded.replaceAll(` --model ${shellWord(name)} `, ` --model ${model} `);
  };
  const sections = card.split(/^(?=## )/m);
  return sections.map((text) => (text.startsWith("## How to use it\n") ? used(text) : text)).join("");
}
