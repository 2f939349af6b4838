// Who may ask, and how much: keys, names of this machine, sizes of bodies.

import { timingSafeEqual } from "node:crypto";
import { ApiError } from "./errors.ts";

const MOST_BODY_BYTES = 8 * 2 ** 20;
/** A body that has not come by then will not. */
const BODY_MILLISECONDS = 30_000;

const digest = (text: string) => new Bun.CryptoHasher("sha256").update(text).digest();

export const isLoopback = (host: string) => /^(?:localhost|127(?:\.\d{1,3}){3}|::1|\[::1\])$/i.test(host);

/**
 * Throws ApiError unless the request may be answered. With a key, it has to be given. Without one, only this machine is
 * served, under its own name: a page of another site, whose name was turned to this address, is not.
 */
export function expectAllowed(request: Request, key: string | null): void {
  if (key === null) {
    const host = (request.headers.get("host") ?? "").replace(/:\d+$/, "");
    if (!isLoopback(host))
      throw new ApiError(403, `the server answers to localhost, not to ${JSON.stringify(host)}`);
    return;
  }
  const given = /^Bearer\s+(.*)$/i.exec(request.headers.get("authorization") ?? "")?.[1] ?? "";
  // Of digests, so that neither length nor content shows in the time.
  if (timingSafeEqual(digest(given), digest(key))) return;
  throw new ApiError(401, "a valid API key is needed: Authorization: Bearer KEY", {
    code: "invalid_api_key",
    headers: { "www-authenticate": "Bearer" },
  });
}

/** The body as JSON. Throws ApiError where it is too large, too slow, or not JSON. */
export async function readBody(request: Request): Promise<unknown> {
  // Browsers send other types to other sites without asking; this one they ask for.
  const type = request.headers.get("content-type") ?? "";
  if (!/^application\/json\s*(?:;|$)/i.test(type))
    throw new ApiError(415, "expected the header content-type: application/json");
  if (Number(request.headers.get("content-length") ?? 0) > MOST_BODY_BYTES) throw tooLarge();
  const text = new TextDecoder("utf-8", { fatal: true });
  try {
    return JSON.parse(text.decode(await bodyBytes(request)));
  } catch (error) {
    if (error instanceof ApiError) throw error;
    throw new ApiError(400, "the body is not valid JSON");
  }
}

async function bodyBytes(request: Request): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let bytes = 0;
  const reader = request.body?.getReader();
  const timer = setTimeout(() => reader?.cancel(), BODY_MILLISECONDS);
  try {
    for (;;) {
      const { done, value } = (await reader?.read()) ?? { done: true, value: undefined };
      if (done) return Buffer.concat(parts);
      bytes += value.length;
      if (bytes > MOST_BODY_BYTES) throw tooLarge();
      parts.push(value);
    }
  } finally {
    clearTimeout(timer);
  }
}

const tooLarge = () => new ApiError(413, `the body is larger than ${MOST_BODY_BYTES} bytes`);
