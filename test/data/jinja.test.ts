import { describe, expect, spyOn, test } from "bun:test";
import { join } from "node:path";
import { ChatTemplate } from "../../src/data/chat-template.ts";
import { Encoder } from "../../src/data/encode.ts";
import { JinjaTemplate, TemplateLimit, threadTime } from "../../src/data/jinja.ts";
import { loadDataset } from "../../src/data/load-dataset.ts";
import { Tokenizer } from "../../src/data/tokenizer.ts";
import { InterruptedError } from "../../src/errors.ts";
import { encoder } from "./encoders.ts";
import { folderOf, llamaFolder } from "./tiny-tokenizer.ts";

function render(source: string, variables: Record<string, unknown> = {}, milliseconds = 5000): string {
  return new JinjaTemplate(source, "test.jinja").render(variables, {}, threadTime() + milliseconds);
}

describe("limits", () => {
  test("range() has 100,000 numbers at most", () => {
    expect(
      render("{{ range(100000) | length }} {{ range(2, 9, 3) | join(',') }} {{ range(3, 0, -1) | join }}"),
    ).toBe("100000 2,5,8 321");
    expect(() => render("{% for i in range(100001) %}{% endfor %}")).toThrow(
      /has a range\(\) of more than 100000 numbers/,
    );
    expect(() => render("{{ range(0, 5, 0) }}")).toThrow(/step of 0/);
  });

  test("texts have 64 MiB at most, however they grow", () => {
    const doubled = (times: number) =>
      `{% set n = namespace(s='0123456789') %}{% for i in range(${times}) %}{% set n.s = n.s + n.s %}{% endfor %}`;
    expect(() => render(`${doubled(40)}{{ n.s }}`)).toThrow(/makes a text of more than 64 MiB/);
    expect(() => render(`${doubled(19)}{% for i in range(100000) %}{{ n.s }}{% endfor %}`)).toThrow(
      /more than 64 MiB/,
    );
    const list =
      "{% set n = namespace(s=[1]) %}{% for i in range(40) %}{% set n.s = n.s + n.s %}{% endfor %}";
    expect(() => render(list)).toThrow(TemplateLimit);
  });

  test("time is limited, also in loops without a body", () => {
    for (const body of ["", "x"]) {
      const began = performance.now();
      const source = `{% for i in range(10000) %}{% for j in range(10000) %}${body}{% endfor %}{% endfor %}`;
      expect(() => render(source, {}, 100)).toThrow(/takes too long/);
      expect(performance.now() - began).toBeLessThan(5000);
    }
  });

  test("so are calls and nesting", () => {
    const recursive = "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}";
    expect(() => render(recursive, {}, 60_000)).toThrow("calls itself without end, or is nested too deeply");
  });

  test("time in which the process is stopped does not count", () => {
    const pause = () => {
      Bun.sleepSync(300);
      return "";
    };
    expect(render("{{ pause() }}{% for i in range(3) %}{{ i }}{% endfor %}", { pause }, 200)).toBe("012");
  });

  test("a conversation has ten seconds of its own, however long the thread has computed", () => {
    let seconds = 3600;
    const clock = spyOn(process, "threadCpuUsage");
    clock.mockImplementation(() => ({ user: (seconds - 100) * 1e6, system: 100e6 }));
    try {
      const settings = { bosToken: "", eosToken: "", date: "2026-01-01" } as const;
      const template = new ChatTemplate("{% for m in messages %}{{ m.role }}{% endfor %}", "t", settings);
      const text = () => template.render([{ role: "user", content: "" }], null, false);
      template.beginRow();
      seconds += 10;
      expect(text()).toBe("user");
      seconds += 0.001;
      expect(text).toThrow("the chat template (t) takes too long on this row");
      template.beginRow();
      expect(text()).toBe("user");
    } finally {
      clock.mockRestore();
    }
  });

  test("an error names the template; whoever knows the row names it", () => {
    const template = {
      kind: "file",
      path: "big.jinja",
      source: "{% for i in range(200000) %}{% endfor %}",
    } as const;
    const encoder = new Encoder(Tokenizer.load(llamaFolder()), {
      template,
      maxLength: null,
      parseSpecial: false,
      vocabSize: null,
    });
    expect(() => encoder.encode({ prompt: "a", completion: "b" })).toThrow(
      /the chat template \(big\.jinja\) has a range\(\) of more than 100000 numbers on this row/,
    );
  });
});

