// Parts of an answer as server-sent events, as OpenAI's clients read them.

import { ApiError } from "./errors.ts";

/**
 * A response whose parts `write` sends; an error ends it as an event of its own, since the status has gone out already.
 * `onGone`: the client has left.
 */
export function eventStream(
  write: (send: (part: object) => void) => Promise<void>,
  onGone: () => void,
): Response {
  const encoder = new TextEncoder();
  let isOpen = true;
  const body = new ReadableStream({
    async start(controller) {
      const send = (text: string) => {
        if (isOpen) controller.enqueue(encoder.encode(`data: ${text}\n\n`));
      };
      try {
        await write((part) => send(JSON.stringify(part)));
        send("[DONE]");
      } catch (error) {
        send(JSON.stringify(asApiError(error).toJson()));
      }
      if (isOpen) controller.close();
      isOpen = false;
    },
    cancel() {
      isOpen = false;
      onGone();
    },
  });
  return new Response(body, {
    headers: { "content-type": "text/event-stream", "cache-control": "no-cache", connection: "keep-alive" },
  });
}

export function asApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  return new ApiError(500, error instanceof Error ? error.message : String(error));
}
