// neftune chat from outside: through a pipe, and in a terminal of 80 columns (tmux).

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { finished } from "../spawned.ts";
import { executable, modelPlace } from "./support.ts";

const place = modelPlace();

const chatWith = (model: string, ...args: string[]) => [
  "chat",
  "--model",
  model,
  "--prompt-template",
  "alpaca",
  "--device",
  "cpu",
  ...args,
];
const chat = (...args: string[]) => chatWith("model", ...args);

async function piped(input: string, ...args: string[]) {
  const child = Bun.spawn([executable, ...args], {
    ...{ cwd: place.cwd, env: place.env, stdout: "pipe", stderr: "pipe" },
    stdin: new TextEncoder().encode(input),
  });
  return await finished(child);
}

describe("through a pipe", () => {
  test("each line is answered on standard output; commands are heard", async () => {
    const lines =
      "Name a color.\n\n/set max-new-tokens 3\nAnd another?\n/save talk.jsonl\n/nonsense\n/help\n";
    const { stdout, stderr, status } = await piped(lines, ...chat("--max-new-tokens", "8"));
    expect(status).toBe(0);
    const { messages } = JSON.parse(place.read("talk.jsonl"));
    expect(messages.map(({ role }: { role: string }) => role)).toEqual([
      "user",
      "assistant",
      "user",
      "assistant",
    ]);
    expect(stdout).toBe(`${messages[1].content}\n${messages[3].content}\n`);
    expect(stderr).toContain("(cut at --max-new-tokens)");
    expect(stderr).toContain("unknown command /nonsense");
    expect(stderr).toContain("\n/help shows this\n/exit ends the chat\n");
    expect(stdout).not.toContain("> ");
  }, 30_000);

  test("a template with no place for a system message says so", async () => {
    const { stdout, stderr, status } = await piped("hello\n", ...chat("--system", "Be brief."));
    expect(stderr).toContain("the alpaca template has no place for a system message");
    expect([stdout, status]).toEqual(["", 0]);
  }, 30_000);

  test("a conversation that is full is told", async () => {
    const { stderr } = await piped(`${"word ".repeat(100)}\n`, ...chat("--context-length", "50"));
    expect(stderr).toMatch(
      /the conversation has \d+ tokens, and --context-length is 50; \/reset begins anew/,
    );
  }, 30_000);

  test.each<[string, string[], string]>([
    ["no model", ["chat"], "chat needs --model"],
    [
      "no template",
      ["chat", "--model", "model"],
      "the model has no chat template; name one with --prompt-template",
    ],
    ["JSON", chat("--json"), "chat has no JSON output"],
  ])("refused: %s", async (_, args, message) => {
    const { stderr, status } = await piped("hello\n", ...args);
    expect(stderr).toContain(message);
    expect(status).toBe(2);
  });
});

const tmux = Bun.which("tmux");
if (tmux === null) console.log("chat in a terminal is not tested: there is no tmux");

describe.skipIf(tmux === null)("in a terminal", () => {
  const socket = `neftune-${process.pid}`;
  const run = async (...args: string[]) => {
    const child = Bun.spawn([tmux!, "-L", socket, "-f", "/dev/null", ...args], {
      env: { ...process.env, ...place.env },
    });
    const text = await new Response(child.stdout).text();
    await child.exited;
    return text;
  };
  const keys = (...names: string[]) => run("send-keys", "-t", "chat", ...names);
  const screen = () => run("capture-pane", "-p", "-t", "chat");
  /** Waits until the screen is as wanted, and gives it. */
  async function shows(wanted: RegExp): Promise<string> {
    for (let waited = 0; ; waited += 50) {
      const text = await screen();
      if (wanted.test(text)) return text;
      if (waited > 20_000) throw new Error(`the screen never showed ${wanted}:\n${text}`);
      await Bun.sleep(50);
    }
  }
  beforeAll(async () => {
    // An answer that lasts for seconds: Ctrl-C comes before its end, however fast the machine is.
    const shape = { ...JSON.parse(place.read("shape.json")), max_position_embeddings: 16384 };
    place.write("long.json", JSON.stringify(shape));
    await place.must(
      ...["init", "--shape", "long.json", "--output", "long", "--tokenizer", "tokenizer", "--dtype", "f32"],
    );
    const options = ["--max-new-tokens", "16000", "--temperature", "0"];
    const command = [executable, ...chatWith("long", ...options)].join(" ");
    const size = ["-x", "80", "-y", "50"];
    await run(
      "new-session",
      "-d",
      ...size,
      "-s",
      "chat",
      "-c",
      place.cwd,
      `${command}; echo "status $?"; sleep 60`,
    );
  });
  afterAll(() => run("kill-server"));

  test("typing, streaming, Ctrl-C in an answer and at the prompt, history, Ctrl-D", async () => {
    await shows(/^>$/m);
    await keys("Name a coler", "BSpace", "BSpace", "or.", "Enter");
    await shows(/^> Name a color\.\n\S/m); // the beginning of an answer
    await keys("C-c");
    const stopped = await shows(/\(stopped\)\n>$/m);
    for (const line of stopped.split("\n")) expect(line.length).toBeLessThanOrEqual(80);
    await keys("/set max-new-tokens 4", "Enter");
    await shows(/max-new-tokens 4\n>$/m);
    // The stopped answer may be long: without it, the context has room.
    await keys("/reset", "Enter");
    await shows(/> \/reset\n(?:.*\n)?>$/m);
    await keys("Up", "Up", "Up", "Enter");
    await shows(/> Name a color\.\n[\s\S]*> Name a color\.\n[\s\S]*\(cut at --max-new-tokens\)\n>\n*$/);
    await keys("/set max-new-tokens 300", "Enter");
    await shows(/max-new-tokens 300\n>\n*$/);
    await keys("/set temperature 1", "Enter");
    await shows(/temperature 1,.*\n.*\n>\n*$/);
    await keys("Name words.", "Enter");
    await shows(/> Name words\.\n[\s\S]*\(cut at --max-new-tokens\)\n>\n*$/);
    // With -J, lines that the terminal itself had to break come whole.
    const whole = (await run("capture-pane", "-p", "-J", "-t", "chat")).split("> Name words.\n")[1]!;
    for (const line of whole.split("\n").filter((line) => line.includes(" ")))
      expect(line.trimEnd().length).toBeLessThanOrEqual(80);
    await keys("half a line", "C-c");
    await shows(/> half a line\^C\n>$/m);
    await keys("C-d");
    await shows(/^status 0$/m);
  }, 60_000);
});
