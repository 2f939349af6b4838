// Requests to the Hub: redirects followed by hand, so that the token never leaves the Hub's own host; temporary
// failures tried again after the time that the server asks for.

import { InterruptedError, NeftuneError } from "../../errors.ts";
import { type Asked, nameOf, refusal } from "./refusal.ts";
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

/** A body that comes drip by drip. However much of it came, the failure counts. */
export class Stalled extends Transient {}

/** An answer whose body is read chunk by chunk; close() ends the connection. */
export interface Answer {
  status: number;
  headers: Headers;
  chunks(): AsyncGenerator<Uint8Array>;
  close(): void;
}

interface RequestOptions {
  method?: "GET" | "HEAD";
  headers?: Readonly<Record<string, string>>;
  /** Statuses of 400 and above that the caller takes as answers. */
  accept?: readonly number[];
  /** Stop at a redirect that leads to another host, and return that. */
  stayOnHub?: boolean;
}

const MOST_REDIRECTS = 10;
/** What ends a download when the user asks for it: all that has come stays. */
export const stopped = (asked: Asked) =>
  new InterruptedError(`the download of ${nameOf(asked)} was stopped; the same command continues from there`);

/** From here on a wait is worth a line. */
const NOTED_DELAY = 3000;

export class HubClient {
  readonly settings: HubSettings;
  readonly signal: AbortSignal;
  readonly #patience: Patience;
  readonly #note: (text: string) => void;

  constructor(settings: HubSettings, options: ClientOptions) {
    this.settings = settings;
    this.signal = options.signal;
    this.#patience = options.patience ?? defaultPatience;
    this.#note = options.note;
  }

  /** The same for the signal that ends a group of downloads together. */
  within(signal: AbortSignal): HubClient {
    return new HubClient(this.settings, { signal, note: this.#note, patience: this.#patience });
  }

  /** The JSON object at a path of the API. Throws NeftuneError, InterruptedError. */
  async json(path: string, asked: Asked): Promise<Record<string, unknown>> {
    const text = await this.retrying(asked, async () => {
      const answer = await this.open(`${this.settings.endpoint}${path}`, asked);
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
    throw stopped(asked);
  }

  #unreachable(asked: Asked, error: Transient): NeftuneError {
    const wait =
      error.delay === null ? "" : ` and asks to wait ${Math.ceil(error.delay / 1000)} s before the next try`;
    return new NeftuneError(
      "hub",
      `${nameOf(asked)} cannot be downloaded from ${this.settings.endpoint}: ${error.message}${wait}; the same command continues from where it stopped. HF_HUB_OFFLINE=1 keeps to what is in the cache`,
      { cause: error },
    );
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
      answer.close();
      if (status === 429 || status === 408 || status >= 500) {
        throw new Transient(`${url.host} answered ${status}`, askedDelay(headers));
      }
      // A signed address that has expired answers so: asking the Hub again gives a new one.
      if (!onHub) throw new Transient(`${url.host} answered ${status}`);
      throw refusal(this.settings, asked, status, headers);
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
    const { silence } = this.#patience;
    const silent = new Transient(`no answer from ${url.host} for ${silence / 1000} s`);
    try {
      const fetching = fetch(url, {
        method: options.method ?? "GET",
        redirect: "manual",
        signal: controller.signal,
        // Compressed, neither sizes nor ranges would mean the file's bytes.
        headers: {
          "User-Agent": "neftune",
          "Accept-Encoding": "identity",
          ...(token === null ? {} : { Authorization: `Bearer ${token}` }),
          ...options.headers,
        },
      });
      const response = await within(fetching, silence, silent);
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
      const silent = new Transient(`no data from ${host} for ${silence / 1000} s`);
      const { done, value } = await within(reader.read(), silence, silent);
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

/** The promise's value; throws `late` if it does not settle within `milliseconds`. */
async function within<T>(promise: Promise<T>, milliseconds: number, late: Error): Promise<T> {
  const { promise: timeout, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(late), milliseconds);
  promise.catch(() => {});
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
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
