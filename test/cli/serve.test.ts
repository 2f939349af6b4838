// The server in this process, on a model of a few thousand weights: routes, forms of requests and answers, errors, keys,
// many clients at once, clients that leave, the end.

import { afterAll, beforeAll, describe, expect, spyOn, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ServedModel } from "../../src/cli/inputs/served-model.ts";
import { ModelServer } from "../../src/cli/serve/server.ts";
import { entriesOf } from "../../src/cli/serve.ts";
import { generate } from "../../src/model/index.ts";
import { Device } from "../../src/native/index.ts";
import { HEADER_TEMPLATE } from "../data/tiny-tokenizer.ts";
import { makeTinyModel, openTiny, tinyAdapter, tinyOptions } from "./tiny-served.ts";

const root = mkdtempSync(join(tmpdir(), "serve-"));
const device = Device.open({ threads: 2 });
const modelDir = join(root, "model");
const models = new Map<string, ServedModel>();
let server: ModelServer;

beforeAll(() => {
  makeTinyModel(modelDir);
  models.set("base", openTiny(device, modelDir));
  models.set("tuned", openTiny(device, modelDir, tinyAdapter));
  server = new ModelServer(models, tinyOptions);
});
afterAll(async () => {
  await server.drain();
  for (const served of models.values()) served.close();
  device.close();
  rmSync(root, { recursive: true });
});

// biome-ignore lint/suspicious/noExplicitAny: answers are checked by what they hold
type Json = any;

async function post(
  path: string,
  body: object,
  init: RequestInit = {},
): Promise<{ status: number; json: Json }> {
  const headers = { "content-type": "application/json" };
  const response = await fetch(server.url + path, {
    method: "POST",
    headers,
    body: JSON.stringify(body),
    ...init,
  });
  return { status: response.status, json: await response.json() };
}

async function parts(path: string, body: object): Promise<Json[]> {
  const headers = { "content-type": "application/json" };
  const wish = { method: "POST", headers, body: JSON.stringify({ ...body, stream: true }) };
  const response = await fetch(server.url + path, wish);
  expect(response.headers.get("content-type")).toBe("text/event-stream");
  const events = (await response.text()).split("\n\n").filter((text) => text !== "");
  expect(events.pop()).toBe("data: [DONE]");
  return events.map((event) => JSON.parse(event.replace(/^data: /, "")));
}

const greedy = { temperature: 0, max_tokens: 6 };
const tokenizer = () => models.get("base")!.tokenizer;
/** What the model says alone. */
function alone(ids: ArrayLike<number>, name = "base", maxNewTokens = 6): number[] {
  const served = models.get(name)!;
  return [...generate(served.model, [Int32Array.from(ids)], { maxNewTokens, eosIds: served.eosIds })[0]!];
}
const textOf = (ids: number[]) => tokenizer().decode(ids, { skipSpecial: true });

