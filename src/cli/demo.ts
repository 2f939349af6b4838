// neftune demo: the whole story with a model and data of its own.

import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { InterruptedError, UsageError } from "../errors.ts";
import { expectNoDanglingLink, ioError, writeTextAtomically } from "../formats/io.ts";
import { shellWord } from "../shell.ts";
import { openDevice } from "./arguments/device.ts";
import { defineCommand } from "./command.ts";
import { demoReport, demoVerdict } from "./demo/report.ts";
import {
  baseTraining,
  fineTuning,
  lora,
  makeInputs,
  sweepAlphas,
  trainBase,
  type Workplace,
} from "./demo/steps.ts";
import { summaryOf, sweepTable } from "./sweep/results.ts";
import { fitTable, formatCount, formatSeconds, toJson } from "./terminal/format.ts";
import { wrap } from "./terminal/text.ts";

/** Says that a folder is a demo's, so that a later demo may replace it. */
const MARKER = ".neftune-demo";
const MARK = "made by neftune demo, which may replace what is here\n";

/** Makes the folder, without what an earlier demo left. Throws UsageError where it holds anything else. */
function prepareFolder(dir: string): void {
  expectNoDanglingLink(dir);
  if (existsSync(dir)) {
    const names = readdirSync(dir);
    if (names.length > 0 && !holdsMarker(dir)) {
      throw new UsageError(
        `--output ${dir} is not empty and does not hold an earlier demo; give another folder`,
      );
    }
    for (const name of names.filter((name) => /^(data|start|base|alpha-.*|report\.html)$/.test(name))) {
      rmSync(join(dir, name), { recursive: true, force: true });
    }
  }
  try {
    mkdirSync(dir, { recursive: true });
    writeTextAtomically(join(dir, MARKER), MARK);
  } catch (error) {
    throw ioError(dir, "used as --output", error);
  }
}

function holdsMarker(dir: string): boolean {
  const path = join(dir, MARKER);
  return lstatSync(path, { throwIfNoEntry: false })?.isFile() === true && readFileSync(path, "utf8") === MARK;
}

export const demo = defineCommand({
  description:
    "Makes a tokenizer, instruction data and a small Llama, trains it on plain text, fine-tunes it with LoRA at alpha 0 and 5 with two seeds each, measures all on held-out instructions, prints a table and writes report.html. Needs no network and no other files.",
  options: {
    output: {
      type: "path",
      default: "neftune-demo",
      value: "DIR",
      help: "folder for all files of the demo; an earlier demo in it is replaced, and any other contents are refused",
    },
    seed: { type: "int", default: 42, min: 0, help: "seed for data, weights, sample order and noise" },
  },
  examples: [
    ["neftune demo", "then open neftune-demo/report.html"],
    ["neftune demo --output /tmp/demo --seed 7", "another folder, other data"],
  ],
  interruptible: true,
  async run(values, context) {
    const began = performance.now();
    const dir = values.output;
    prepareFolder(dir);
    openDevice(values, context).close();
    const silent = { ...context, note: () => {} };
    const place: Workplace = {
      dir,
      seed: values.seed,
      openDevice: () => openDevice(values, silent),
      context,
    };
    const { data, parameters } = makeInputs(place);
    const [texts, train, heldOut] = [data.base, data.train, data.heldOut].map((rows) =>
      formatCount(rows.length),
    );
    context.note(`data: ${texts} texts, ${train} instructions to learn from, ${heldOut} held out`);
    context.note(`model: ${formatCount(parameters)} parameters; training all of them on the texts`);
    const work = trainBase(place).then(() => sweepAlphas(place, data));
    const { base, results } = await work.catch((error: unknown) => {
      // The trainer would advise --resume, which a demo has not.
      if (error instanceof InterruptedError)
        throw new InterruptedError("the demo was stopped; run it again from the start");
      throw error;
    });
    const seconds = (performance.now() - began) / 1000;
    const settings: [string, string][] = [
      ["parameters", formatCount(parameters)],
      [
        "base training",
        `${baseTraining.epochs} epochs, batch ${baseTraining.batchSize}, rate ${baseTraining.learningRate}`,
      ],
      [
        "fine-tuning",
        `${fineTuning.epochs} epochs, batch ${fineTuning.batchSize}, rate ${fineTuning.learningRate}`,
      ],
      ["LoRA", `r ${lora.r}, alpha ${lora.alpha}, all seven linears`],
      ["seeds", `${values.seed} and ${values.seed + 1}`],
      ["time", formatSeconds(seconds)],
      ["neftune", context.version],
    ];
    const path = join(dir, "report.html");
    writeTextAtomically(path, demoReport(base, results, settings, context.version));
    const all = [base, ...results];
    if (values.json) {
      const rows = all.map((result) => ({ name: result.name, ...summaryOf(result) }));
      context.print(
        toJson({ output: dir, report: path, seconds, verdict: demoVerdict(results), results: rows }),
      );
      return;
    }
    const { head, rows, numeric } = sweepTable(all);
    context.print(fitTable([head, ...rows.map((row) => row.map(String))], numeric ?? [], context.columns));
    const width = context.columns ?? Number.POSITIVE_INFINITY;
    context.print(`\n${wrap(demoVerdict(results), width).join("\n")}\n`);
    context.print(`report: ${path} (${formatSeconds(seconds)})`);
    context.print(
      `ask it: neftune generate --model ${shellWord(join(dir, "base"))} --adapter ${shellWord(join(dir, "alpha-5-seed-1"))} --dtype f32 --prompt-template alpaca --prompt "Where does Ada live?"`,
    );
  },
});
