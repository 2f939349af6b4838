// neftune generate: completions of one prompt, or of a data set's prompts into a file.

import { existsSync } from "node:fs";
import { extname, join } from "node:path";
import type { ColumnNames } from "../data/columns.ts";
import { type EncoderThread, withEncoder } from "../data/encoder-thread.ts";
import { RowProblem } from "../data/formats.ts";
import { RowError } from "../data/source.ts";
import { today } from "../data/template-date.ts";
import { promptTemplate } from "../data/templates.ts";
import { TextStream } from "../data/text-stream.ts";
import { Tokenizer } from "../data/tokenizer.ts";
import { InterruptedError, NeftuneError, UsageError } from "../errors.ts";
import { writeTextAtomically } from "../formats/io.ts";
import { generateInSteps, type Llama, loadForInference, readConfig } from "../model/index.ts";
import { modelOption, readingOptions, templateDateOption, templateHelp } from "../options/data.ts";
import { quantizationOptions } from "../options/tuning.ts";
import { oneByMachine } from "../ranks/team.ts";
import { agreedWish, INTERRUPTED, stopError, wishOf } from "../ranks/wish.ts";
import { finishUnlessAborted } from "../steps.ts";
import { openDevice } from "./arguments/device.ts";
import { expectEffects } from "./arguments/effects.ts";
import { loadNotes, quantizationOf } from "./arguments/quantization.ts";
import { samplingOf, samplingOptions } from "./arguments/sampling-options.ts";
import { type Context, defineCommand } from "./command.ts";
import {
  type Asked,
  alpacaEvalRows,
  type Completion,
  completionNotes,
  completionOf,
  rowsText,
} from "./completions.ts";
import { withBase } from "./inputs/adapter-base.ts";
import { completeModel, findModel } from "./inputs/checked-model.ts";
import { expectDataWords } from "./inputs/locate.ts";
import {
  adapterOption,
  columnNames,
  dataRows,
  datasetFiles,
  dtypeOption,
  expectModel,
  type ReadingValues,
  wantedSplits,
} from "./inputs/model-data.ts";
import { chooseDate, chooseTemplate, templateLine } from "./inputs/prompt-template.ts";
import { datedNote } from "./inputs/row-notes.ts";
import { expectNewFile } from "./outputs/new-file.ts";
import { countOf, formatCount, formatSeconds, toJson } from "./terminal/format.ts";
import { escapeText, folded } from "./terminal/text.ts";
import { WordWrap } from "./terminal/word-wrap.ts";

/** Tokens of prompts that are read at once. */
const PREFILL_TOKENS = 2048;

async function askedOf(row: unknown, encoder: EncoderThread, where: string): Promise<Asked> {
  try {
    return { ...(await encoder.encodePrompt(row)), row };
  } catch (error) {
    if (!(error instanceof RowProblem)) throw error;
    throw new RowError(where, error.message, { cause: error });
  }
}

async function readPrompts(
  files: readonly string[],
  values: ReadingValues,
  encoder: EncoderThread,
  signal: AbortSignal,
): Promise<Asked[]> {
  const asked: Asked[] = [];
  for await (const { row, problem, where } of dataRows(files, values, signal)) {
    if (signal.aborted) throw new InterruptedError("generate was stopped before anything was done");
    if (problem !== null) throw new RowError(where, problem);
    asked.push(await askedOf(row, encoder, where));
  }
  return asked;
}

/** What was completed, and the exit status that ended it early; null: nothing did. */
interface Completed {
  completions: Completion[];
  stop: number | null;
}

/** Prompts of a rank's turn, in batches: so many that few places of a batch are empty at its end. */
const BATCHES_PER_TURN = 8;

/**
 * Completes all prompts, which several ranks take by turns; all of them then have the completions, in the order of the
 * prompts. On a wish to stop they end together, between turns.
 */
