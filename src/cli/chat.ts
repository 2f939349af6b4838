// neftune chat: a conversation with a model, in a terminal or through a pipe.

import type { Interface } from "node:readline";
import { RowProblem } from "../data/formats.ts";
import { TextStream } from "../data/text-stream.ts";
import { UsageError } from "../errors.ts";
import { modelOption, templateDateOption, templateHelp } from "../options/data.ts";
import { quantizationOptions } from "../options/tuning.ts";
import { eventsTurn } from "../steps.ts";
import { openDevice } from "./arguments/device.ts";
import { expectEffects } from "./arguments/effects.ts";
import { samplingOf, samplingOptions } from "./arguments/sampling-options.ts";
import { Chat, chatHelp } from "./chat/conversation.ts";
import { type Context, defineCommand } from "./command.ts";
import { withBase } from "./inputs/adapter-base.ts";
import { completeModel, findModel } from "./inputs/checked-model.ts";
import { adapterOption, dtypeOption, expectModel } from "./inputs/model-data.ts";
import { contextLengthOption, noTemplate, ServedModel } from "./inputs/served-model.ts";
import { escapeText } from "./terminal/text.ts";
import { WordWrap } from "./terminal/word-wrap.ts";

export const chatCommand = defineCommand({
  description: `Answers line by line, with the conversation so far as context; only what is new is read again. Ctrl-C stops an answer; at the prompt, Ctrl-D or /exit ends the chat. From a pipe, every line is a message and the answers go to standard output.\n${chatHelp}`,
  options: {
    model: modelOption,
    adapter: adapterOption,
    system: { type: "string", value: "TEXT", help: "system message at the beginning of the conversation" },
    "prompt-template": {
      type: "string",
      value: "NAME|FILE",
      help: `${templateHelp}. Default: the one that the run was trained with, else the tokenizer's chat template`,
    },
    "template-date": templateDateOption,
    "max-new-tokens": { type: "int", default: 512, min: 1, help: "stop an answer after N tokens" },
    "context-length": contextLengthOption,
    dtype: dtypeOption,
    ...quantizationOptions,
    ...samplingOptions,
  },
  examples: [
    ["neftune chat --model runs/mine", "talks to a fine-tuned model"],
    ["neftune chat --model ./SmolLM2-135M --prompt-template chatml --temperature 0.7", "a template by name"],
    ['echo "Name three colors." | neftune chat --model runs/mine --quiet', "one question, from a script"],
  ],
  interruptible: true,
  async run(given, context) {
    expectModel(given.model, "chat");
    if (given.json)
      throw new UsageError("chat has no JSON output; for completions as JSON use neftune generate");
    expectEffects(quantizationOptions, given, context);
    const values = withBase(given, context);
    const found = await completeModel(await findModel(values, "chat", context), values, context);
    const device = openDevice(values, context);
    try {
      const served = ServedModel.open(device, found, { ...values, slots: 1 }, context);
      try {
        if (served.encoder === null) throw noTemplate();
        context.note(`template: ${served.template.option} (${served.template.why})`);
        const limits = { maxNewTokens: values["max-new-tokens"] };
        const chat = new Chat(values.system ?? null, { ...samplingOf(values), ...limits });
        await talk(served, chat, context);
      } finally {
        served.close();
      }
    } finally {
      device.close();
    }
  },
});

/** Reads lines until there are no more. */
async function talk(served: ServedModel, chat: Chat, context: Context): Promise<void> {
  // In the executable, what a module imports by name from Bun itself is loaded at every start.
  const { createInterface } = await import("node:readline");
  const isTerminal = process.stdin.isTTY === true && process.stdout.isTTY === true;
  const lines = createInterface({
    input: process.stdin,
    terminal: isTerminal,
    prompt: "> ",
    ...(isTerminal ? { output: process.stdout } : {}),
  });
  const interrupts = new Interrupts(lines, isTerminal, context.signal);
  if (isTerminal) context.note("/help lists the commands; Ctrl-D ends");
  try {
    if (isTerminal) lines.prompt();
    for await (const line of lines) {
      if (line.trim() !== "") {
        const reply = chat.take(line);
        if (reply.isExit) break;
        for (const note of reply.note?.split("\n") ?? []) context.note(note);
        if (reply.isQuestion) await answer(served, chat, interrupts, context);
      }
      if (context.signal.aborted) break;
      if (isTerminal) lines.prompt();
    }
    if (isTerminal) context.write("\n");
  } finally {
    interrupts.close();
    lines.close();
  }
}