describe("completions", () => {
  test("of text, of ids, of lists; usage; adapters by name", async () => {
    const text = "the cat sat";
    const ids = [...tokenizer().encode(text, { addBos: true })];
    const want = textOf(alone(ids));
    for (const prompt of [text, ids, [text], [ids]]) {
      const { json } = await post("/v1/completions", { model: "base", prompt, ...greedy });
      expect(json).toMatchObject({ object: "text_completion", model: "base" });
      expect(json.choices).toEqual([{ index: 0, text: want, logprobs: null, finish_reason: "length" }]);
      expect(json.usage).toEqual({
        prompt_tokens: ids.length,
        completion_tokens: 6,
        total_tokens: ids.length + 6,
      });
    }
    const { json } = await post("/v1/completions", { model: "tuned", prompt: [ids, [5, 6]], ...greedy });
    expect(json.choices.map((choice: Json) => choice.text)).toEqual([
      textOf(alone(ids, "tuned")),
      textOf(alone([5, 6], "tuned")),
    ]);
    expect(json.choices[0].text).not.toBe(want);
  });

  test("echo with logprobs: as lm-eval reads it", async () => {
    const ids = [346, 40, 41, 42, 43];
    const wish = { prompt: [ids], echo: true, logprobs: 1, temperature: 0, max_tokens: 1 };
    const { logprobs, text } = (await post("/v1/completions", wish)).json.choices[0];
    const { tokens, token_logprobs, top_logprobs, text_offset } = logprobs;
    for (const list of [tokens, token_logprobs, top_logprobs, text_offset]) expect(list.length).toBe(6);
    expect([token_logprobs[0], top_logprobs[0]]).toEqual([null, null]);
    expect(text).toBe(textOf([...ids, ...alone(ids, "base", 1)]));
    for (let i = 1; i < 6; i++) {
      const most = Math.max(...(Object.values(top_logprobs[i]) as number[]));
      const next = alone(ids.slice(0, i), "base", 1)[0];
      const isGreedy = next === [...ids, ...alone(ids, "base", 1)][i];
      expect(token_logprobs[i] === most).toBe(isGreedy);
      expect(top_logprobs[i][tokens[i]]).toBe(token_logprobs[i]);
    }
    const only = (await post("/v1/completions", { ...wish, max_tokens: 0 })).json.choices[0];
    expect(only.logprobs.token_logprobs).toEqual(token_logprobs.slice(0, 5));
    expect(only.text).toBe(textOf(ids));
  });

  test("a stream is the same text in parts, with log probabilities and usage", async () => {
    const wish = {
      prompt: "the cat",
      logprobs: 2,
      ...greedy,
      max_tokens: 12,
      stream_options: { include_usage: true },
    };
    const whole = (await post("/v1/completions", wish)).json;
    const all = await parts("/v1/completions", wish);
    expect(all.pop()).toMatchObject({ choices: [], usage: whole.usage });
    const choices = all.map((part) => part.choices[0]);
    expect(choices.map(({ text }) => text).join("")).toBe(whole.choices[0].text);
    expect(choices.flatMap(({ logprobs }) => logprobs.token_logprobs)).toEqual(
      whole.choices[0].logprobs.token_logprobs,
    );
    expect(choices.map(({ finish_reason }) => finish_reason)).toEqual([
      ...choices.slice(1).map(() => null),
      "length",
    ]);
  });

  test("stop strings, in a stream too; several choices; min_p; a seed", async () => {
    const long = { prompt: "the cat", temperature: 0, max_tokens: 20 };
    const { text } = (await post("/v1/completions", long)).json.choices[0];
    const stop = text.slice(7, 10);
    const cut = text.slice(0, text.indexOf(stop));
    const stopped = (await post("/v1/completions", { ...long, stop: [stop, "never"] })).json;
    expect(stopped.choices[0]).toMatchObject({ text: cut, finish_reason: "stop" });
    expect(stopped.usage.completion_tokens).toBeLessThan(20);
    const all = await parts("/v1/completions", { ...long, stop });
    expect(all.map((part) => part.choices[0].text).join("")).toBe(cut);
    const likeliest = { ...long, temperature: 50, min_p: 1 };
    expect((await post("/v1/completions", likeliest)).json.choices[0].text).toBe(text);
    const sampled = { ...long, temperature: 1.5, n: 3, seed: 9 };
    const [a, b] = await Promise.all([post("/v1/completions", sampled), post("/v1/completions", sampled)]);
    const texts = a.json.choices.map((choice: Json) => choice.text);
    expect(new Set(texts).size).toBe(3);
    expect(b.json.choices.map((choice: Json) => choice.text)).toEqual(texts);
  });
});

