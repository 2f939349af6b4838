// neftune serve from outside: a run and its base over HTTP, keys, and an end that waits.

import { beforeAll, expect, test } from "bun:test";
import { modelPlace, trainTiny } from "./support.ts";

const place = modelPlace();
beforeAll(() => trainTiny(place), 60_000);

/** Starts a server; `url` is known once it listens. */
async function started(...args: string[]) {
  const child = place.start(["serve", "--port", "0", "--device", "cpu", ...args]);
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let said = "";
  while (!said.includes("\n")) said += (await reader.read()).value ?? "listening failed\n";
  return { child, url: /^listening on (http:\S+)\n$/.exec(said)![1]! };
}
const headers = { "content-type": "application/json" };
const ask = (url: string, body: object, more = {}) =>
  fetch(url, { method: "POST", headers: { ...headers, ...more }, body: JSON.stringify(body) });

test("a base and an adapter; SIGTERM lets the answer under way end", async () => {
  const { child, url } = await started(
    "--model",
    "model",
    "--adapter",
    "tuned=lora",
    "--context-length",
    "200",
  );
  const { data } = (await (await fetch(`${url}/v1/models`)).json()) as { data: { id: string }[] };
  expect(data.map(({ id }) => id)).toEqual(["model", "tuned"]);
  const messages = [{ role: "user", content: "Name a color." }];
  const chat = await ask(`${url}/v1/chat/completions`, {
    model: "tuned",
    messages,
    max_tokens: 4,
    temperature: 0,
  });
  expect(chat.status).toBe(200); // by the template that the run was trained with
  const refused = await ask(`${url}/v1/chat/completions`, { model: "model", messages });
  expect(await refused.text()).toContain("the model has no chat template");
  const long = await ask(`${url}/v1/completions`, {
    model: "model",
    prompt: "the",
    max_tokens: 150,
    stream: true,
    temperature: 0,
  });
  child.kill("SIGTERM");
  expect(await long.text()).toEndWith("data: [DONE]\n\n");
  expect(await child.exited).toBe(0);
  const notes = await new Response(child.stderr).text();
  expect(notes).toContain("model: no chat template\ntuned: template alpaca\n");
  expect(notes).toContain("stopping when the answers in progress are complete; Ctrl-C again ends at once");
}, 60_000);

test("a run alone, with a key from a file", async () => {
  place.write("key.txt", "hidden\n");
  const { child, url } = await started("--model", "lora", "--api-key-file", "key.txt", "--host", "0.0.0.0");
  const address = url.replace("0.0.0.0", "127.0.0.1");
  const wish = { model: "any", prompt: "the", max_tokens: 2 };
  expect((await ask(`${address}/v1/completions`, wish)).status).toBe(401);
  const allowed = await ask(`${address}/v1/completions`, wish, { authorization: "Bearer hidden" });
  expect(((await allowed.json()) as { model: string }).model).toBe("lora");
  child.kill("SIGINT");
  expect(await child.exited).toBe(0);
}, 60_000);

test.each<[string, string[], string, number]>([
  ["no model", [], "serve needs --model", 2],
  [
    "other machines without a key",
    ["--model", "model", "--host", "0.0.0.0"],
    "--host 0.0.0.0 lets other machines in",
    2,
  ],
  [
    "a key that is empty",
    ["--model", "model", "--api-key-file", "empty.txt"],
    "empty.txt is empty; expected an API key",
    2,
  ],
  ["two of one name", ["--model", "model", "--adapter", "model=lora"], "model is served already", 2],
  [
    "an adapter that is not there",
    ["--model", "model", "--adapter", "x=none"],
    "--adapter none: no such folder",
    1,
  ],
  [
    "an address of another machine",
    ["--model", "model", "--host", "203.0.113.1", "--api-key-file", "key.txt"],
    "cannot listen on 203.0.113.1:8000",
    1,
  ],
])(
  "refused: %s",
  async (_, args, message, status) => {
    place.write("empty.txt", "\n");
    place.write("key.txt", "hidden\n");
    const finished = await place.run("serve", "--device", "cpu", ...args);
    expect(finished.stderr).toContain(message);
    expect(finished.status).toBe(status);
  },
  30_000,
);
