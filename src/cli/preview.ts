// neftune preview: what training would see of a data set.

import { existsSync } from "node:fs";
import { join } from "node:path";
import type { EncodedSample } from "../data/encode.ts";
import { withEncoder } from "../data/encoder-thread.ts";
import { noNotes, noteRow } from "../data/encoding-notes.ts";
import { RowProblem } from "../data/formats.ts";
import { previewParts } from "../data/preview.ts";
import { countTargets, type Sample } from "../data/sample.ts";
import { RowError } from "../data/source.ts";
import { today } from "../data/template-date.ts";
import { promptTemplate } from "../data/templates.ts";
import { Tokenizer } from "../data/tokenizer.ts";
import { InterruptedError, NeftuneError } from "../errors.ts";
import { readConfig } from "../model/index.ts";
import { encodingOptions, modelOption } from "../options/data.ts";
import { defineCommand } from "./command.ts";
import { withBase } from "./inputs/adapter-base.ts";
import {
  adapterOption,
  columnNames,
  dataRows,
  datasetFiles,
  requireModel,
  wantedSplits,
} from "./inputs/model-data.ts";
import { chooseDate, chooseTemplate, templateLine } from "./inputs/prompt-template.ts";
import { rowNotes } from "./inputs/row-notes.ts";
import { countOf } from "./terminal/format.ts";
import { escapeJson, escapeText } from "./terminal/text.ts";

const OPEN = "⟦";
const CLOSE = "⟧";

/** The text of the tokens, or the ids where there is no tokenizer, with the parts that are targets in ⟦ ⟧. */
export function markTargets(tokenizer: Tokenizer | null, sample: Sample): string {
  return previewParts(tokenizer, sample)
    .map(({ text, trained }) => (trained ? `${OPEN}${text}${CLOSE}` : text))
    .join("");
}

export const preview = defineCommand({
  description: `Shows the text of each row with the trained part in ${OPEN} ${CLOSE}. --json prints an array of text (what was tokenized), input_ids, labels (-100 marks tokens that are not targets) and truncated. Loads no weights.`,
  options: {
    model: {
      ...modelOption,
      help: "model whose tokenizer and chat template to use, as for train; required",
    },
    adapter: {
      ...adapterOption,
      help: "use the prompt template of the run that trained this adapter",
    },
    dataset: { type: "string", default: "alpaca", value: "NAME|FILE|ID", help: "data to show" },
    limit: { type: "int", default: 3, min: 0, help: "number of samples to show; 0 shows all" },
    ...encodingOptions,
  },
  examples: [
    ["neftune preview --model llama2-7b --dataset mine.json", "the first three samples"],
    ["neftune preview --model ./tiny --dataset chat.jsonl --json --limit 0", "ids and labels of all"],
  ],
  interruptible: true,
  async run(given, context) {
    const values = withBase(given, context);
    const { path: dir, preset } = await requireModel(values.model, "preview", context, "text");
    const { path, files } = await datasetFiles(values.dataset, context, wantedSplits(values));
    const columns = columnNames(values);
    // Rows of ids do without.
    const tokenizer = existsSync(join(dir, "tokenizer.json")) ? Tokenizer.load(dir) : null;
    const template = chooseTemplate(values["prompt-template"], [values.adapter, dir], preset);
    const fixedDate = chooseDate(values["template-date"], [values.adapter, dir]);
    const options = {
      template: promptTemplate(template.option),
      maxLength: values["max-length"],
      parseSpecial: values["parse-special"],
      lossOn: values["loss-on"],
      date: fixedDate ?? today(),
      vocabSize: existsSync(join(dir, "config.json")) ? readConfig(dir).vocabSize : null,
      ...(columns === undefined ? {} : { columns }),
    };
    const wanted = values.limit === 0 ? Number.POSITIVE_INFINITY : values.limit;
    const samples: (EncodedSample & { row: number })[] = [];
    const notes = noNotes<string>();
    let [rows, isAll] = [0, true];
    await withEncoder(dir, options, context.signal, async (encoder) => {
      for await (const { row, problem, where } of dataRows(files, values, context.signal)) {
        if (samples.length >= wanted) {
          isAll = false;
          break;
        }
        rows++;
        if (context.signal.aborted) throw new InterruptedError("preview was stopped");
        try {
          if (problem !== null) throw new RowProblem(problem);
          const sample = await encoder.encode(row);
          samples.push({ ...sample, row: rows });
          noteRow(notes, where, sample.notes);
        } catch (error) {
          if (!(error instanceof RowProblem)) throw error;
          const located = new RowError(where, error.message, { cause: error });
          if (!values["skip-bad-rows"]) throw located;
          context.note(`left out: ${located.message}`);
        }
      }
    });
    if (rows === 0) throw new NeftuneError("dataset", `dataset ${path} has no rows`);
    if (samples.length > 0 && samples.every(({ labels }) => countTargets(labels) === 0)) {
      context.note(
        `warning: no sample shown has a target within ${values["max-length"]} tokens: training on these alone would be refused`,
      );
    }
    context.note(templateLine(template, notes.templates, dir));
    const date = fixedDate === undefined ? options.date : undefined;
    for (const line of rowNotes([{ path: "", date, ...notes }])) context.note(line);
    if (values.json) {
      const rows = samples.map(({ text, ids, labels, truncated }) => {
        return { text, input_ids: [...ids], labels: [...labels], truncated };
      });
      context.print(`[${rows.map((row) => `\n  ${escapeJson(JSON.stringify(row))}`).join(",")}\n]`);
      return;
    }
    for (const sample of samples) {
      const cut = sample.truncated ? `, cut to ${values["max-length"]}` : "";
      context.print(
        `--- row ${sample.row}: ${sample.ids.length} tokens, ${countTargets(sample.labels)} targets${cut}\n${escapeText(markTargets(tokenizer, sample))}\n`,
      );
    }
    if (!isAll) context.note(`${countOf(samples.length, "sample")} shown; --limit 0 shows all`);
  },
});
