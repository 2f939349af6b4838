// POST /v1/chat/completions: a conversation, rendered by the model's template.

import { RowProblem } from "../../data/formats.ts";
import type { Sequence } from "../../model/index.ts";
import { noTemplate, type ServedModel } from "../inputs/served-model.ts";
import { type Call, now } from "./completions.ts";
import { ApiError } from "./errors.ts";
import type { RequestFields } from "./fields.ts";
import { MOST_LOGPROBS, readWanted, roomFor, usageOf } from "./sampling.ts";
import { eventStream } from "./stream.ts";

interface TokenLogprob {
  token: string;
  logprob: number;
  bytes: number[];
}

export async function chatCompletions(call: Call): Promise<Response> {
  const { fields, served, engine, name, signal } = call;
  const wanted = readWanted(fields);
  fields.refuseUnless("tools", [[]]);
  fields.refuseUnless("functions", [[]]);
  fields.refuseUnless("response_format", [{ type: "text" }]);
  const logprobs = fields.flag("logprobs") ? fields.whole("top_logprobs", 0, 0, MOST_LOGPROBS) : null;
  const prompt = promptOf(fields, served);
  const field = fields.get("max_completion_tokens") === undefined ? "max_tokens" : "max_completion_tokens";
  const asked = fields.get(field) === undefined ? null : fields.whole(field, 1, 1);
  const most = roomFor(fields, served, prompt, asked);
  engine.expectRoom(served, wanted.choices);
  const head = { id: `chatcmpl-${crypto.randomUUID()}`, created: now(), model: name };
  const run = (draw: number, onText?: (text: string, sequence: Sequence) => void) =>
    engine.run({
      ...{ served, prompt, stops: wanted.stops, signal },
      options: {
        ...wanted.sampling,
        ...{ draw, maxNewTokens: most },
        ...(logprobs === null ? {} : { logprobs }),
      },
      ...(onText === undefined ? {} : { onText }),
    });
  const draws = Array.from({ length: wanted.choices }, (_, draw) => draw);
  const usage = (answers: readonly { sequence: Sequence }[]) =>
    usageOf(
      prompt.length,
      answers.reduce((sum, { sequence }) => sum + sequence.output.length, 0),
    );
  if (!wanted.isStreamed) {
    const answers = await Promise.all(draws.map((draw) => run(draw)));
    const choices = answers.map(({ text, sequence, finishReason }, index) => ({
      index,
      message: { role: "assistant", content: text.trimStart(), refusal: null },
      logprobs: logprobs === null ? null : { content: chancesOf(served, sequence, 0), refusal: null },
      finish_reason: finishReason,
    }));
    return Response.json({ ...head, object: "chat.completion", choices, usage: usage(answers) });
  }
  return eventStream(async (send) => {
    const part = (index: number, delta: object, reason: string | null, tokens: TokenLogprob[] | null) =>
      send({
        ...head,
        object: "chat.completion.chunk",
        choices: [
          { index, delta, logprobs: tokens && { content: tokens, refusal: null }, finish_reason: reason },
        ],
      });
    const answers = await Promise.all(
      draws.map(async (draw) => {
        part(draw, { role: "assistant", content: "" }, null, null);
        let [told, isBegun] = [0, false];
        const since = (sequence: Sequence) => {
          if (logprobs === null) return null;
          const tokens = chancesOf(served, sequence, told);
          told = sequence.output.length;
          return tokens;
        };
        const answer = await run(draw, (text, sequence) => {
          const content = isBegun ? text : text.trimStart();
          if (content === "") return;
          isBegun = true;
          part(draw, { content }, null, since(sequence));
        });
        part(draw, {}, answer.finishReason, since(answer.sequence));
        return answer;
      }),
    );
    if (wanted.withUsage)
      send({ ...head, object: "chat.completion.chunk", choices: [], usage: usage(answers) });
  }, call.abort);
}

/** The conversation of `messages` as token ids. Throws ApiError. */
export function promptOf(fields: RequestFields, served: ServedModel): Int32Array {
  const value = fields.get("messages");
  if (!Array.isArray(value) || value.length === 0)
    fields.fail("messages", "expected a list of at least one message");
  const messages = value.map((message, i) => {
    const { role, content } = (message ?? {}) as { role?: unknown; content?: unknown };
    const own = role === "developer" ? "system" : role;
    if (own !== "system" && own !== "user" && own !== "assistant")
      fields.fail(`messages[${i}].role`, "expected system, user or assistant");
    return { role: own, content: textOf(fields, content, `messages[${i}].content`) } as const;
  });
  // A row's last answer is left out of its prompt; a client that sends one wants it continued, or answered.
  if (messages.at(-1)?.role === "assistant")
    fields.fail(
      "messages",
      "the last message is the assistant's, and an answer cannot be continued; end with a user message",
    );
  if (served.encoder === null) throw new ApiError(400, noTemplate().message, { param: "messages" });
  try {
    return served.promptOf(messages);
  } catch (error) {
    if (error instanceof RowProblem) fields.fail("messages", error.message);
    throw error;
  }
}

/** A text, or a list of parts that are texts. */
function textOf(fields: RequestFields, content: unknown, name: string): string {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) fields.fail(name, "expected a text");
  return content
    .map((part: { type?: unknown; text?: unknown } | null) =>
      part?.type === "text" && typeof part.text === "string"
        ? part.text
        : fields.fail(name, "expected parts of type text; others are not supported"),
    )
    .join("");
}

function chancesOf(served: ServedModel, { output, chances }: Sequence, from: number) {
  const told = (id: number, logprob: number): TokenLogprob => {
    const token = served.tokenText(id);
    return { token, logprob, bytes: [...new TextEncoder().encode(token)] };
  };
  return output.slice(from).map((id, i) => {
    const { logprob, top } = chances[from + i]!;
    return { ...told(id, logprob), top_logprobs: top.map((one) => told(one.id, one.logprob)) };
  });
}