async function completeAll(
  asked: readonly Asked[],
  batchSize: number,
  { team = null, signal }: Context,
  completePart: (part: readonly Asked[], firstDraw: number, signal: AbortSignal) => Promise<Completion[]>,
): Promise<Completed> {
  if (team === null) {
    const completions = await completePart(asked, 0, signal);
    return { completions, stop: wishOf(signal) };
  }
  const turn = batchSize * BATCHES_PER_TURN;
  const never = new AbortController().signal;
  const completions: Completion[] = [];
  for (let begin = 0; begin < asked.length; begin += turn * team.size) {
    const stop = agreedWish(team, signal);
    if (stop !== null) return { completions, stop };
    const own = begin + team.rank * turn;
    const part = asked.slice(own, own + turn);
    const done = part.length === 0 ? [] : await completePart(part, own, never);
    for (const bytes of team.gather(new TextEncoder().encode(JSON.stringify(done))))
      completions.push(...(JSON.parse(new TextDecoder().decode(bytes)) as Completion[]));
  }
  return { completions, stop: null };
}

/**
 * Completes prompts, some at a time; the first ones, as far as they are whole, where `signal` aborts. Without a tokenizer
 * only ids come out. `onToken`: called for every new token of any prompt.
 */
async function complete(
  model: Llama,
  tokenizer: Tokenizer | null,
  asked: readonly Asked[],
  batchSize: number,
  columns: ColumnNames | undefined,
  sampling: ReturnType<typeof samplingOf> & {
    maxNewTokens: number;
    eosIds: readonly number[];
    firstDraw: number;
  },
  context: Pick<Context, "draw" | "signal">,
  onToken: (token: number) => void = () => {},
): Promise<Completion[]> {
  const outputs: Int32Array[] = [];
  const start = performance.now();
  let [tokens, ended] = [0, 0];
  const steps = generateInSteps(
    model,
    asked.map(({ ids }) => ids),
    {
      ...sampling,
      batchSize,
      onToken: (_, token) => {
        onToken(token);
        tokens++;
        if (tokens % 16 !== 0 || asked.length === 1) return;
        const rate = tokens / ((performance.now() - start) / 1000);
        context.draw([
          { text: `${ended} of ${asked.length} prompts done`, rank: 0 },
          { text: `${formatCount(tokens)} tokens`, rank: 2 },
          { text: `${formatCount(rate)} tokens/s`, rank: 1 },
        ]);
      },
      onDone: (index, output) => {
        outputs[index] = output;
        ended++;
      },
    },
  );
  await finishUnlessAborted(steps, context.signal);
  context.draw("");
  const firstLacking = asked.findIndex((_, i) => outputs[i] === undefined);
  const whole = firstLacking < 0 ? asked : asked.slice(0, firstLacking);
  return whole.map((one, i) => {
    const ids = outputs[i]!;
    const output = tokenizer?.decode(ids, { skipSpecial: true }) ?? "";
    return completionOf(one, columns, ids, output, sampling.eosIds);
  });
}

/** Writes a completion on the terminal as its tokens come, broken between words as chat's answers are. */
export function streamTo(
  { write }: Pick<Context, "write">,
  tokenizer: Tokenizer,
  prompt: Int32Array,
  columns = () => process.stdout.columns || 80,
): { push: (token: number) => void; end: () => void } {
  const stream = new TextStream(tokenizer, [], prompt);
  const wrap = new WordWrap(columns);
  return {
    push: (token) => write(wrap.push(escapeText(stream.push(token)))),
    end: () => write(`${wrap.push(escapeText(stream.end()))}${wrap.end()}\n`),
  };
}

