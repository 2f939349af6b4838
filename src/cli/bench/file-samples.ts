// Samples of a data file for a benchmark.

import { Encoder } from "../../data/encode.ts";
import type { Sample } from "../../data/sample.ts";
import { openSource, rowsOf } from "../../data/source.ts";
import { Tokenizer } from "../../data/tokenizer.ts";
import { NeftuneError, UsageError } from "../../errors.ts";
import { hasTargets } from "./work.ts";

/** Their lengths and masks are the file's; the weights are random anyway. */
export async function fileSamples(
  path: string,
  tokenizerDir: string | undefined,
  maxLength: number,
  vocabSize: number,
): Promise<Sample[]> {
  if (tokenizerDir === undefined) {
    throw new UsageError(
      `--data ${path} needs --tokenizer: a folder with a tokenizer.json of at most ${vocabSize} tokens`,
    );
  }
  const tokenizer = Tokenizer.load(tokenizerDir);
  if (tokenizer.vocabSize > vocabSize) {
    throw new UsageError(
      `--tokenizer ${tokenizerDir} has ${tokenizer.vocabSize} tokens, more than the shape's vocabulary of ${vocabSize}`,
    );
  }
  const encoder = new Encoder(tokenizer, {
    template: { kind: "auto" },
    maxLength,
    parseSpecial: false,
    vocabSize,
  });
  const samples: Sample[] = [];
  for await (const { row, problem, where } of rowsOf(openSource(path))) {
    try {
      if (problem !== null) throw new NeftuneError("row", problem);
      samples.push(encoder.encode(row));
    } catch (error) {
      if (!(error instanceof NeftuneError)) throw error;
      throw new NeftuneError(error.code, `${where}: ${error.message}`, { cause: error });
    }
  }
  const useful = samples.filter(hasTargets);
  if (useful.length === 0)
    throw new NeftuneError("data", `${path}: no row has a target within ${maxLength} tokens`);
  return useful;
}
