// Programs that people have ask a served model: openai's client for Python, and EleutherAI's lm_eval, whose numbers are
// those of its own evaluation on Transformers (test/golden/lm-eval.json).
//
// openai comes from PyPI, once, into .toolchain/clients. lm_eval with what it needs is half a gigabyte: it runs in the
// Python that NEFTUNE_LM_EVAL_PYTHON names (pip install "lm_eval[api]==0.4.13" transformers).

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ServedModel } from "../../src/cli/inputs/served-model.ts";
import { ModelServer } from "../../src/cli/serve/server.ts";
import { Device } from "../../src/native/index.ts";
import { folder } from "../golden/support.ts";
import { spawned } from "../spawned.ts";
import { makeTinyModel, openTiny, tinyAdapter, tinyOptions } from "./tiny-served.ts";

const OPENAI = "openai==3.57.0";

/** A Python that has openai; null, saying so, where PyPI cannot be reached. */
async function openaiPython(): Promise<string | null> {
  const venv = join(import.meta.dir, "..", "..", ".toolchain", "clients");
  const python = join(venv, "bin", "python");
  const made = join(venv, OPENAI);
  if (existsSync(made)) return python;
  rmSync(venv, { recursive: true, force: true });
  for (const command of [
    ["python3", "-m", "venv", venv],
    [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--retries", "1", OPENAI],
  ]) {
    const child = Bun.spawn(command, { stdout: "ignore", stderr: "ignore", timeout: 90_000 });
    if ((await child.exited) === 0) continue;
    console.log(
      `openai's client is not tested: ${command.slice(0, 4).join(" ")} … failed; can PyPI be reached?`,
    );
    return null;
  }
  writeFileSync(made, "");
  return python;
}

const openai = await openaiPython();
const lmEval = process.env.NEFTUNE_LM_EVAL_PYTHON;
if (lmEval === undefined)
  console.log("lm_eval is not tested: NEFTUNE_LM_EVAL_PYTHON names no Python that has it");

const root = mkdtempSync(join(tmpdir(), "clients-"));
const device = Device.open({ threads: 2 });
const modelDir = makeTinyModel(join(root, "model"));
const models = new Map<string, ServedModel>();
let server: ModelServer;
beforeAll(() => {
  models.set("base", openTiny(device, modelDir));
  models.set("tuned", openTiny(device, modelDir, tinyAdapter));
  server = new ModelServer(models, { ...tinyOptions, key: "hidden" });
});
afterAll(async () => {
  await server.drain();
  for (const served of models.values()) served.close();
  device.close();
  rmSync(root, { recursive: true });
});

async function run(command: string[], env: Record<string, string> = {}): Promise<string> {
  const { status, stdout, stderr } = await spawned(command, { cwd: root, env: { ...process.env, ...env } });
  expect(status, stderr.slice(-4000)).toBe(0);
  return stdout;
}

describe.skipIf(openai === null)("openai", () => {
  test("models, completions and chats, whole and streamed, with errors of its own classes", async () => {
    writeFileSync(
      join(root, "client.py"),
      `import json, sys, openai
c = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="hidden")
talk = dict(model="tuned", messages=[{"role": "user", "content": "hello"}], max_tokens=5, temperature=0)
text = dict(model="base", prompt="the cat", max_tokens=5, temperature=0)
whole = c.chat.completions.create(**talk, logprobs=True, top_logprobs=2)
def refusal(client, **wish):
    try: client.completions.create(**wish)
    except openai.APIStatusError as error: return type(error).__name__
print(json.dumps({
    "models": [m.id for m in c.models.list()],
    "chat": whole.choices[0].message.content,
    "usage": whole.usage.completion_tokens,
    "top": len(whole.choices[0].logprobs.content[0].top_logprobs),
    "chat_parts": [p.choices[0].delta.content for p in c.chat.completions.create(**talk, stream=True)],
    "text": c.completions.create(**text).choices[0].text,
    "text_parts": [p.choices[0].text for p in c.completions.create(**text, stream=True)],
    "echo": c.completions.create(model="base", prompt=[1, 2, 3], echo=True, logprobs=1, max_tokens=1).choices[0].logprobs.token_logprobs,
    "refusals": [
        refusal(c, **{**text, "model": "gpt-4"}),
        refusal(c, **text, logit_bias={"5": 1}),
        refusal(openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="wrong"), **text),
    ],
}))
`,
    );
    const got = JSON.parse(await run([openai!, "client.py", server.url]));
    expect(got.models).toEqual(["base", "tuned"]);
    expect([got.usage, got.top]).toEqual([5, 2]);
    expect(got.chat_parts.join("")).toBe(got.chat);
    expect(got.text_parts.join("")).toBe(got.text);
    expect(got.echo).toEqual([null, ...Array.from({ length: 3 }, () => expect.any(Number))]);
    expect(got.refusals).toEqual(["NotFoundError", "BadRequestError", "AuthenticationError"]);
  }, 60_000);
});

const questions = [
  { q: "What is 2 + 2?", choices: ["3", "4", "five"], gold: 1 },
  { q: "The colour of grass is", choices: ["green", "blue", "red"], gold: 0 },
  { q: "Is ice cold?", choices: ["yes", "no", "maybe so"], gold: 0 },
];
const common = {
  dataset_path: "json",
  dataset_kwargs: { data_files: { test: "tasks/toy.jsonl" } },
  test_split: "test",
};
const question = { doc_to_text: "Question: {{q}}\nAnswer:" };
const tasks = {
  toy_mc: {
    ...{ ...common, ...question, output_type: "multiple_choice", doc_to_choice: "{{choices}}" },
    ...{ doc_to_target: "{{gold}}", metric_list: [{ metric: "acc" }, { metric: "acc_norm" }] },
  },
  toy_gen: {
    ...{ ...common, ...question, output_type: "generate_until", doc_to_target: "{{choices[gold]}}" },
    ...{ generation_kwargs: { until: ["\n"], max_gen_toks: 8 }, metric_list: [{ metric: "exact_match" }] },
  },
  toy_ppl: {
    ...{ ...common, output_type: "loglikelihood_rolling", doc_to_text: "", doc_to_target: "{{q}}" },
    metric_list: [{ metric: "word_perplexity" }],
  },
};

describe.skipIf(lmEval === undefined)("lm_eval", () => {
  test("multiple choice, generation and perplexity, as on Transformers", async () => {
    mkdirSync(join(root, "tasks"));
    writeFileSync(join(root, "tasks", "toy.jsonl"), questions.map((row) => JSON.stringify(row)).join("\n"));
    for (const [task, fields] of Object.entries(tasks))
      writeFileSync(join(root, "tasks", `${task}.yaml`), JSON.stringify({ task, ...fields })); // JSON is YAML
    const model = {
      ...{ model: "base", base_url: `${server.url}/v1/completions`, tokenizer: modelDir, max_length: 128 },
      ...{ tokenizer_backend: "huggingface", num_concurrent: 2, add_bos_token: "True" },
    };
    const args = Object.entries(model).map(([name, value]) => `${name}=${value}`);
    await run(
      [
        ...[lmEval!, "-m", "lm_eval", "--model", "local-completions", "--model_args", args.join(",")],
        ...["--batch_size", "4", "--include_path", "tasks", "--tasks", Object.keys(tasks).join(",")],
        ...["--output_path", "out", "--log_samples"],
      ],
      { OPENAI_API_KEY: "hidden" },
    );
    const [dir = ""] = readdirSync(join(root, "out"));
    const answers = <T>(task: string): T[] => {
      const name = readdirSync(join(root, "out", dir)).find((one) => one.startsWith(`samples_${task}_`))!;
      const lines = readFileSync(join(root, "out", dir, name), "utf8")
        .trim()
        .split("\n");
      const samples = lines.map((line) => JSON.parse(line) as { doc_id: number; resps: T });
      return samples.sort((a, b) => a.doc_id - b.doc_id).map(({ resps }) => resps);
    };
    const golden = JSON.parse(readFileSync(join(folder, "lm-eval.json"), "utf8"));
    const isClose = (got: unknown, want: number) =>
      expect(Math.abs(Number(got) / want - 1)).toBeLessThan(1e-4);
    for (const [i, choices] of answers<[[logprob: string, isGreedy: string]][]>("toy_mc").entries()) {
      for (const [k, [answer]] of choices.entries()) {
        isClose(answer[0], golden.toy_mc[i][k][0]);
        expect(answer[1] === "True").toBe(golden.toy_mc[i][k][1]);
      }
    }
    expect(answers<[[string]]>("toy_gen").map(([[text]]) => text)).toEqual(golden.toy_gen);
    for (const [i, [[sum]]] of answers<[[string]]>("toy_ppl").entries()) isClose(sum, golden.toy_ppl[i]);
  }, 180_000);
});
