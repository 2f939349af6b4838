// Requests to the Hub: redirects followed by hand, so that the token never leaves the Hub's own host; temporary
// failures tried again after the time that the server asks for.

import { NeftuneError } from "../../errors.ts";
import type { Answer } from "./answer.ts";
import { downloading, type Purpose, stopped } from "./purpose.ts";
import { type Asked, nameOf } from "./refusal.ts";
import type { HubSettings } from "./settings.ts";

/** How long to go on trying. */
export interface Patience {
  /** Failures in a row, none of which brought a byte, before giving up. */
  attempts: number;
  /** Wait after the first failure, in milliseconds; it doubles from one to the next. */
  firstDelay: number;
  /** A server may ask for a longer wait than the doubled one, but for no longer than this. Milliseconds. */
  longestDelay: number;
  /** Silence, in milliseconds, after which a connection counts as dead. */
  silence: number;
  /** Milliseconds over which the speed of a body is measured. */
  window: number;
  /** Bytes per second below which a body that has not ended counts as stalled. */
  slowest: number;
  /** Milliseconds for the whole of an answer of the API. */
  answer: number;
}

const defaultPatience: Patience = {
  attempts: 5,
  firstDelay: 500,
  longestDelay: 600_000,
  silence: 30_000,
  window: 60_000,
  slowest: 1024,
  answer: 120_000,
};

/** Of an answer of the API: a listing has some 300 bytes per file. */
const MOST_JSON_BYTES = 64 * 2 ** 20;

export interface ClientOptions {
  signal: AbortSignal;
  /** Something that a person should know, such as a long wait. */
  note: (text: string) => void;
  patience?: Patience;
  /** What its messages call what it does; a download, if nothing else is said. */
  purpose?: Purpose;
}

/** A failure that may pass: a status of 429 or 5xx, a connection that broke. */
export class Transient extends Error {
  /** Milliseconds that the server asks to wait, or null. */
  readonly delay: number | null;
  /** Bytes arrived before it failed: the count of failures starts again. */
  readonly progressed: boolean;

  constructor(message: string, delay: number | null = null, progressed = false) {
    super(message);
    this.delay = delay;
    this.progressed = progressed;
  }
}

/** A signed address that is not valid, or no longer: the Hub gives a new one. */
export class Unsigned extends Transient {}

/** A body that comes drip by drip. However much of it came, the failure counts. */
export class Stalled extends Transient {}

/** A body that is read while it is sent. */
export interface StreamedBody {
  bytes: number;
  /** Starts from the first byte; `onChunk` is told of every chunk that is handed over. */
  open(onChunk: (bytes: number) => void): ReadableStream<Uint8Array>;
}

interface RequestOptions {
  method?: "GET" | "HEAD" | "POST" | "PUT";
  body?: Uint8Array | string | StreamedBody;
  headers?: Readonly<Record<string, string>>;
  /** Statuses of 400 and above that the caller takes as answers. */
  accept?: readonly number[];
  /** Stop at a redirect that leads to another host, and return that. */
  stayOnHub?: boolean;
}

const MOST_REDIRECTS = 10;

/** From here on a wait is worth a line. */
const NOTED_DELAY = 3000;

export class HubClient {
  readonly settings: HubSettings;
  readonly signal: AbortSignal;
  readonly #patience: Patience;
  readonly #note: (text: string) => void;
  readonly #purpose: Purpose;

  constructor(settings: HubSettings, options: ClientOptions) {
    this.settings = settings;
    this.signal = options.signal;
    this.#patience = options.patience ?? defaultPatience;
    this.#note = options.note;
    this.#purpose = options.purpose ?? downloading;
  }

