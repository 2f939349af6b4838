// The HTTP server: routes, who may ask, and an end that waits for what is under way.

import { NeftuneError } from "../../errors.ts";
import type { ServedModel } from "../inputs/served-model.ts";
import { chatCompletions } from "./chat-completions.ts";
import { type Call, completions, now } from "./completions.ts";
import { Engine } from "./engine.ts";
import { ApiError } from "./errors.ts";
import { RequestFields } from "./fields.ts";
import { expectAllowed, readBody } from "./guard.ts";
import { Metrics } from "./metrics.ts";
import chatPage from "./page.html" with { type: "text" };
import { asApiError } from "./stream.ts";
import { detokenize, tokenize, tokenizerInfo } from "./tokens.ts";

export interface ServerOptions {
  host: string;
  /** 0: any that is free. */
  port: number;
  /** Null: none is needed. */
  key: string | null;
  /** Sequences that may wait for a place. */
  maxQueue: number;
  /** How long one request may take. */
  timeoutSeconds: number;
  /** Told what goes wrong on this side. */
  note: (text: string) => void;
}

const ROUTES = new Map([
  ["/", "GET"],
  ["/health", "GET"],
  ["/metrics", "GET"],
  ["/v1/models", "GET"],
  ["/tokenizer_info", "GET"],
  ["/v1/completions", "POST"],
  ["/v1/chat/completions", "POST"],
  ["/tokenize", "POST"],
  ["/detokenize", "POST"],
]);
/** Those that need no key: they say nothing of models or people. */
const OPEN_ROUTES = new Set(["/", "/health"]);

export class ModelServer {
  readonly #models: ReadonlyMap<string, ServedModel>;
  readonly #options: ServerOptions;
  readonly #metrics = new Metrics();
  readonly #engine: Engine;
  readonly #server: Bun.Server<undefined>;
  readonly #started = now();
  #isEnding = false;

  /** Serves the models, which it borrows, under their names; the first is the default. Throws NeftuneError ("io"). */
  constructor(models: ReadonlyMap<string, ServedModel>, options: ServerOptions) {
    this.#models = models;
    this.#options = options;
    this.#metrics.declare("neftune_requests_total", "Answers by route and status.");
    this.#engine = new Engine(options.maxQueue, this.#metrics);
    try {
      this.#server = Bun.serve({
        hostname: options.host,
        port: options.port,
        idleTimeout: 0, // a token may take long; requests have a limit of their own
        maxRequestBodySize: Number.MAX_SAFE_INTEGER, // guard.ts has the limit, and says so
        fetch: (request) => this.#answer(request),
      });
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      const reason = code === "EADDRINUSE" ? "another program has this port" : message;
      throw new NeftuneError(
        "io",
        `cannot listen on ${options.host}:${options.port}: ${reason}; choose another --port`,
        { cause: error },
      );
    }
  }

  get url(): string {
    return this.#server.url.href.replace(/\/$/, "");
  }

  /** Refuses what is new, and ends when all that is under way has its answer. */
  async drain(): Promise<void> {
    this.#isEnding = true;
    while (!this.#engine.isIdle) await Bun.sleep(5);
    await this.#server.stop();
  }

  async #answer(request: Request): Promise<Response> {
    const { pathname } = new URL(request.url);
    let response: Response;
    try {
      response = await this.#route(request, pathname);
    } catch (error) {
      if (!(error instanceof ApiError || request.signal.aborted))
        this.#options.note(`${pathname}: ${error instanceof Error ? error.message : error}`);
      response = asApiError(error).toResponse();
    }
    const route = ROUTES.has(pathname) ? pathname : "other";
    this.#metrics.add("neftune_requests_total", 1, { route, status: String(response.status) });
    return response;
  }

  async #route(request: Request, path: string): Promise<Response> {
    if (!OPEN_ROUTES.has(path)) expectAllowed(request, this.#options.key);
    const method = ROUTES.get(path);
    if (method === undefined) throw new ApiError(404, `no such route: ${path}`);
    if (request.method !== method && !(request.method === "HEAD" && method === "GET"))
      throw new ApiError(405, `${path} takes ${method}`, { headers: { allow: method } });
    switch (path) {
      case "/":
        return new Response(chatPage as unknown as string, { headers: pageHeaders });
      case "/health":
        if (this.#isEnding) throw new ApiError(503, "the server is stopping");
        return Response.json({ status: "ok" });
      case "/metrics":
        return new Response(this.#metrics.text(this.#gauges()), {
          headers: { "content-type": "text/plain; version=0.0.4" },
        });
      case "/v1/models":
        return Response.json({ object: "list", data: [...this.#models.keys()].map((id) => this.#model(id)) });
      case "/tokenizer_info":
        return tokenizerInfo(this.#served(null).served);
      default:
        return this.#post(request, path);
    }
  }

  async #post(request: Request, path: string): Promise<Response> {
    if (this.#isEnding) throw new ApiError(503, "the server is stopping");
    const fields = new RequestFields(await readBody(request));
    const { name, served } = this.#served(fields.get("model") ?? null);
    if (path === "/tokenize") return tokenize(fields, served);
    if (path === "/detokenize") return detokenize(fields, served);
    const own = new AbortController();
    const late = new ApiError(504, `the answer took more than ${this.#options.timeoutSeconds} s (--timeout)`);
    const timer = setTimeout(() => own.abort(late), this.#options.timeoutSeconds * 1000);
    timer.unref();
    const signal = AbortSignal.any([request.signal, own.signal]);
    const call: Call = {
      ...{ name, served, fields, signal },
      engine: this.#engine,
      abort: () => own.abort(),
    };
    return path === "/v1/completions" ? completions(call) : chatCompletions(call);
  }

  /** A model by its name; where there is only one, it answers to any. */
  #served(wish: unknown): { name: string; served: ServedModel } {
    const [first] = this.#models;
    if (wish === null || (this.#models.size === 1 && typeof wish === "string"))
      return { name: first![0], served: first![1] };
    const served = this.#models.get(String(wish));
    if (served !== undefined) return { name: String(wish), served };
    const names = [...this.#models.keys()].join(", ");
    throw new ApiError(404, `the model ${JSON.stringify(wish)} is not served; there is ${names}`, {
      param: "model",
      code: "model_not_found",
    });
  }

  #model(id: string): object {
    const { capacity } = this.#models.get(id)!.session.options;
    return { id, object: "model", created: this.#started, owned_by: "neftune", max_model_len: capacity };
  }

  #gauges() {
    return {
      neftune_sequences_running: { help: "Sequences that advance.", value: this.#engine.running },
      neftune_sequences_waiting: { help: "Sequences that wait for a place.", value: this.#engine.waiting },
    };
  }
}

/** The page has all that it needs in itself, and may ask nobody but this server. */
const pageHeaders = {
  "content-type": "text/html; charset=utf-8",
  "content-security-policy":
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
};
