// Fields that change what a row means: each is used or refused by name.

import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import type { EncoderOptions } from "../../src/data/encode.ts";
import { parseRow } from "../../src/data/formats.ts";
import { loadDataset } from "../../src/data/load-dataset.ts";
import { previewParts } from "../../src/data/preview.ts";
import { Tokenizer } from "../../src/data/tokenizer.ts";
import { encoder, jinja } from "./encoders.ts";
import { byteFolder, folderOf, llamaFolder } from "./tiny-tokenizer.ts";

const llama = Tokenizer.load(llamaFolder());
const bytes = Tokenizer.load(byteFolder());

/** The trained stretches of a row's text. */
function trained(tokenizer: Tokenizer, row: unknown, options: Partial<EncoderOptions> = {}): string[] {
  const sample = encoder(tokenizer, options).encode(row);
  return previewParts(tokenizer, sample)
    .filter((part) => part.trained)
    .map((part) => part.text);
}
const user = (content: unknown) => ({ role: "user", content });
const assistant = (content: unknown, more: object = {}) => ({ role: "assistant", content, ...more });
/** Tool calls and results in XML, the tools first; reasoning in front of an answer. */
const TOOLS = jinja(
  [
    "{{ bos_token }}{% if tools %}{{ '<tools>' + (tools | tojson) + '</tools>' }}{% endif %}",
    "{% for m in messages %}{{ '[' + m.role + ']' }}",
    "{% if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}",
    "{% if m.content %}{{ m.content }}{% endif %}",
    "{% for call in m.tool_calls or [] %}{{ '<call>' + call.function.name + ':' + (call.function.arguments | tojson) + '</call>' }}{% endfor %}",
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}",
  ].join(""),
);

describe("a system turn from a field beside the row", () => {
  test("stands before the first turn, of every format that a chat template renders", () => {
    const words = "<|start_header_id|>system<|end_header_id|>\n\nthe mat<|eot_id|>";
    const text = (row: object, options: Partial<EncoderOptions> = {}) =>
      encoder(bytes, options).encode({ system: "the mat", ...row }).text;
    expect(text({ messages: [user("a"), assistant("b")] })).toContain(words);
    expect(
      text({
        conversations: [
          { from: "human", value: "a" },
          { from: "gpt", value: "b" },
        ],
      }),
    ).toContain(words);
    const chat = { template: { kind: "chat" } } as const;
    expect(text({ instruction: "a", output: "b" }, chat)).toContain(words);
    expect(text({ prompt: "a", completion: "b" }, chat)).toContain(words);
    expect(encoder(bytes, chat).encodePrompt({ system: "the mat", prompt: "a" }).text).toContain(words);
    const twice = { messages: [{ role: "system", content: "the mat" }, user("a"), assistant("b")] };
    expect(text(twice).split(words).length).toBe(2);
    expect(() =>
      text({ messages: [{ role: "system", content: "other" }, user("a"), assistant("b")] }),
    ).toThrow(/field "system": the conversation has a system turn of its own/);
  });

  test("is refused where there is no place for it; an empty one is none", () => {
    const row = { instruction: "a", output: "b" };
    expect(() => encoder(llama).encode({ ...row, system: "s" })).toThrow(
      /the alpaca template has no place for a system turn; .*--prompt-template/,
    );
    expect(() => encoder(llama).encode({ prompt: "a", completion: "b", system: "s" })).toThrow(
      /no place for a system/,
    );
    expect(encoder(llama).encode({ ...row, system: "" }).ids).toEqual(encoder(llama).encode(row).ids);
    const deaf = jinja(
      "{% for m in messages if m.role != 'system' %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}",
    );
    const rows = [user("a"), assistant("b")];
    expect(() => encoder(llama, { template: deaf }).encode({ messages: rows, system: "s" })).toThrow(
      /turn 1: the chat template \(test\.jinja\) leaves out this system turn/,
    );
    expect(() => encoder(llama, { template: deaf }).encodePrompt({ messages: rows, system: "s" })).toThrow(
      /leaves out this system turn/,
    );
    expect(() => encoder(llama).encode({ messages: rows, system: 7 })).toThrow(
      /field "system".*the number 7/,
    );
  });
});