  /** The same for the signal that ends a group of transfers together. */
  within(signal: AbortSignal): HubClient {
    const [note, patience, purpose] = [this.#note, this.#patience, this.#purpose];
    return new HubClient(this.settings, { signal, note, patience, purpose });
  }

  /** The JSON object that the API answers with at a path. Throws NeftuneError, InterruptedError. */
  async json(path: string, asked: Asked, options: RequestOptions = {}): Promise<Record<string, unknown>> {
    const text = await this.retrying(asked, async () => {
      const answer = await this.open(`${this.settings.endpoint}${path}`, asked, options);
      return this.#whole(answer, path, asked);
    });
    try {
      const value: unknown = JSON.parse(text);
      if (typeof value === "object" && value !== null && !Array.isArray(value)) {
        return value as Record<string, unknown>;
      }
    } catch {
      // Told below.
    }
    throw new NeftuneError(
      "hub",
      `${this.settings.endpoint}${path}: expected a JSON object about ${nameOf(asked)}, got ${JSON.stringify(text.slice(0, 60))}; is HF_ENDPOINT a Hub?`,
    );
  }

  /** The body of an answer of the API. Throws NeftuneError for one that is too large or takes too long. */
  async #whole(answer: Answer, path: string, asked: Asked): Promise<string> {
    const { answer: most } = this.#patience;
    const refuse = (what: string) => {
      answer.close();
      return new NeftuneError(
        "hub",
        `${this.settings.endpoint}${path}: ${what} about ${nameOf(asked)}; is HF_ENDPOINT a Hub?`,
      );
    };
    const tooLarge = `the answer has more than ${MOST_JSON_BYTES / 2 ** 20} MiB`;
    if (Number(answer.headers.get("Content-Length") ?? 0) > MOST_JSON_BYTES) throw refuse(tooLarge);
    const start = performance.now();
    const chunks: Uint8Array[] = [];
    let bytes = 0;
    for await (const chunk of answer.chunks()) {
      bytes += chunk.length;
      if (bytes > MOST_JSON_BYTES) throw refuse(tooLarge);
      if (performance.now() - start > most) throw refuse(`the answer takes longer than ${most / 1000} s`);
      chunks.push(chunk);
    }
    return Buffer.concat(chunks).toString("utf8");
  }

  /** Calls `attempt` until it ends with something other than Transient, or patience does. */
  async retrying<T>(asked: Asked, attempt: () => Promise<T>): Promise<T> {
    for (let failures = 0; ; ) {
      this.#expectRunning(asked);
      try {
        return await attempt();
      } catch (error) {
        this.#expectRunning(asked);
        if (!(error instanceof Transient)) throw error;
        failures = error.progressed ? 1 : failures + 1;
        if (failures >= this.#patience.attempts) throw this.#unreachable(asked, error);
        const doubled = this.#patience.firstDelay * 2 ** (failures - 1);
        const delay = Math.max(error.delay ?? 0, doubled);
        if (delay > this.#patience.longestDelay) throw this.#unreachable(asked, error);
        if (delay >= NOTED_DELAY) {
          this.#note(`${nameOf(asked)}: ${error.message}; trying again in ${Math.ceil(delay / 1000)} s`);
        }
        await this.#sleep(delay);
      }
    }
  }

  #expectRunning(asked: Asked): void {
    if (!this.signal.aborted) return;
    throw stopped(asked, this.#purpose);
  }

  #unreachable(asked: Asked, error: Transient): NeftuneError {
    const wait =
      error.delay === null ? "" : ` and asks to wait ${Math.ceil(error.delay / 1000)} s before the next try`;
    const text = this.#purpose.unreachable(this.settings, asked, `${error.message}${wait}`);
    return new NeftuneError("hub", text, { cause: error });
  }

  async #sleep(milliseconds: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, milliseconds);
    this.signal.addEventListener("abort", () => resolve(), { once: true });
    await promise;
    clearTimeout(timer);
  }

  /** One try: follows redirects to an answer. Throws Transient, or NeftuneError for what no further try would change. */
  async open(address: string, asked: Asked, options: RequestOptions = {}): Promise<Answer> {
    const hub = new URL(this.settings.endpoint).origin;
    let url = new URL(address);
    let onHub = url.origin === hub;
    for (let hop = 0; hop <= MOST_REDIRECTS; hop++) {
      // What has left the Hub once is not trusted to come back.
      const authorization = onHub && this.settings.token !== undefined ? this.settings.token : null;
      const answer = await this.#fetch(url, authorization, options);
      const { status, headers } = answer;
      const location = headers.get("Location");
      if (status >= 300 && status < 400 && location !== null) {
        const next = URL.parse(location, url.href);
        if (next === null || !/^https?:$/.test(next.protocol)) {
          answer.close();
          throw new NeftuneError(
            "hub",
            `${nameOf(asked)}: ${url.host} redirects to ${location.slice(0, 100)}`,
          );
        }
        if (options.stayOnHub && next.origin !== hub) return answer;
        answer.close();
        onHub &&= next.origin === hub;
        url = next;
        continue;
      }
      if (status < 300 || options.accept?.includes(status)) return answer;
      if (status === 429 || status === 408 || status >= 500) {
        answer.close();
        throw new Transient(`${url.host} answered ${status}`, askedDelay(headers));
      }
      // A signed address that has expired answers so: asking the Hub again gives a new one.
      if (!onHub) {
        answer.close();
        throw new Unsigned(`${url.host} answered ${status}`);
      }
      throw await this.#purpose.refusal(this.settings, asked, answer);
    }
    throw new NeftuneError("hub", `${nameOf(asked)}: more than ${MOST_REDIRECTS} redirects`);
  }