describe("chat completions", () => {
  const messages = [{ role: "user", content: "hello" }];
  const rendered =
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n";

  test("are rendered by the template, and stream", async () => {
    const ids = tokenizer().encode(rendered, { parseSpecial: true });
    const want = textOf(alone(ids)).trimStart();
    const wish = {
      model: "base",
      messages,
      temperature: 0,
      max_completion_tokens: 6,
      logprobs: true,
      top_logprobs: 2,
    };
    const { json } = await post("/v1/chat/completions", wish);
    expect(json.choices[0].message).toEqual({ role: "assistant", content: want, refusal: null });
    expect(json.usage.prompt_tokens).toBe(ids.length);
    expect(json.choices[0].logprobs.content.length).toBe(json.usage.completion_tokens);
    expect(json.choices[0].logprobs.content[0].top_logprobs.length).toBe(2);
    const all = await parts("/v1/chat/completions", wish);
    expect(all[0].choices[0].delta).toEqual({ role: "assistant", content: "" });
    expect(all.map((part) => part.choices[0].delta.content ?? "").join("")).toBe(want);
    expect(all.at(-1).choices[0].finish_reason).toBe(json.choices[0].finish_reason);
    const listed = [
      {
        role: "user",
        content: [
          { type: "text", text: "hel" },
          { type: "text", text: "lo" },
        ],
      },
    ];
    const again = await post("/v1/chat/completions", { ...wish, messages: listed });
    expect(again.json.choices[0].message.content).toBe(want);
  });

  test.each<[string, object, string]>([
    ["no messages", { messages: [] }, "messages: expected a list of at least one message"],
    [
      "another role",
      { messages: [{ role: "robot", content: "x" }] },
      "messages[0].role: expected system, user or assistant",
    ],
    [
      "an answer to continue",
      { messages: [...messages, { role: "assistant", content: "Once" }] },
      "messages: the last message is the assistant's, and an answer cannot be continued",
    ],
    [
      "a picture",
      { messages: [{ role: "user", content: [{ type: "image_url" }] }] },
      "expected parts of type text",
    ],
    ["tools", { messages, tools: [{ type: "function" }] }, "tools is not supported"],
    [
      "JSON as format",
      { messages, response_format: { type: "json_object" } },
      "response_format is not supported",
    ],
  ])("refused: %s", async (_, body, message) => {
    const { status, json } = await post("/v1/chat/completions", body);
    expect(json.error.message).toContain(message);
    expect([status, json.error.type]).toEqual([400, "invalid_request_error"]);
  });
});

