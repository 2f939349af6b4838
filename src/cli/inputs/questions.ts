// A data file of prompts that a model is to answer while it trains, or after: --prompts and --sample-prompts.

import { Encoder } from "../../data/encode.ts";
import { RowProblem } from "../../data/formats.ts";
import { IGNORE } from "../../data/sample.ts";
import { openSource, RowError, rowsOf } from "../../data/source.ts";
import { promptTemplate } from "../../data/templates.ts";
import { Tokenizer } from "../../data/tokenizer.ts";
import { InterruptedError, UsageError } from "../../errors.ts";
import { readConfig } from "../../model/index.ts";
import { type RunRequest, type SamplePrompt, type Sampling, samplingLimits } from "../../train/index.ts";
import { chooseDate } from "./prompt-template.ts";

/** Tokens of an answer while training: enough to see how it is going. */
const SAMPLE_TOKENS = 64;

/** The rows of the file as the run's model is asked them, with the answers that they bring. `option` is for messages. */
export async function readQuestions(
  option: string,
  path: string,
  request: Pick<RunRequest, "model" | "encoding" | "output">,
  signal: AbortSignal,
): Promise<SamplePrompt[]> {
  const tokenizer = Tokenizer.load(request.model.dir);
  const { template, columns } = request.encoding;
  const encoder = new Encoder(tokenizer, {
    ...{ template: promptTemplate(template), maxLength: null, vocabSize: null, columns },
    parseSpecial: request.encoding.parseSpecial ?? false,
    // The day that a run which goes on began, as for the data.
    date: chooseDate(request.encoding.templateDate, [request.output]),
  });
  const questions: SamplePrompt[] = [];
  for await (const { row, problem, where } of rowsOf(openSource(path))) {
    if (signal.aborted) throw new InterruptedError("stopped before anything was trained");
    if (problem !== null) throw new RowError(where, problem);
    const { ids, text } = encoder.encodePrompt(row);
    questions.push({ ids, text, references: referencesOf(encoder, tokenizer, row) });
  }
  if (questions.length === 0) throw new UsageError(`--${option} ${path} has no rows`);
  return questions;
}

/** The answer that a row has; none where it is a prompt alone. */
function referencesOf(encoder: Encoder, tokenizer: Tokenizer, row: unknown): string[] {
  try {
    const { ids, labels } = encoder.encode(row);
    const answer = ids.filter((_, i) => labels[i] !== IGNORE);
    const text = tokenizer.decode(answer, { skipSpecial: true }).trim();
    return text === "" ? [] : [text];
  } catch (error) {
    if (error instanceof RowProblem) return [];
    throw error;
  }
}

/** What a run needs to answer the rows of --sample-prompts, and what its model has to be loaded for. */
export async function samplingOf(
  path: string,
  every: number,
  request: Pick<RunRequest, "model" | "encoding" | "output">,
  signal: AbortSignal,
): Promise<{ sampling: Sampling; limits: ReturnType<typeof samplingLimits> }> {
  const prompts = await readQuestions("sample-prompts", path, request, signal);
  const tokenizer = Tokenizer.load(request.model.dir);
  const eosIds = [...new Set([...tokenizer.eosIds, ...readConfig(request.model.dir).eosTokenIds])];
  const sampling = {
    ...{ prompts, every, eosIds, maxNewTokens: SAMPLE_TOKENS },
    decode: (ids: ArrayLike<number>) => tokenizer.decode(ids, { skipSpecial: true }),
  };
  return { sampling, limits: samplingLimits(sampling) };
}