export const generateCommand = defineCommand({
  description:
    "Greedy unless --temperature is above 0. With --dataset, each row becomes a prompt in its own format, without its output, completion or last assistant turn; input_ids are used unchanged. The output file gets one line per row, in order: instruction, prompt, output, output_ids (including the final EOS) and finish_reason (stop, or length if --max-new-tokens cut it off).",
  options: {
    model: modelOption,
    adapter: adapterOption,
    prompt: {
      type: "string",
      help: "a single prompt, continued as it is or used as the instruction of --prompt-template",
    },
    dataset: { type: "string", value: "NAME|FILE|ID", help: "take prompts from the rows of a data set" },
    ...readingOptions,
    output: {
      type: "path",
      value: "FILE",
      help: "file for the completions of --dataset, .json or .jsonl; must not exist yet",
    },
    format: {
      type: "enum",
      values: ["rows", "alpaca-eval"],
      default: "rows",
      help: "format of --output: one row per line, or AlpacaEval's JSON array of dataset, instruction, output and generator",
    },
    "prompt-template": {
      type: "string",
      value: "NAME|FILE",
      help: templateHelp,
    },
    "template-date": templateDateOption,
    "parse-special": {
      type: "bool",
      default: false,
      help: "turn text that looks like a special token into that token",
    },
    "max-new-tokens": { type: "int", default: 256, min: 1, help: "stop a completion after N tokens" },
    "batch-size": { type: "int", default: 16, min: 1, help: "number of prompts to complete together" },
    dtype: dtypeOption,
    ...quantizationOptions,
    ...samplingOptions,
  },
  examples: [
    ['neftune generate --model ./stories --prompt "Once upon a time"', "continues a text"],
    [
      'neftune generate --model llama2-7b --adapter runs/llama2-7b-alpaca_data-1 --prompt-template alpaca --prompt "Name three fruits."',
      "asks a fine-tuned model",
    ],
    [
      "neftune generate --model llama2-7b --adapter runs/llama2-7b-alpaca_data-1 --dataset alpaca_eval.json --output outputs.json --format alpaca-eval",
      "answers for AlpacaEval",
    ],
  ],
  interruptible: true,
  ranked: true,
  async run(given, context) {
    const { prompt, dataset: datasetName, output } = given;
    if ((prompt === undefined) === (datasetName === undefined)) {
      throw new UsageError("generate needs either --prompt or --dataset");
    }
    if (datasetName !== undefined && output === undefined) {
      throw new UsageError("generate --dataset needs --output: the file for the completions");
    }
    if (prompt !== undefined && output !== undefined)
      throw new UsageError("--output goes with --dataset, not --prompt");
    const { team = null } = context;
    if (output !== undefined && team?.isFirst !== false) checkOutput(output);
    expectModel(given.model, "generate");
    expectEffects(quantizationOptions, given, context);
    const values = withBase(given, context);
    if (datasetName !== undefined) expectDataWords([datasetName], context);
    const { dataset, base } = await oneByMachine(team, async () => {
      const found = await findModel(values, "generate", context);
      const dataset =
        datasetName === undefined
          ? undefined
          : await datasetFiles(datasetName, context, wantedSplits(values));
      return { dataset, base: await completeModel(found, values, context) };
    });
    const { path: dir, label, preset } = base;
    const config = readConfig(dir);
    // Rows of ids do without.
    const tokenizer = existsSync(join(dir, "tokenizer.json")) ? Tokenizer.load(dir) : null;
    const template = chooseTemplate(values["prompt-template"], [values.adapter, dir], preset);
    const columns = columnNames(values);
    const fixedDate = chooseDate(values["template-date"], [values.adapter, dir]);
    const date = fixedDate ?? today();
    const options = {
      template: promptTemplate(template.option),
      maxLength: null,
      parseSpecial: values["parse-special"],
      vocabSize: config.vocabSize,
      date,
      ...(datasetName === undefined || columns === undefined ? {} : { columns }),
    };
    const { asked, endOfTurn } = await withEncoder(dir, options, context.signal, async (encoder) => ({
      asked:
        dataset === undefined
          ? [await askedOf({ prompt }, encoder, "--prompt")]
          : await readPrompts(dataset.files, values, encoder, context.signal),
      endOfTurn: await encoder.endOfTurnId(),
    }));
    if (asked.length === 0) throw new NeftuneError("dataset", `${dataset?.path} has no rows`);
    if (values["prompt-template"] === undefined) {
      const used = asked.flatMap((one) => one.template ?? []);
      const isPlain = dataset === undefined && template.option === undefined;
      const chosen = isPlain ? { ...template, why: "--prompt is continued as it is" } : template;
      context.note(templateLine(chosen, [...new Set(used)], dir));
    }
    const dated = asked.filter(({ isDated }) => isDated).length;
    if (dated > 0) {
      const prompts = dataset === undefined ? "a prompt" : countOf(dated, "row");
      context.note(datedNote(prompts, fixedDate === undefined ? date : undefined));
    }
    const longest = asked.reduce((most, { ids }) => Math.max(most, ids.length), 0);
    if (longest + values["max-new-tokens"] > config.maxPositionEmbeddings) {
      context.note(
        `note: a prompt of ${longest} tokens and ${values["max-new-tokens"]} new ones pass the model's ${config.maxPositionEmbeddings} positions`,
      );
    }
    const device = openDevice(values, context);
    try {
      const start = performance.now();
      if (output !== undefined) context.finishFirst?.();
      const { adapter, dtype } = values;
      const limits = {
        maxTokens: Math.max(longest, values["batch-size"], PREFILL_TOKENS),
        maxTargets: 1,
        maxPosition: longest + values["max-new-tokens"],
      };
      const request = { dir, adapter, dtype, quantization: quantizationOf(values) };
      const model = loadForInference(device, request, limits, loadNotes(context));
      try {
        const sampling = {
          maxNewTokens: values["max-new-tokens"],
          ...samplingOf(values),
          eosIds: stopIds(model, tokenizer, endOfTurn),
        };
        const isStreamed = output === undefined && !values.json && context.columns !== undefined;
        const stream = isStreamed && tokenizer !== null ? streamTo(context, tokenizer, asked[0]!.ids) : null;
        const batchSize = values["batch-size"];
        const { completions, stop } = await completeAll(
          asked,
          batchSize,
          context,
          (part, firstDraw, signal) => {
            const drawn = { ...sampling, firstDraw };
            const watched = { draw: context.draw, signal };
            return complete(model, tokenizer, part, batchSize, columns, drawn, watched, stream?.push);
          },
        );
        device.expectFilesUnchanged("in place");
        const isStopped = completions.length < asked.length;
        if (isStopped && (output === undefined || completions.length === 0)) {
          if (stream !== null) stream.end();
          throw stopError("generate was stopped before anything was done", stop ?? INTERRUPTED, team);
        }
        const seconds = (performance.now() - start) / 1000;
        const notes = completionNotes(completions, sampling.maxNewTokens, tokenizer !== null);
        if (output === undefined) {
          if (stream !== null) stream.end();
          else context.print(values.json ? toJson(completions[0]) : completions[0]!.output);
          for (const note of notes) context.note(note);
          return;
        }
        const generator = values.adapter === undefined ? label : `${label}+${values.adapter}`;
        const rows =
          values.format === "alpaca-eval"
            ? alpacaEvalRows(asked, completions, generator, dataset!.label)
            : completions;
        if (team?.isFirst !== false) writeTextAtomically(output, rowsText(output, rows));
        if (isStopped) {
          const held = `${output} holds the first ${completions.length} of ${asked.length} rows`;
          throw stopError(`generate was stopped: ${held}`, stop ?? INTERRUPTED, team);
        }
        for (const note of notes) context.note(note);
        const tokens = completions.reduce((sum, { output_ids }) => sum + output_ids.length, 0);
        const cut = completions.filter(({ finish_reason }) => finish_reason === "length").length;
        if (values.json) context.print(toJson({ output, rows: rows.length, cut, tokens, seconds }));
        else
          context.print(
            folded(
              `${output}: ${countOf(rows.length, "row")}, ${countOf(tokens, "token")} in ${formatSeconds(seconds)}`,
              context.columns,
            ),
          );
      } finally {
        model.close();
      }
    } finally {
      device.close();
    }
  },
});

/** The ids that end a completion: EOS, as tokenizer and model have it, and what ends the template's answers. */
function stopIds(model: Llama, tokenizer: Tokenizer | null, endOfTurn: number | null): number[] {
  const ids = [...(tokenizer?.eosIds ?? []), ...model.config.eosTokenIds];
  return [...new Set(endOfTurn === null ? ids : [...ids, endOfTurn])];
}

function checkOutput(output: string): void {
  if (![".json", ".jsonl"].includes(extname(output))) {
    throw new UsageError(`--output ${output}: expected a name that ends in .json or .jsonl`);
  }
  expectNewFile(output);
}