  async #fetch(url: URL, token: string | null, options: RequestOptions): Promise<Answer> {
    const controller = new AbortController();
    const stop = () => controller.abort();
    this.signal.addEventListener("abort", stop, { once: true });
    const end = () => {
      this.signal.removeEventListener("abort", stop);
      controller.abort();
    };
    const { silence, answer: longest } = this.#patience;
    const { method = "GET", body } = options;
    const isStreamed = typeof body === "object" && "open" in body;
    // What was sent may take the server a while to take in.
    const first = body === undefined || isStreamed ? silence : longest;
    const deadline = new Deadline(first, (seconds) => {
      return new Transient(`no answer from ${url.host} for ${seconds} s`);
    });
    let left = isStreamed ? body.bytes : 0;
    const onChunk = (bytes: number) => {
      left -= bytes;
      deadline.extend(left > 0 ? silence : longest);
    };
    try {
      const fetching = fetch(url, {
        method,
        ...(body === undefined ? {} : { body: isStreamed ? body.open(onChunk) : body }),
        redirect: "manual",
        signal: controller.signal,
        // Compressed, neither sizes nor ranges would mean the file's bytes.
        headers: {
          "User-Agent": "neftune",
          "Accept-Encoding": "identity",
          ...(token === null ? {} : { Authorization: `Bearer ${token}` }),
          // Storage takes no body whose size is not announced.
          ...(isStreamed ? { "Content-Length": String(body.bytes) } : {}),
          ...options.headers,
        },
      });
      const response = await deadline.before(fetching);
      return {
        status: response.status,
        headers: response.headers,
        chunks: () => chunksOf(response, url.host, this.#patience, end),
        close: end,
      };
    } catch (error) {
      end();
      if (error instanceof Transient) throw error;
      throw new Transient(`no connection to ${url.host} (${reasonOf(error)})`);
    }
  }
}

async function* chunksOf(
  response: Response,
  host: string,
  { silence, window, slowest }: Patience,
  end: () => void,
): AsyncGenerator<Uint8Array> {
  const reader = response.body?.getReader();
  let [since, bytes] = [performance.now(), 0];
  try {
    while (reader !== undefined) {
      const deadline = new Deadline(silence, (seconds) => {
        return new Transient(`no data from ${host} for ${seconds} s`);
      });
      const { done, value } = await deadline.before(reader.read());
      if (done) return;
      bytes += value.length;
      const milliseconds = performance.now() - since;
      if (milliseconds > window) {
        if (bytes < (slowest * milliseconds) / 1000) {
          throw new Stalled(`${host} sent only ${bytes} bytes in ${Math.round(milliseconds / 1000)} s`);
        }
        [since, bytes] = [performance.now(), 0];
      }
      yield value;
    }
  } catch (error) {
    if (error instanceof Transient || error instanceof NeftuneError) throw error;
    throw new Transient(`the connection to ${host} broke (${reasonOf(error)})`);
  } finally {
    end();
  }
}

/** A time by which a promise must settle; it can be moved. */
class Deadline {
  readonly #passed = Promise.withResolvers<never>();
  readonly #late: (seconds: number) => Error;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isOver = false;

  constructor(milliseconds: number, late: (seconds: number) => Error) {
    this.#late = late;
    this.#passed.promise.catch(() => {});
    this.extend(milliseconds);
  }

  /** So many milliseconds from now. */
  extend(milliseconds: number): void {
    clearTimeout(this.#timer);
    if (this.#isOver) return;
    this.#timer = setTimeout(() => this.#passed.reject(this.#late(milliseconds / 1000)), milliseconds);
  }

  /** The promise's value; throws what `late` gives where it does not settle in time. */
  async before<T>(promise: Promise<T>): Promise<T> {
    promise.catch(() => {});
    try {
      return await Promise.race([promise, this.#passed.promise]);
    } finally {
      this.#isOver = true;
      clearTimeout(this.#timer);
    }
  }
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const code = (error as NodeJS.ErrnoException).code;
  return typeof code === "string" ? code : error.message.split("\n")[0]!;
}

/** Milliseconds of Retry-After (seconds or a date), else of the Hub's own RateLimit header: `"api";r=0;t=55`. */
function askedDelay(headers: Headers): number | null {
  const after = headers.get("Retry-After")?.trim();
  if (after !== undefined && /^\d+$/.test(after)) return Number(after) * 1000;
  const date = Date.parse(after ?? "");
  if (!Number.isNaN(date)) return Math.max(0, date - Date.now());
  const left = /;\s*t\s*=\s*(\d+)/.exec(headers.get("RateLimit") ?? "")?.[1];
  return left === undefined ? null : Number(left) * 1000;
}