describe("history", () => {
  const row = {
    instruction: "the cat",
    input: "the mat",
    output: "sat",
    history: [
      ["hello", "world"],
      ["one", "two"],
    ],
  };

  test("is earlier turns, whose answers are trained, too", () => {
    const words = "<|eot_id|>";
    const chat = { template: { kind: "chat" } } as const;
    expect(trained(bytes, row, chat)).toEqual([`world${words}`, `two${words}`, `sat${words}`]);
    expect(trained(bytes, row, { ...chat, lossOn: "last-answer" })).toEqual([`sat${words}`]);
    expect(encoder(bytes, chat).encodePrompt(row).text).toContain("world");
  });

  test("with Alpaca's prompt, the task is told once and each answer ends in EOS", () => {
    const { text, ids } = encoder(llama).encode(row);
    expect(text).toStartWith("Below is an instruction that describes a task, paired with an input");
    expect(text.split("Below is").length).toBe(2);
    expect(text).toEndWith(
      "request.\n\n### Instruction:\nhello\n\n### Response:world</s>\n\n### Instruction:\none\n\n### Response:two</s>\n\n### Instruction:\nthe cat\n\n### Input:\nthe mat\n\n### Response:sat",
    );
    expect(Array.from(ids).filter((id) => id === 2).length).toBe(3);
    expect(trained(llama, row)).toEqual(["world</s>", "two</s>", "sat</s>"]);
    expect(trained(llama, row, { lossOn: "last-answer" })).toEqual(["sat</s>"]);
    const prompt = encoder(llama).encodePrompt(row);
    expect(Array.from(ids.slice(0, prompt.ids.length))).toEqual(Array.from(prompt.ids));
    expect(encoder(llama).encode({ ...row, history: [] }).text).not.toContain("</s>");
  });

  test("is pairs of texts", () => {
    for (const history of [["hello"], [["a"]], [["a", "b", "c"]], [["a", null]], "x", 5]) {
      expect(() => parseRow({ ...row, history }, { vocabSize: 9 })).toThrow(/history/);
    }
    expect(parseRow({ ...row, history: '[["a","b"]]' }, { vocabSize: 9 })).toMatchObject({
      history: [["a", "b"]],
    });
  });
});

describe("preferences", () => {
  const parse = (row: object, forGeneration = false) => parseRow(row, { vocabSize: 9, forGeneration });

  test("an answer that is not to be learned is refused by name", () => {
    const answer = { prompt: "q", completion: "a" };
    for (const name of ["label", "kto_tag"]) {
      const wanted = { ...answer, [name]: true };
      expect(parse(wanted)).toMatchObject({ completion: "a" });
      expect(() => parse({ ...answer, [name]: false })).toThrow(
        `field "${name}": false marks an answer to avoid, not one to learn`,
      );
      // Its prompt is as good as any other.
      expect(parse({ ...answer, [name]: false }, true)).toMatchObject({ prompt: "q" });
    }
    expect(() => parse({ messages: [user("q"), assistant("a")], label: false })).toThrow("not one to learn");
    expect(parse({ text: "a", label: false })).toMatchObject({ text: "a" });
    expect(parse({ ...answer, label: 0 })).toMatchObject({ completion: "a" });
  });

  test("pairs are told which field to name", () => {
    const pair = { chosen: "a", rejected: "b" };
    expect(() => parse({ prompt: "q", ...pair })).toThrow(
      '"completion" is missing; --columns completion=chosen',
    );
    expect(() => parse({ prompt: [user("q")], ...pair })).toThrow("; --columns completion=chosen trains on");
    expect(() => parse({ instruction: "q", ...pair })).toThrow("; --columns output=chosen");
    expect(() => parse(pair)).toThrow("got chosen, rejected; --columns messages=chosen");
    expect(() => parse({ prompt: "q" })).toThrow(/"completion" is missing$/);
  });
});

describe("weights", () => {
  const row = (more: object) => ({
    messages: [user("hello"), assistant("world", more), user("the"), assistant("cat")],
  });

  test("a turn of weight 0 is no target, with --loss-on all neither", () => {
    for (const more of [{ weight: 0 }, { train: false }, { loss: false }, { weight: 1, train: false }]) {
      expect(trained(bytes, row(more))).toEqual(["cat<|eot_id|>"]);
      const all = trained(bytes, row(more), { lossOn: "all" });
      expect(all.length).toBe(2);
      expect(all.join("")).not.toContain("world");
      expect(all.join("")).toContain("hello");
    }
    const asked = { messages: [{ ...user("hello"), weight: 0 }, assistant("world")] };
    expect(trained(bytes, asked)).toEqual(["world<|eot_id|>"]);
    expect(trained(bytes, asked, { lossOn: "all" }).join("")).not.toContain("hello");
    for (const more of [{}, { weight: 1 }, { train: true }, { loss: true }, { weight: null }]) {
      expect(trained(bytes, row(more))).toEqual(["world<|eot_id|>", "cat<|eot_id|>"]);
    }
    const shared = {
      conversations: [
        { from: "human", value: "a" },
        { from: "gpt", value: "b", weight: 0 },
      ],
    };
    expect(trained(bytes, shared)).toEqual([]);
  });

  test("other weights are refused", () => {
    for (const more of [{ weight: 0.5 }, { weight: "0" }, { weight: true }, { weight: -1 }]) {
      expect(() => encoder(bytes).encode(row(more))).toThrow(/messages\[1\]\.weight: expected 0 or 1/);
    }
    expect(() => encoder(bytes).encode(row({ train: "no" }))).toThrow(
      /messages\[1\]\.train: expected true or false/,
    );
    expect(() => encoder(bytes).encode(row({ train_detail: [] }))).toThrow(
      /messages\[1\]\.train_detail cannot be used/,
    );
  });
});

