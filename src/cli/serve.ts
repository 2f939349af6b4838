// neftune serve: a model, and adapters on it, behind an HTTP interface that OpenAI's clients speak.

import { basename, resolve } from "node:path";
import { UsageError } from "../errors.ts";
import { readText } from "../formats/io.ts";
import type { Device } from "../native/index.ts";
import { modelOption, templateDateOption, templateHelp } from "../options/data.ts";
import { quantizationOptions } from "../options/tuning.ts";
import { openDevice } from "./arguments/device.ts";
import { expectEffects } from "./arguments/effects.ts";
import { type Context, defineCommand } from "./command.ts";
import { withBase } from "./inputs/adapter-base.ts";
import { type CheckedModel, completeModel, findModel } from "./inputs/checked-model.ts";
import { dtypeOption, expectModel } from "./inputs/model-data.ts";
import { contextLengthOption, ServedModel, type ServedModelOptions } from "./inputs/served-model.ts";
import { isLoopback } from "./serve/guard.ts";
import { ModelServer } from "./serve/server.ts";

/** A model's name in requests, and its adapter; null: the base alone. */
interface Entry {
  name: string;
  adapter: string | null;
}

export const serveCommand = defineCommand({
  description:
    "Answers OpenAI's API: /v1/models, /v1/completions (text or token ids, echo, logprobs, streams) and /v1/chat/completions, and beside it /tokenize, /detokenize, /tokenizer_info, /health and /metrics (Prometheus). A chat page is at /. Requests that come together are computed together.\nListens on this machine alone unless --host says otherwise; then an API key is required, from --api-key-file or NEFTUNE_API_KEY. Ctrl-C or SIGTERM ends the server when every request under way has its answer; a second one ends it at once.",
  options: {
    model: modelOption,
    adapter: {
      type: "repeated",
      value: "NAME=DIR",
      help: "serve this PEFT LoRA adapter on the model as NAME, too; may be given several times",
    },
    host: { type: "string", default: "127.0.0.1", value: "ADDRESS", help: "address to listen on" },
    port: {
      type: "int",
      default: 8000,
      min: 0,
      max: 65535,
      help: "port to listen on; 0 takes one that is free",
    },
    "api-key-file": {
      type: "path",
      value: "FILE",
      help: "file that holds the key that clients have to give",
    },
    "max-sequences": {
      type: "int",
      default: 16,
      min: 1,
      max: 1024,
      help: "sequences that advance together, for each model; others wait",
    },
    "max-queue": {
      type: "int",
      default: 512,
      min: 0,
      help: "sequences that may wait; a request with more is refused (status 429)",
    },
    timeout: {
      type: "int",
      default: 600,
      min: 1,
      value: "SECONDS",
      help: "most time that one request may take",
    },
    "context-length": contextLengthOption,
    "prompt-template": {
      type: "string",
      value: "NAME|FILE",
      help: `template of conversations: ${templateHelp}. Default: the one that the run was trained with, else the tokenizer's chat template`,
    },
    "template-date": templateDateOption,
    dtype: dtypeOption,
    ...quantizationOptions,
  },
  examples: [
    ["neftune serve --model runs/mine", "a run with its base model; chat at http://127.0.0.1:8000"],
    [
      "neftune serve --model llama2-7b --adapter plain=runs/plain --adapter noisy=runs/noisy",
      "a base and two adapters, chosen by model in requests",
    ],
    [
      "neftune serve --model runs/mine --host 0.0.0.0 --api-key-file key.txt",
      "for other machines, with a key",
    ],
  ],
  interruptible: true,
  async run(given, context) {
    expectModel(given.model, "serve");
    if (given.json) throw new UsageError("serve has no JSON output; its answers are JSON over HTTP");
    expectEffects(quantizationOptions, given, context);
    const key = keyOf(given["api-key-file"], context);
    if (key === null && !isLoopback(given.host))
      throw new UsageError(
        `--host ${given.host} lets other machines in: give a key with --api-key-file or NEFTUNE_API_KEY`,
      );
    const { model, adapter: run = null } = withBase<{ model: string | undefined; adapter?: string }>(
      { model: given.model },
      context,
    );
    const found = await completeModel(await findModel({ model }, "serve", context), { model }, context);
    const entries = entriesOf(found, run, given.adapter ?? []);
    for (const { adapter } of entries)
      if (adapter !== null)
        await findModel({ model, adapter, quantization: given.quantization }, "serve", context);
    const device = openDevice(given, context);
    try {
      const slots = given["max-sequences"];
      const models = openAll(device, found, entries, { ...given, adapter: undefined, slots }, context);
      try {
        await serve(models, key, given, context);
      } finally {
        closeAll(models);
      }
    } finally {
      device.close();
    }
  },
});

/** The models by name: that of a run alone, or the base, and behind it the adapters. Throws UsageError. */
export function entriesOf(
  { label }: Pick<CheckedModel, "label">,
  run: string | null,
  adapters: readonly string[],
): Entry[] {
  const nameOf = (dir: string) => basename(resolve(dir));
  const entries: Entry[] = [{ name: run === null ? label : nameOf(run), adapter: run }];
  for (const text of adapters) {
    const at = text.indexOf("=");
    const [name, dir] = at < 0 ? [nameOf(text), text] : [text.slice(0, at), text.slice(at + 1)];
    if (name === "" || dir === "") throw new UsageError(`--adapter ${text}: expected NAME=DIR`);
    if (entries.some((entry) => entry.name === name))
      throw new UsageError(`--adapter ${text}: ${name} is served already; give it another NAME=`);
    entries.push({ name, adapter: dir });
  }
  return entries;
}

/** All models; the base is loaded once, by the first of them. */
function openAll(
  device: Device,
  found: CheckedModel,
  entries: readonly Entry[],
  options: ServedModelOptions,
  context: Context,
): Map<string, ServedModel> {
  const models = new Map<string, ServedModel>();
  try {
    for (const { name, adapter } of entries) {
      const weightsOf = models.values().next().value;
      const own = { ...options, name, adapter: adapter ?? undefined, weightsOf };
      models.set(name, ServedModel.open(device, found, own, context));
    }
    return models;
  } catch (error) {
    closeAll(models);
    throw error;
  }
}

/** The first last: the others use its weights. */
function closeAll(models: ReadonlyMap<string, ServedModel>): void {
  for (const served of [...models.values()].reverse()) served.close();
}

async function serve(
  models: ReadonlyMap<string, ServedModel>,
  key: string | null,
  values: { host: string; port: number; "max-queue": number; timeout: number },
  context: Context,
): Promise<void> {
  const server = new ModelServer(models, {
    ...{ host: values.host, port: values.port, key },
    maxQueue: values["max-queue"],
    timeoutSeconds: values.timeout,
    note: context.note,
  });
  context.finishFirst?.("when the answers in progress are complete");
  for (const [name, { encoder, template }] of models)
    context.note(`${name}: ${encoder === null ? "no chat template" : `template ${template.option}`}`);
  context.print(`listening on ${server.url}`);
  await new Promise<void>((done) => {
    if (context.signal.aborted) done();
    context.signal.addEventListener("abort", () => done());
  });
  await server.drain();
}

/** The key that clients have to give; null: none. Throws UsageError where it is empty. */
function keyOf(file: string | undefined, { env }: Pick<Context, "env">): string | null {
  const key = file === undefined ? env.NEFTUNE_API_KEY : readText(file).trim();
  if (key === undefined) return null;
  if (key === "") throw new UsageError(`${file ?? "NEFTUNE_API_KEY"} is empty; expected an API key`);
  return key;
}