describe("other routes", () => {
  test("models, tokens, health, metrics, the page", async () => {
    const get = (path: string) => fetch(server.url + path);
    const { data } = (await (await get("/v1/models")).json()) as Json;
    expect(data.map(({ id }: Json) => id)).toEqual(["base", "tuned"]);
    expect(data[0].max_model_len).toBe(128);
    const { json } = await post("/tokenize", { prompt: "the cat" });
    expect(json).toMatchObject({
      count: json.tokens.length,
      tokens: [346, ...tokenizer().encode("the cat")],
    });
    const bare = await post("/tokenize", { prompt: "the cat", add_special_tokens: false });
    expect(bare.json.tokens).toEqual(json.tokens.slice(1));
    expect((await post("/detokenize", { tokens: bare.json.tokens })).json).toEqual({ prompt: "the cat" });
    const messages = [{ role: "user", content: "hi" }];
    expect((await post("/tokenize", { messages })).json.tokens[0]).toBe(346);
    const answered = { messages: [...messages, { role: "assistant", content: "yo" }] };
    expect((await post("/tokenize", answered)).status).toBe(400);
    const info = (await (await get("/tokenizer_info")).json()) as Json;
    expect(info).toMatchObject({
      bos_token: "<|begin_of_text|>",
      eos_token: "<|end_of_text|>",
      chat_template: HEADER_TEMPLATE,
    });
    expect(await (await get("/health")).json()).toEqual({ status: "ok" });
    const metrics = await (await get("/metrics")).text();
    expect(metrics).toMatch(/^neftune_requests_total\{route="\/v1\/models",status="200"\} 1$/m);
    expect(metrics).toMatch(/^neftune_generated_tokens_total \d{2,}$/m);
    expect(metrics).toMatch(/^neftune_cached_prompt_tokens_total [1-9]\d*$/m);
    expect(metrics).toMatch(/^neftune_sequences_running 0$/m);
    const page = await get("/");
    expect(page.headers.get("content-security-policy")).toContain("connect-src 'self'");
    expect(await page.text()).toContain("<title>neftune</title>");
  });

  test.each<[string, string, RequestInit, number, string]>([
    ["a route that is not there", "/v2/x", {}, 404, "no such route: /v2/x"],
    ["another method", "/v1/completions", {}, 405, "/v1/completions takes POST"],
    [
      "another type",
      "/v1/completions",
      { method: "POST", body: "{}" },
      415,
      "content-type: application/json",
    ],
    [
      "another name of this machine",
      "/v1/models",
      { headers: { host: "evil.example:80" } },
      403,
      'not to "evil.example"',
    ],
  ])("refused: %s", async (_, path, init, status, message) => {
    const response = await fetch(server.url + path, init);
    const { error } = (await response.json()) as Json;
    expect([response.status, error.message]).toEqual([status, expect.stringContaining(message)]);
  });

  test.each<[string, object, string, string | null]>([
    ["no prompt", {}, "prompt: expected a text, token ids, or a list", "prompt"],
    ["a mixed list", { prompt: ["a", 1] }, "prompt: expected a text", "prompt"],
    [
      "an id past the vocabulary",
      { prompt: [1, 512] },
      "token id 512 is outside the vocabulary of 512",
      "prompt",
    ],
    ["too long", { prompt: "a", max_tokens: 128 }, "are more than the context of 128", "max_tokens"],
    [
      "a negative temperature",
      { prompt: "a", temperature: -1 },
      "temperature: expected a number from 0 to 100, got -1",
      "temperature",
    ],
    ["min_p of 2", { prompt: "a", min_p: 2 }, "min_p: expected a number from 0 to 1, got 2", "min_p"],
    ["logit_bias", { prompt: "a", logit_bias: { 5: 1 } }, "logit_bias is not supported", "logit_bias"],
    [
      "a penalty",
      { prompt: "a", presence_penalty: 0.5 },
      "presence_penalty is not supported",
      "presence_penalty",
    ],
    ["an empty stop", { prompt: "a", stop: [""] }, "stop: expected a text or a list", "stop"],
    [
      "too many logprobs",
      { prompt: "a", logprobs: 21 },
      "logprobs: expected a whole number from 0 to 20",
      "logprobs",
    ],
    [
      "another model",
      { model: "gpt-4", prompt: "a" },
      'the model "gpt-4" is not served; there is base, tuned',
      "model",
    ],
  ])("refused: %s", async (_, body, message, param) => {
    const { status, json } = await post("/v1/completions", body);
    expect(json.error.message).toContain(message);
    expect(json.error.param).toBe(param);
    expect(status).toBe(param === "model" ? 404 : 400);
  });

  test("a body that is not JSON, or too large", async () => {
    const headers = { "content-type": "application/json" };
    const send = (body: string) => fetch(`${server.url}/tokenize`, { method: "POST", headers, body });
    expect((await send("{")).status).toBe(400);
    expect((await send("[]")).status).toBe(400);
    const large = await send(JSON.stringify({ prompt: "x".repeat(8 * 2 ** 20) }));
    expect(large.status).toBe(413);
    expect(((await large.json()) as Json).error.message).toBe("the body is larger than 8388608 bytes");
  });
});

test("200 requests at once: none lost, none mixed up", async () => {
  const prompts = Array.from({ length: 200 }, (_, i) => [346, 10 + (i % 190), 20 + (i % 97)]);
  const wishes = prompts.map((prompt, i) => ({ model: i % 2 === 0 ? "base" : "tuned", prompt, ...greedy }));
  const answers = await Promise.all(
    wishes.map(async (wish, i) => {
      if (i % 3 > 0) return (await post("/v1/completions", wish)).json.choices[0].text;
      return (await parts("/v1/completions", wish)).map((part) => part.choices[0].text).join("");
    }),
  );
  expect(answers).toEqual(wishes.map(({ prompt, model }) => textOf(alone(prompt, model))));
});

