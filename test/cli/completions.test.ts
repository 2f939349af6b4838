import { describe, expect, test } from "bun:test";
import {
  alpacaEvalRows,
  type Completion,
  completionNotes,
  completionOf,
  rowsText,
} from "../../src/cli/completions.ts";

const asked = { ids: Int32Array.of(1), text: "", template: null, isDated: false };
const completed = (row: unknown, ids: number[] = [7, 2], columns?: Record<string, string>) =>
  completionOf({ ...asked, row, text: "rendered" }, columns, ids, "out", [2, 3]);

describe("a completion", () => {
  test.each([
    [{ instruction: "Add.", input: "1 2", output: "3" }, "Add.\n\n1 2"],
    [{ instruction: "Add.", input: "" }, "Add."],
    [{ prompt: "Once", completion: "upon" }, "Once"],
    [{ prompt: "Once" }, "Once"],
    [
      {
        messages: [
          ...["system", "user", "assistant", "user", "assistant"].map((role, i) => ({
            role,
            content: `m${i}`,
          })),
        ],
      },
      "m3",
    ],
    [{ conversations: [{ from: "human", value: "Hi" }] }, "Hi"],
    [{ text: "plain" }, "rendered"],
    [{ input_ids: [1, 2] }, "rendered"],
  ])("%j asks %j", (row, instruction) => {
    expect(completed(row)).toEqual({
      ...{ instruction, prompt: "rendered", output: "out", output_ids: [7, 2], finish_reason: "stop" },
    });
  });

  test("of columns with other names", () => {
    expect(completed({ question: "Why?" }, [7], { instruction: "question" }).instruction).toBe("Why?");
  });

  test("ends where the model or the limit said", () => {
    const reason = (ids: number[]) => completed({ prompt: "a" }, ids).finish_reason;
    expect([reason([7, 2]), reason([3]), reason([7, 7]), reason([2, 7])]).toEqual([
      ...(["stop", "stop", "length", "length"] as const),
    ]);
  });
});

const some = (output: string, finish_reason: "stop" | "length"): Completion => ({
  ...{ instruction: "i", prompt: "p", output, output_ids: [1], finish_reason },
});

describe("files", () => {
  const rows = [some("a\nb\u202e", "stop"), some("", "length")];

  test(".json and .jsonl have one line per row", () => {
    const array = rowsText("x.json", rows);
    expect(array.split("\n")).toHaveLength(rows.length + 3);
    expect(JSON.parse(array)).toEqual(rows);
    const lines = rowsText("x.jsonl", rows).trimEnd().split("\n");
    expect(lines.map((line) => JSON.parse(line))).toEqual(rows);
    expect(array).not.toContain("\u202e");
    expect(rowsText("x.json", [])).toBe("[]\n");
  });

  test("AlpacaEval's", () => {
    const own = [{ dataset: "own" }, {}].map((row) => ({ ...asked, row }));
    expect(alpacaEvalRows(own, rows, "g", "d")).toEqual([
      { dataset: "own", instruction: "i", output: "a\nb\u202e", generator: "g" },
      { dataset: "d", instruction: "i", output: "", generator: "g" },
    ]);
  });
});

test("how many were cut, and how many are empty, is said", () => {
  const three = [some("a", "length"), some("b", "length"), some(" ", "stop")];
  expect(completionNotes(three, 9, true)).toEqual([
    "2 of 3 completions were cut at --max-new-tokens 9",
    "1 of 3 completions is empty",
  ]);
  expect(completionNotes([some("", "length")], 9, true)).toEqual([
    "the completion was cut at --max-new-tokens 9",
    "the completion is empty",
  ]);
  expect(completionNotes([some("", "stop")], 9, false)).toEqual([]);
  expect(completionNotes([some("a", "stop")], 9, true)).toEqual([]);
});