describe("tools and reasoning", () => {
  const call = { type: "function", function: { name: "add", arguments: { a: 1 } } };
  const tools = [{ type: "function", function: { name: "add" } }];
  const messages = [
    user("the sum"),
    assistant("", { tool_calls: [call], reasoning_content: "use add" }),
    { role: "tool", content: "3", name: "add" },
    assistant("three"),
  ];
  const answers = ['<think>use add</think><call>add:{"a": 1}</call></s>', "three</s>"];

  test("go to the template as they are; the target is what it makes of the whole turn", () => {
    const { text } = encoder(llama, { template: TOOLS }).encode({ messages, tools });
    expect(text).toStartWith(
      '<s><tools>[{"type": "function", "function": {"name": "add"}}]</tools>[user]the sum</s>',
    );
    expect(trained(llama, { messages, tools }, { template: TOOLS })).toEqual(answers);
  });

  test("may be JSON text, null beside a call, or under LLaMA-Factory's names", () => {
    const same = encoder(llama, { template: TOOLS }).encode({ messages, tools }).ids;
    const ids = (row: unknown) => encoder(llama, { template: TOOLS }).encode(row).ids;
    expect(ids({ messages, tools: JSON.stringify(tools) })).toEqual(same);
    expect(ids({ messages: JSON.stringify(messages), tools })).toEqual(same);
    const [asked, called, ...rest] = messages;
    const asText = { ...called, tool_calls: JSON.stringify([call]) };
    expect(ids({ messages: [asked, asText, ...rest], tools })).toEqual(same);
    expect(ids({ messages: [asked, { ...called, content: null }, ...rest], tools })).toEqual(same);
    const conversations = [
      { from: "human", value: "the sum" },
      { from: "function_call", value: '{"name": "add", "arguments": {"a": 1}}' },
      { from: "observation", value: "3" },
      { from: "gpt", value: "three" },
    ];
    expect(trained(llama, { conversations, tools }, { template: TOOLS })).toEqual([
      answers[0]!.replace(/<think>.*<\/think>/, ""),
      answers[1]!,
    ]);
    const broken = [
      { from: "human", value: "a" },
      { from: "function_call", value: "add(1)" },
    ];
    expect(() => ids({ conversations: broken })).toThrow(
      /conversations\[1\]\.value: expected a function call as JSON/,
    );
    expect(() => ids({ messages, tools: "add" })).toThrow(/field "tools": expected a list of tools/);
  });

  test("are refused by name where the template has no place for them", () => {
    const plain = { template: { kind: "llama3" } } as const;
    const row = { messages: [user("a"), assistant("b")] };
    expect(() => encoder(bytes, plain).encode({ ...row, tools })).toThrow(
      /field "tools": the chat template \(llama3\)/,
    );
    expect(() => encoder(bytes).encode({ messages: messages.slice(0, 2) })).toThrow(
      /turn 2: .* no place for tool_calls/,
    );
    const reasoned = { messages: [user("a"), assistant("b", { reasoning_content: "c" })] };
    expect(() => encoder(bytes).encode(reasoned)).toThrow(/no place for reasoning_content/);
    expect(() => encoder(llama).encode({ instruction: "a", output: "b", tools })).toThrow(
      /no place for tools/,
    );
    const alpaca = { template: { kind: "alpaca" } } as const;
    expect(() => encoder(llama, alpaca).encode(reasoned)).toThrow(/no place for reasoning_content/);
    expect(() =>
      encoder(bytes, plain).encode({ messages: [user("a"), { role: "tool", content: "3" }] }),
    ).toThrow(/turns are those of system, user and assistant/);
    const old = { messages: [user("a"), assistant("", { function_call: { name: "f" } })] };
    expect(() => encoder(bytes).encode(old)).toThrow(
      /messages\[1\]\.function_call cannot be used; write it as tool_calls/,
    );
  });

  test("special text in them is text", () => {
    const nasty = assistant("</s>", {
      tool_calls: [{ function: { name: "a</s>b", arguments: { "</s>": "<s>" } } }],
    });
    const { ids, text } = encoder(llama, { template: TOOLS }).encode({
      messages: [user("a"), nasty],
      tools: ["</s>"],
    });
    expect(text).toContain('<call>a</s>b:{"</s>": "<s>"}</call>');
    expect(Array.from(ids).filter((id) => id < 3)).toEqual([1, 2, 2]);
  });
});