test("a client that leaves frees its place", async () => {
  const served = models.get("base")!;
  for (const stream of [true, false]) {
    const controller = new AbortController();
    const wish = { model: "base", prompt: "the", temperature: 0, max_tokens: 120, stream };
    const all = Array.from({ length: 8 }, () =>
      post("/v1/completions", wish, { signal: controller.signal }).catch(() => {}),
    );
    while (served.session.freeSlots > 0) await Bun.sleep(1);
    controller.abort();
    await Promise.all(all);
    const since = performance.now();
    while (!served.session.isIdle && performance.now() - since < 5000) await Bun.sleep(5);
    expect(served.session.isIdle).toBe(true);
  }
});

test("a port that is taken", () => {
  const port = Number(new URL(server.url).port);
  expect(() => new ModelServer(models, { ...tinyOptions, port })).toThrow(
    `cannot listen on 127.0.0.1:${port}: another program has this port; choose another --port`,
  );
});

test("keys, a full queue, time that is up", async () => {
  const own = new ModelServer(new Map([["one", models.get("base")!]]), {
    ...tinyOptions,
    key: "secret",
    maxQueue: 2,
    timeoutSeconds: 1,
  });
  const ask = async (authorization: string | null, body: object, path = "/v1/completions") => {
    const headers = { "content-type": "application/json", ...(authorization && { authorization }) };
    const response = await fetch(own.url + path, { method: "POST", headers, body: JSON.stringify(body) });
    return { status: response.status, headers: response.headers, json: (await response.json()) as Json };
  };
  const short = { prompt: "a", max_tokens: 1 };
  for (const wrong of [null, "secret", "Bearer secre", "Bearer secret2"]) {
    const { status, json } = await ask(wrong, short);
    expect([status, json.error.code]).toEqual([401, "invalid_api_key"]);
  }
  expect((await ask("Bearer secret", short)).status).toBe(200);
  expect((await fetch(`${own.url}/health`)).status).toBe(200);
  // Any name is that of the only model.
  expect((await ask("Bearer secret", { ...short, model: "neftune" })).json.model).toBe("one");
  const large = await ask("Bearer secret", { ...short, prompt: Array(7).fill("a") });
  expect(large.json.error.message).toContain("7 more sequences find no room");
  const many = Array.from({ length: 12 }, () =>
    ask("Bearer secret", { ...short, max_tokens: 100, temperature: 0 }),
  );
  const statuses = (await Promise.all(many)).map(({ status, headers }) => [
    status,
    headers.get("retry-after"),
  ]);
  expect(statuses.filter(([status]) => status === 429).length).toBeGreaterThan(0);
  for (const [status, after] of statuses)
    expect([status, after]).toEqual(status === 200 ? [200, null] : [429, "1"]);
  await own.drain();
});

test("the end waits for what is under way, and takes nothing more", async () => {
  const own = new ModelServer(new Map([["one", models.get("base")!]]), tinyOptions);
  const headers = { "content-type": "application/json" };
  const body = JSON.stringify({ prompt: "the", temperature: 0, max_tokens: 60 });
  const ask = () => fetch(`${own.url}/v1/completions`, { method: "POST", headers, body });
  const { session } = models.get("base")!;
  // Without steps the first answer stays under way.
  const stepping = spyOn(session, "step").mockImplementation(() => {});
  const under = ask();
  while (session.isIdle) await Bun.sleep(1);
  const end = own.drain();
  const refused = [await ask(), await fetch(`${own.url}/health`)];
  stepping.mockRestore();
  expect(refused.map(({ status }) => status)).toEqual([503, 503]);
  expect(((await (await under).json()) as Json).usage.completion_tokens).toBe(60);
  await end;
  await expect(ask()).rejects.toThrow();
});

test("names of adapters", () => {
  const found = { label: "llama" };
  expect(entriesOf(found, null, ["a=runs/one", "runs/two/"])).toEqual([
    { name: "llama", adapter: null },
    { name: "a", adapter: "runs/one" },
    { name: "two", adapter: "runs/two/" },
  ]);
  expect(entriesOf(found, "runs/mine", [])).toEqual([{ name: "mine", adapter: "runs/mine" }]);
  expect(() => entriesOf(found, null, ["a=x", "a=y"])).toThrow("a is served already");
  expect(() => entriesOf(found, null, ["=x"])).toThrow("expected NAME=DIR");
});