/** Tells an answer to stop: Ctrl-C in a terminal, which readline takes, or a signal. */
class Interrupts {
  readonly #lines: Interface;
  readonly #signal: AbortSignal;
  readonly #onInterrupt: () => void;
  #answer: AbortController | null = null;

  constructor(lines: Interface, isTerminal: boolean, signal: AbortSignal) {
    this.#lines = lines;
    this.#signal = signal;
    this.#onInterrupt = () => {
      if (this.#answer !== null) return this.#answer.abort();
      if (!isTerminal) return;
      // As a shell does: the line is given up, and a new one begins.
      process.stdout.write("^C\n");
      lines.write(null, { ctrl: true, name: "e" });
      lines.write(null, { ctrl: true, name: "u" });
      lines.prompt();
    };
    lines.on("SIGINT", this.#onInterrupt);
    signal.addEventListener("abort", this.#end);
  }

  readonly #end = () => {
    this.#answer?.abort();
    this.#lines.close();
  };

  /** Of the answer that begins now. */
  begin(): AbortSignal {
    this.#answer = new AbortController();
    if (this.#signal.aborted) this.#answer.abort();
    return this.#answer.signal;
  }

  end(): void {
    this.#answer = null;
  }

  close(): void {
    this.#lines.removeListener("SIGINT", this.#onInterrupt);
    this.#signal.removeEventListener("abort", this.#end);
  }
}

/** Streams the model's answer to the conversation and adds it. */
async function answer(
  served: ServedModel,
  chat: Chat,
  interrupts: Interrupts,
  context: Context,
): Promise<void> {
  const { session, tokenizer, eosIds } = served;
  let prompt: Int32Array;
  try {
    prompt = served.promptOf(chat.messages);
  } catch (error) {
    if (!(error instanceof RowProblem)) throw error;
    chat.takeBack();
    context.note(error.message);
    return;
  }
  const room = session.options.capacity - prompt.length;
  if (room < 1) {
    chat.takeBack();
    context.note(
      `the conversation has ${prompt.length} tokens, and --context-length is ${session.options.capacity}; /reset begins anew`,
    );
    return;
  }
  const stream = new TextStream(tokenizer, [], prompt);
  const signal = interrupts.begin();
  const wrap = context.columns === undefined ? null : new WordWrap(() => process.stdout.columns || 80);
  const write = (part: string) => {
    if (part !== "") context.write(part);
  };
  let text = "";
  const say = (part: string) => {
    // Templates differ in whether a space comes before an answer.
    const shown = text === "" ? part.trimStart() : part;
    text += shown;
    write(wrap === null ? shown : wrap.push(escapeText(shown)));
  };
  const maxNewTokens = Math.min(chat.settings.maxNewTokens, room);
  const sequence = session.add(prompt, {
    ...chat.settings,
    ...{ maxNewTokens, eosIds, draw: chat.nextDraw() },
    onToken: (token) => say(stream.push(token)),
  });
  while (sequence.finishReason === null) {
    session.step();
    await eventsTurn(); // for Ctrl-C
    if (signal.aborted && sequence.finishReason === null) session.remove(sequence);
  }
  say(stream.end());
  if (wrap !== null) write(wrap.end());
  interrupts.end();
  context.write("\n");
  chat.add(text);
  if (signal.aborted) context.note("(stopped)");
  else if (sequence.finishReason === "length") {
    const limit = maxNewTokens < chat.settings.maxNewTokens ? "--context-length" : "--max-new-tokens";
    context.note(`(cut at ${limit})`);
  }
}