describe("content in parts", () => {
  test("of text is joined; other parts are refused", () => {
    const parts = [
      { type: "text", text: "hello " },
      { type: "text", text: "world" },
    ];
    const joined = encoder(bytes).encode({ messages: [user("hello world"), assistant("a")] });
    expect(
      encoder(bytes).encode({ messages: [user(parts), assistant([{ type: "text", text: "a" }])] }),
    ).toEqual(joined);
    const image = [{ type: "image_url", image_url: { url: "x" } }];
    expect(() => encoder(bytes).encode({ messages: [user(image)] })).toThrow(
      /messages\[0\]\.content\[0\]: expected a part of type text, got the string "image_url"/,
    );
    expect(() => encoder(bytes).encode({ messages: [user(["a"])] })).toThrow(
      /content\[0\]: expected a part of type text/,
    );
    expect(() => encoder(bytes).encode({ messages: [user([{ type: "text", text: 1 }])] })).toThrow(
      /content\[0\]/,
    );
  });
});

describe("prompt and completion as messages", () => {
  const prompt = [user("hello"), assistant("world"), user("the")];
  const completion = [assistant("cat")];

  test("are one conversation; the completion's turns are the targets", () => {
    const row = { prompt, completion };
    expect(encoder(bytes).encode(row).ids).toEqual(
      encoder(bytes).encode({ messages: [...prompt, ...completion] }).ids,
    );
    expect(trained(bytes, row)).toEqual(["cat<|eot_id|>"]);
    expect(encoder(bytes).encodePrompt(row)).toEqual(encoder(bytes).encodePrompt({ messages: prompt }));
    expect(encoder(bytes).encodePrompt({ prompt })).toEqual(
      encoder(bytes).encodePrompt({ messages: prompt }),
    );
    expect(trained(bytes, { prompt: [user("a")], completion: "b" })).toEqual(["b<|eot_id|>"]);
    expect(() => encoder(bytes).encode({ prompt })).toThrow(/field "completion" is missing/);
    expect(() => encoder(bytes).encode({ prompt, completion: [{ role: "x" }] })).toThrow(
      /completion\[0\]\.role/,
    );
  });
});

describe("--loss-on", () => {
  test("answers, the last answer, or all", () => {
    const row = { messages: [user("hello"), assistant("world"), user("the"), assistant("cat")] };
    expect(trained(bytes, row, { lossOn: "last-answer" })).toEqual(["cat<|eot_id|>"]);
    const all = encoder(bytes, { lossOn: "all" }).encode(row);
    expect(all.labels).toEqual(all.ids);
    const pair = encoder(llama, { lossOn: "all" }).encode({ prompt: "hello", completion: " world" });
    expect(pair.labels).toEqual(pair.ids);
    const skipped = {
      messages: [user("hello"), assistant("world"), user("the"), assistant("cat", { weight: 0 })],
    };
    expect(trained(bytes, skipped, { lossOn: "last-answer" })).toEqual([]);
    const tokens = { input_ids: [5, 6], labels: [-100, 6] };
    expect(Array.from(encoder(llama, { lossOn: "all" }).encode(tokens).labels)).toEqual([-100, 6]);
  });
});

