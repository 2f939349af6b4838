// Help and progress at the widths that terminals have.

import { expect, test } from "bun:test";
import { commandHelp, mainHelp } from "../../src/cli/arguments/help.ts";
import { commands as entries, loadCommand } from "../../src/cli/commands.ts";
import { rateText } from "../../src/cli/run/lines.ts";
import { progressReporter, samplingParts, stepParts } from "../../src/cli/terminal/progress.ts";
import { displayWidth, fitParts, type LinePart } from "../../src/cli/terminal/text.ts";
import { train } from "../../src/cli/train.ts";
import { quietContext } from "./quiet-context.ts";

const commands = await Promise.all(entries.map(loadCommand));

test.each([40, 60, 80, 100])("help at %d columns: no line is wider, no word is lost", (width) => {
  for (const command of commands) {
    const help = commandHelp(command, width);
    for (const line of help.split("\n")) expect(displayWidth(line)).toBeLessThanOrEqual(width);
    expect(help).not.toContain("(default )");
    const words = help.replaceAll(" \\\n", "\n").split(/\s+/).join(" ");
    for (const [name, spec] of Object.entries(command.options)) {
      expect(words).toContain(`--${name} `);
      // A word that is wider than its column is broken.
      if (spec.help.split(" ").every((word) => word.length < 30)) expect(words).toContain(spec.help);
    }
    for (const [typed] of command.examples) {
      if (typed.split(" ").every((word) => word.length < 30)) expect(words).toContain(typed);
    }
  }
  const list = mainHelp("0", commands, width);
  for (const line of list.split("\n")) expect(displayWidth(line)).toBeLessThanOrEqual(width);
  for (const { name } of commands) expect(list).toContain(`\n  ${name} `);
});

test("a wrapped example is one command for a shell", () => {
  const [typed] = train.examples[2]!;
  const help = commandHelp(commands.find(({ name }) => name === "train")!, 40);
  const from = help.indexOf("neftune --model ./my-llama");
  const lines = help.slice(from).split("\n");
  const end = lines.findIndex((line) => !line.endsWith("\\"));
  const command = lines.slice(0, end + 1).join("\n");
  const { stdout } = Bun.spawnSync(["sh", "-c", command.replace("neftune", "echo neftune")]);
  expect(stdout.toString().trim()).toBe(typed);
});

const step = {
  ...{ step: 12_345, epoch: 12.3456, loss: 1.5, gradNorm: 1, learningRate: 1.8234e-4, samples: 8 },
  ...{ tokens: 4096, targetTokens: 1024, seconds: 1, tokensPerSecond: 4096, peakMemoryBytes: 1.2e9 },
  neftScale: null,
  skipped: null,
};
const plan = {
  ...{ output: "runs/a", samples: 10, evalSamples: 0, stepsPerEpoch: 100, totalSteps: 100_000 },
  ...{
    microBatches: 1,
    ranks: 1,
    warmupSteps: 3,
    startStep: 0,
    resumedFrom: null,
    trainedParameters: 1,
    plannedMemoryBytes: 1,
  },
};
const parts = stepParts({ step, plan, loss: 1.23456, tokensPerSecond: 12_345.6, secondsLeft: 123_456 });

test.each([
  [39, "step 12345/100000  loss 1.2346"],
  [59, "step 12345/100000  loss 1.2346  34 h 17 min left"],
  [79, "step 12345/100000  loss 1.2346  lr 1.82e-4  12,346 tokens/s  34 h 17 min left"],
  [
    119,
    "step 12345/100000  epoch 12.35  loss 1.2346  lr 1.82e-4  12,346 tokens/s  34 h 17 min left  1.1 GiB",
  ],
])("progress in %d columns", (width, line) => {
  expect(fitParts(parts, width)).toBe(line);
});

test("several ranks: how much of a step's time goes to exchanges, smoothed like the speed", () => {
  const said: string[] = [];
  const { onStep } = progressReporter(quietContext({ note: (line) => said.push(line) }));
  onStep!({ ...step, step: 1, seconds: 9, communicationSeconds: 9 }, plan);
  for (const communicationSeconds of [0.25, 0.35])
    onStep!({ ...step, step: 2, seconds: 1, communicationSeconds }, { ...plan, totalSteps: 2 });
  onStep!({ ...step, step: 3, seconds: 1, communicationSeconds: 0.85 }, { ...plan, totalSteps: 3 });
  onStep!({ ...step, step: 4, seconds: 3.5, communicationSeconds: 0.4 }, { ...plan, totalSteps: 4 });
  onStep!(step, { ...plan, totalSteps: step.step });
  expect(said.map((line) => /\S+ % in exchanges/.exec(line)?.[0])).toEqual([
    "100 % in exchanges",
    "25 % in exchanges",
    "35 % in exchanges",
    "40 % in exchanges",
    "32 % in exchanges",
    undefined,
  ]);
});

test.each([
  [99, "step 12345/100000  epoch 12.35  loss 1.2346  lr 1.82e-4  12,346 tokens/s  34 h 17 min left"],
  [
    110,
    "step 12345/100000  epoch 12.35  loss 1.2346  lr 1.82e-4  12,346 tokens/s  27 % in exchanges  34 h 17 min left",
  ],
])("exchanges in %d columns: they go before the epoch, after the memory", (width, line) => {
  const shown = { step, plan, loss: 1.23456, tokensPerSecond: 12_345.6, secondsLeft: 123_456 };
  expect(fitParts(stepParts({ ...shown, exchangeShare: 0.268 }), width)).toBe(line);
});

test("a step without targets runs nothing, and leaves the speed as it was", () => {
  const said: string[] = [];
  const { onStep } = progressReporter(quietContext({ note: (line) => said.push(line) }));
  onStep!({ ...step, step: 1, tokensPerSecond: 9 }, { ...plan, totalSteps: 1 });
  const empty = { targetTokens: 0, loss: null, seconds: 1e-3, tokensPerSecond: 1e6 };
  onStep!({ ...step, ...empty, step: 2 }, { ...plan, totalSteps: 2 });
  expect(said.map((line) => /\S+ tokens\/s/.exec(line)?.[0])).toEqual(["9 tokens/s", "9 tokens/s"]);
});

test("one of several runs is named in front of what it says", () => {
  const said: string[] = [];
  const drawn: string[] = [];
  const draw = (text: string | readonly LinePart[]) => {
    drawn.push(typeof text === "string" ? text : fitParts(text, 20));
  };
  const { onStep, onEvalProgress } = progressReporter(
    quietContext({ note: (line) => said.push(line), draw }),
    "a-1",
  );
  onStep!({ ...step, step: 1 }, plan);
  onEvalProgress!(5, 2000);
  expect(said).toEqual([expect.stringMatching(/^a-1: step 1\/100000 {2}epoch /)]);
  // Its name stays, however narrow the terminal is.
  expect(drawn).toEqual(["a-1: evalu…0 samples"]);
});

test("answers to --sample-prompts, token by token", () => {
  const prompts = [1, 2, 3].map(() => ({ ids: new Int32Array(1), text: "", references: [] }));
  expect(fitParts(samplingParts({ prompts, maxNewTokens: 64 }, 9), 79)).toBe(
    "answering 3 prompts  token 9 of up to 64",
  );
});

test("learning rates", () => {
  expect([0, 2e-4, 1.8234e-4, 0.02, 1, 5e-5].map(rateText)).toEqual([
    ...["0", "2e-4", "1.82e-4", "0.02", "1", "5e-5"],
  ]);
});