describe("what is no template is named as one, with its file", () => {
  const broken = ["{{", "{%", "{{ a", "{% if x %}a", "{% for a in b %}", "{{ a b }}", "{% foo %}", "{# a"];
  test.each(broken)("%s", (source) => {
    expect(() => new JinjaTemplate(source, "x.jinja")).toThrow(
      /^x\.jinja: not a Jinja template: (?!undefined)/,
    );
  });

  test("nesting without measure", () => {
    const deep = 20_000;
    for (const source of [`{{ ${"(".repeat(deep)}1${")".repeat(deep)} }}`, "{% if 1 %}".repeat(deep)]) {
      expect(() => new JinjaTemplate(source, "x.jinja")).toThrow(
        "x.jinja: not a Jinja template: it is nested too deeply",
      );
    }
  });

  test("also a tokenizer's own", () => {
    const dir = llamaFolder({ chat_template: "{{" });
    expect(() => encoder(Tokenizer.load(dir), { template: { kind: "chat" } })).toThrow(
      /tokenizer_config\.json: not a Jinja template/,
    );
  });
});

describe("Python's meaning", () => {
  test("strip, lstrip and rstrip take characters, and white space as Python has it", () => {
    const x = { s: "\n\n  a \n" };
    expect(render("[{{ s.lstrip('\\n') }}]", x)).toBe("[  a \n]");
    expect(render("[{{ s.rstrip('\\n') }}]", x)).toBe("[\n\n  a ]");
    expect(render("[{{ s.strip('\\n') }}]", x)).toBe("[  a ]");
    expect(render("[{{ s.strip() }}][{{ s | trim }}]", x)).toBe("[a][a]");
    expect(render("[{{ 'xyax'.strip('xy') }}][{{ 'xax' | trim('x') }}]")).toBe("[a][a]");
    // U+FEFF is no white space to Python; U+0085 and U+001F are
    expect(render("[{{ s.strip() }}][{{ s | trim }}]", { s: "\ufeffa\u0085\u001f" })).toBe(
      "[\ufeffa][\ufeffa]",
    );
    expect(render("{{ s.split('</think>')[-1].lstrip('\\n') }}", { s: "<think>b</think>\n\n a" })).toBe(" a");
    expect(render("{{ s | trim | upper }}", { s: " a " })).toBe("A");
    expect(() => render("{{ x | trim }}", { x: 5 })).toThrow();
  });

  test("a text is added to a text alone", () => {
    expect(render("{{ 'a' + s }}{{ 1 + 2 }}{{ ([1] + [2]) | length }}", { s: "b" })).toBe("ab32");
    expect(() => render("{{ 'a' + o }}", { o: { b: 1 } })).toThrow(/cannot add an object to a text/);
    expect(() => render("{{ o + 'a' }}", { o: [1] })).toThrow(/cannot add a list to a text/);
    expect(() => render("{{ 'a' + 1 }}")).toThrow(/cannot add a value that is not a text/);
    expect(() => render("{{ 'a' + nothing }}")).toThrow(/undefined/);
    expect(() => render("{{ 'a' ~ o }}", { o: { b: 1 } })).toThrow(/use tojson/);
    expect(render("{{ 'a' ~ 1 ~ s }}", { s: "b" })).toBe("a1b");
  });

  test("line ends are line feeds", () => {
    expect(render("{% if true %}\r\na\r\n{% endif %}\r\nb\r\n")).toBe("a\nb");
  });
});

test("a signal ends a load that renders without end, at once", async () => {
  const dir = folderOf({
    "loop.jinja": "{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}",
    "x.json": [{ prompt: "a", completion: "b" }],
  });
  const controller = new AbortController();
  const load = loadDataset({
    path: join(dir, "x.json"),
    tokenizerDir: llamaFolder(),
    template: join(dir, "loop.jinja"),
    maxLength: 64,
    cacheDir: null,
    signal: controller.signal,
  });
  load.catch(() => {});
  await Bun.sleep(300);
  const asked = performance.now();
  controller.abort();
  expect(load).rejects.toThrow(InterruptedError);
  await load.catch(() => {});
  expect(performance.now() - asked).toBeLessThan(2000);
});
