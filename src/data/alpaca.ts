// Stanford Alpaca's prompt.

import type { Exchange } from "./exchange.ts";

const TASK = "Below is an instruction that describes a task";
const WRITE = "Write a response that appropriately completes the request.";

/** The prompt up to and including `### Response:`; the output follows directly. */
export function alpacaPrompt(instruction: string, input: string): string {
  return `${preamble(input !== "")}${turn(instruction, input)}`;
}

/** The prompt behind earlier questions and answers: the task is told once, each turn has its instruction and response. */
export function alpacaExchanges(
  history: readonly (readonly [question: string, answer: string])[],
  instruction: string,
  input: string,
  output: string | null,
): Exchange[] {
  const exchanges: Exchange[] = [
    ...history.map(([question, answer]) => ({ prompt: turn(question, ""), answer })),
    { prompt: turn(instruction, input), answer: output },
  ];
  const first = exchanges[0]!;
  return [{ ...first, prompt: `${preamble(input !== "")}${first.prompt}` }, ...exchanges.slice(1)];
}

function preamble(hasInput: boolean): string {
  return hasInput
    ? `${TASK}, paired with an input that provides further context. ${WRITE}`
    : `${TASK}. ${WRITE}`;
}

function turn(instruction: string, input: string): string {
  const context = input === "" ? "" : `\n\n### Input:\n${input}`;
  return `\n\n### Instruction:\n${instruction}${context}\n\n### Response:`;
}