describe("notes", () => {
  const remarksOf = (row: unknown, options: Partial<EncoderOptions> = {}, tokenizer = llama) =>
    encoder(tokenizer, options).encode(row).notes.remarks;

  test("columns that nothing read are named, fields of messages too", () => {
    const unused = (row: unknown, tokenizer = bytes) => encoder(tokenizer).encode(row).notes.unused;
    expect(
      unused({ instruction: "a", output: "b", input: "", id: 1, source: "x", url: null, text: "t" }),
    ).toEqual(["id", "source", "text"]);
    const messages = [{ ...user("a"), name: "Ann" }, assistant("b", { id: 7 })];
    expect(unused({ messages, prompt: "a" })).toEqual(["prompt", "name of messages", "id of messages"]);
    expect(unused({ messages: [user("a"), assistant("b")], system: "s", tools: [] })).toEqual([]);
  });

  test("an answer that is empty, or of which only the end is left", () => {
    expect(remarksOf({ prompt: "hello", completion: "" })).toEqual(["empty-answer"]);
    expect(remarksOf({ messages: [user("a"), assistant(" \n")] }, {}, bytes)).toEqual(["empty-answer"]);
    const mute = jinja(
      "{% for m in messages %}{{ m.content if m.role == 'user' else '' }}{{ eos_token }}{% endfor %}",
    );
    expect(remarksOf({ messages: [user("a"), assistant("b")] }, { template: mute })).toEqual([
      "changed-answer",
      "end-alone",
    ]);
    expect(remarksOf({ prompt: "hello", completion: " world" })).toEqual([]);
    // without a BOS nothing predicts the first token
    const plain = Tokenizer.load(llamaFolder({ add_bos_token: false }));
    expect(plain.encode("hello")).toHaveLength(1);
    expect(remarksOf({ prompt: "hel", completion: "lo" }, {}, plain)).toEqual(["end-alone"]);
    expect(remarksOf({ prompt: "hel", completion: "lo" })).toEqual([]);
    expect(remarksOf({ prompt: "hel", completion: "lo world" }, {}, plain)).toEqual([]);
  });

  test("an answer that the template leaves out or changes", () => {
    const forgetful = jinja(
      "{{ bos_token }}{% for m in messages %}{{ '[' + m.role + '] ' + m.content.split('</think>')[-1] + eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}",
    );
    const reasoned = { messages: [user("2+2?"), assistant("<think>\nfour\n</think>\n\nIt is 4.")] };
    expect(remarksOf(reasoned, { template: forgetful })).toEqual(["changed-answer"]);
    expect(remarksOf({ messages: [user("2+2?"), assistant("It is 4. ")] }, { template: forgetful })).toEqual(
      [],
    );
  });

  test("a generation prompt that is not what stands before the answer", () => {
    const other = jinja(
      "{{ bos_token }}{% for m in messages %}{{ '[' + m.role + '] ' + m.content + eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '<model>' }}{% endif %}",
    );
    expect(remarksOf({ messages: [user("a"), assistant("b")] }, { template: other })).toEqual([
      "other-prompt",
    ]);
  });

  test("a template without a stop", () => {
    const endless = jinja(
      "{% for m in messages %}{{ ('### Human: ' if m.role == 'user' else '### Assistant: ') + m.content + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '### Assistant: ' }}{% endif %}",
    );
    expect(remarksOf({ messages: [user("a"), assistant("b")] }, { template: endless })).toEqual(["no-stop"]);
  });
});

describe("a data set", () => {
  const lines = (...rows: object[]) => {
    const dir = folderOf({ "x.jsonl": rows.map((row) => JSON.stringify(row)).join("\n") });
    return join(dir, "x.jsonl");
  };

  test("has its rows' notes by their places, also from the cache", async () => {
    const path = lines(
      { prompt: "the", completion: " cat", id: 1 },
      { prompt: "the", completion: "", source: "x" },
      { instruction: "the", output: "" },
    );
    const load = { path, tokenizerDir: llamaFolder(), maxLength: 64, cacheDir: folderOf({}) };
    const expected = [
      {
        path,
        remarks: { "empty-answer": { rows: 2, first: ":2: row 2" } },
        unused: ["id", "source"],
        templates: ["none", "alpaca"],
      },
    ];
    expect([...(await loadDataset({ ...load, workers: 2 })).notes]).toEqual(expected as never);
    expect([...(await loadDataset(load)).notes]).toEqual(expected as never);
  });

  test("of ids alone needs no tokenizer; other rows say what is missing", async () => {
    const load = { tokenizerDir: folderOf({}), maxLength: 64, cacheDir: null, vocabSize: 9 };
    const ids = { input_ids: [5, 6] };
    for (const workers of [0, 2]) {
      expect((await loadDataset({ ...load, workers, path: lines(ids, ids) })).length).toBe(2);
      const mixed = loadDataset({ ...load, workers, path: lines(ids, { text: "a" }) });
      expect(mixed).rejects.toThrow(/no tokenizer\.json there/);
      await mixed.catch(() => {});
    }
  });

  test("is another one with another --loss-on", async () => {
    const load = {
      path: lines({ prompt: "the", completion: " cat" }),
      tokenizerDir: llamaFolder(),
      maxLength: 64,
      cacheDir: null,
    };
    const prints = await Promise.all(
      (["answers", "last-answer", "all"] as const).map(
        async (lossOn) => (await loadDataset({ ...load, lossOn })).fingerprint,
      ),
    );
    expect(new Set(prints).size).toBe(3);
  });
});
