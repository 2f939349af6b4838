// The page: what is in it, how large it is, and how it looks in a browser at the widths of a phone, a tablet and a screen.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readAnswers } from "../../src/report/answers.ts";
import { reportHtml } from "../../src/report/page.ts";
import { namesOf, readRun } from "../../src/report/run.ts";
import { samplesHtml, sharedEnd, sharedStart } from "../../src/report/samples.ts";
import { Browser, chromium, noChromium } from "./chromium.ts";
import { makeRun } from "./support.ts";

const root = mkdtempSync(join(tmpdir(), "neftune-page-"));
const answers = [
  { instruction: "Name the capital of France.", output: "Paris", reference: "Paris" },
  { instruction: "<script>alert(1)</script> & \u202e", output: "a\n\nb".repeat(40), reference: "c" },
];
const pageOf = (names: readonly string[]) => {
  const paths = names.map((name) => join(root, name));
  const found = namesOf(paths);
  return reportHtml(
    paths.map((path, i) => readRun(path, found[i]!)),
    "0.1.0",
  );
};
/** The page without its own script and style. */
const contentOf = (html: string) => html.replace(/<(script|style)>[\s\S]*?<\/\1>/g, "");
const many = Array.from({ length: 10 }, (_, i) => `alpha-${i}`);
/** Names that a page has to break, or to show as they are. */
const odd = ["a-long-name-".repeat(10), `onewordof120letters${"x".repeat(101)}`, `<img src=x> "q' & 日本 🐙`];

beforeAll(() => {
  for (const [i, name] of many.entries())
    makeRun(join(root, name), {
      steps: 10_000,
      alpha: i,
      shift: i / 20,
      evalSamples: 500,
      evalEvery: 250,
      answers,
    });
  for (const [i, name] of odd.entries()) makeRun(join(root, name), { steps: 60, alpha: i, answers });
  makeRun(join(root, "one"), { steps: 300, alpha: 5, hasScale: true, answers });
  makeRun(join(root, "started"), { steps: 300, until: 1, alpha: 5, evalSamples: 0 });
  makeRun(join(root, "empty"), { steps: 300, until: 0, alpha: 5, evalSamples: 0 });
});
afterAll(() => rmSync(root, { recursive: true }));

test("ten runs of 10,000 steps: at most 300 KB in at most 2 s", () => {
  const before = process.cpuUsage();
  const html = pageOf(many);
  // Processor time: the tests may share the machine.
  const { user, system } = process.cpuUsage(before);
  expect((user + system) / 1e6).toBeLessThan(2);
  expect(Buffer.byteLength(html)).toBeLessThan(300_000);
});

/** A run with many points, these answers, and `count` options whose values are long and different for each alpha. */
function makeLongRun(name: string, alpha: number, count: number, answers: readonly object[]): void {
  const options = Object.fromEntries(
    Array.from({ length: count }, (_, k) => [`o-${k}`, `${alpha}`.repeat(400)]),
  );
  makeRun(join(root, name), { steps: 2_000, alpha, evalSamples: 9, evalEvery: 10, answers, options });
}

test("ten runs with many points whose options, answers and evaluations are long: at most 300 KB", () => {
  const names = many.map((name) => `wide-${name}-${"é".repeat(40)}`);
  const long = answers.map((row) => ({ ...row, output: "答え🐙<&>".repeat(200) }));
  for (const [i, name] of names.entries()) {
    const rows = Array.from({ length: 20 }, (_, k) =>
      long.map((row) => ({ ...row, instruction: `Q${k}` })),
    ).flat();
    makeLongRun(name, i, 30, rows);
  }
  const html = pageOf(names);
  expect(Buffer.byteLength(html)).toBeLessThan(300_000);
  expect(html.match(/<path class="faint/g)!.length).toBe(3 * 10);
});

test("all charts of a page have the same steps, so that they line up", () => {
  const steps = (names: readonly string[]) =>
    new Set(Array.from(pageOf(names).matchAll(/data-x="([^"]+)"/g), ([, x]) => x));
  expect(steps(["one"])).toEqual(new Set(["1 300"]));
  expect(steps(["one", "empty", "alpha-0"])).toEqual(new Set(["1 10000"]));
});

test("a point that no line reaches is a dot", () => {
  const dots = pageOf(["started"]).match(/<path class="dot c0" d="M1 [^"]+h0"\/>/g);
  expect(dots).toHaveLength(5); // loss, learning rate, gradient norm, speed, memory
});

test("of many runs, few prompts are in sight", () => {
  const path = join(root, "asked");
  const rows = Array.from({ length: 12 }, (_, i) => ({ prompt: `Q${i}?`, output: "A" }));
  makeRun(path, { steps: 9, alpha: 5, answers: rows });
  const folded = (html: string) => html.split("more prompts</summary>")[1]?.match(/<article>/g)?.length ?? 0;
  expect([folded(pageOf(["asked"])), folded(pageOf(["asked", ...many]))]).toEqual([0, 10]);
});

test("nothing from outside, and nothing of a run is markup", () => {
  const html = pageOf(["one"]);
  expect(html).not.toMatch(/https?:|src=|@import|url\(/);
  expect(html).not.toContain("<script>alert");
  expect(html).toContain("&lt;script&gt;alert(1)&lt;/script&gt; &amp; \ufffd");
  expect(contentOf(html)).not.toMatch(/NaN|undefined|Infinity/);
});

test("figures and tables have names; a single run has no comparison", () => {
  const [one, two] = [pageOf(["one"]), pageOf(["alpha-0", "alpha-5"])];
  const charts = one.match(/<svg role="img" aria-labelledby="(\w+)-t" aria-describedby="\1-d"/g);
  expect(charts).toHaveLength(7);
  for (const html of [one, two])
    expect(html.match(/<table><caption>/g)!.length).toBe(html.match(/<table>/g)!.length);
  expect(one).not.toContain("Options that differ");
  expect(two).toContain("Options that differ");
});

test("prompts are shown without the template's words that all of them begin and end with", () => {
  const template = "Below is an instruction.\n\n### Instruction:\n";
  expect(sharedStart([`${template}Add.\n`, `${template}Answer.\n`])).toBe(template);
  expect(sharedStart([`${template}Add.`])).toBe("");
  expect(sharedStart(["What is 1?", "What is 2?"])).toBe("");
  expect(sharedStart([])).toBe("");
  const end = "\n\n### Response:\n";
  expect(sharedEnd([`Add.${end}`, `Answer.${end}`])).toBe(end);
  expect([sharedEnd(["Add.", "Answer."]), sharedEnd([`Add.${end}`]), sharedEnd([])]).toEqual(["", "", ""]);
});

test("answers after earlier steps are there, thinned; with many runs they make room", () => {
  const path = join(root, "sampled");
  makeRun(path, { steps: 40, alpha: 5 });
  const lines = Array.from({ length: 40 }, (_, i) => ({
    step: i + 1,
    prompt: "Q?",
    output: `said at ${i + 1}`,
  }));
  writeFileSync(join(path, "samples.jsonl"), lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
  const said = (html: string) => Array.from(html.matchAll(/said at (\d+)/g), ([, step]) => Number(step));
  expect(said(pageOf(["sampled"]))).toEqual([40, 1, 7, 14, 20, 27, 33]);
  expect(said(pageOf(["sampled", ...many.slice(0, 4)]))).toEqual([40]);
});

test("the last step's samples are none of earlier steps, whatever the final answers come from", () => {
  const path = join(root, "answered");
  makeRun(path, { steps: 9, alpha: 5 });
  const lines = [3, 6, 9].map((step) => ({ step, prompt: "Q?", output: `said at ${step}` }));
  writeFileSync(join(path, "samples.jsonl"), lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
  const outputs = (name: "last" | "earlier") => readAnswers(path)[name].map(({ output }) => output);
  expect([outputs("last"), outputs("earlier")]).toEqual([["said at 9"], ["said at 3", "said at 6"]]);
  writeFileSync(join(path, "answers.jsonl"), `${JSON.stringify({ prompt: "Q?", output: "at the end" })}\n`);
  expect([outputs("last"), outputs("earlier")]).toEqual([["at the end"], ["said at 3", "said at 6"]]);
});

test.each([1, 4])(
  "long answers in runs (%d) in a script of three bytes a character: at most 300 KB",
  (count) => {
    const names = Array.from({ length: count }, (_, i) => `wordy-${count}-${i}`);
    const text = (name: string) => `${name}字`.padEnd(1500, "漢\u{20000}語<");
    for (const name of names) {
      const path = join(root, name);
      makeRun(path, { steps: count === 4 ? 10_000 : 400, alpha: 5, evalSamples: 500, evalEvery: 250 });
      const rows = Array.from({ length: 13 }, (_, prompt) => {
        const row = { prompt: text(`${prompt}`), output: text(name), reference: text("as expected") };
        return Array.from({ length: 8 }, (_, i) => ({ step: 50 * (i + 1), ...row }));
      });
      const lines = rows.flat().map((row) => `${JSON.stringify(row)}\n`);
      writeFileSync(join(path, "samples.jsonl"), lines.join(""));
    }
    const html = pageOf(names);
    expect(html.isWellFormed()).toBe(true);
    expect(html.match(/<article>/g)).toHaveLength(12);
    expect(html.match(/<dt>step /g)).toHaveLength(12 * count * 6);
    expect(Buffer.byteLength(html)).toBeLessThan(300_000);
  },
);

test("many runs whose answers and options are long: at most 300 KB, with curves and answers of each", () => {
  const names = Array.from({ length: 24 }, (_, i) => `crowd-${i}`);
  const instructions = Array.from({ length: 12 }, (_, k) => `${k}: ${"question ".repeat(150)}`);
  for (const [i, name] of names.entries()) {
    const rows = instructions.map((instruction) => ({ instruction, output: `${name} <&> `.repeat(200) }));
    makeLongRun(name, i, 20, rows);
  }
  const html = pageOf(names);
  expect(Buffer.byteLength(html)).toBeLessThan(300_000);
  expect(html.match(/<path class="faint/g)!.length).toBe(3 * names.length);
  expect(html.match(/<article>/g)!.length).toBeGreaterThan(0);
  for (const name of names) expect(html).toContain(`<p>${name} &lt;&amp;&gt;`);
});

test("a quarter of the room for answers is a quarter of the prompts, each with as much text", () => {
  const rows = Array.from({ length: 12 }, (_, k) => ({
    instruction: `${k}${"問".repeat(2000)}`,
    output: "答".repeat(2000),
  }));
  makeLongRun("answers", 5, 0, rows);
  const runs = [readRun(join(root, "answers"))];
  const [whole, quarter] = [1, 1 / 4].map((share) => samplesHtml(runs, share));
  expect([whole, quarter].map((html) => html!.match(/<article>/g)!.length)).toEqual([12, 3]);
  expect(Buffer.byteLength(quarter!) / Buffer.byteLength(whole!)).toBeCloseTo(0.25, 1);
});

test.each(["started", "empty"])("a run that has only %s", (name) => {
  const html = contentOf(pageOf([name]));
  expect(html).not.toMatch(/NaN|undefined|Infinity/);
  expect(html.includes("No step is recorded yet")).toBe(name === "empty");
  expect(html.includes("<dt>training loss")).toBe(name === "started");
  expect(html).not.toContain("<dt>evaluation loss");
});

test("a finished run has all of its steps", () => {
  expect(pageOf(["one"])).toContain("<dt>steps</dt><dd>300</dd>");
});

test("an option's value is cut where it is long, alone and beside others", () => {
  const values = [`${"a".repeat(299)}🐙b`, "b".repeat(300)];
  for (const [i, long] of values.entries())
    makeRun(join(root, `long-${i}`), { steps: 9, alpha: 5, options: { long } });
  const html = pageOf(["long-0", "long-1"]);
  for (const shown of [`${"a".repeat(299)}\ufffd…`, values[1]!])
    expect(html.split(`>${shown}<`)).toHaveLength(3); // the options that differ, and the run's own
});

test("a run that diverged says so in place of its losses", () => {
  const path = join(root, "diverged");
  makeRun(path, { steps: 30, until: 20, alpha: 5, evalEvery: 10 });
  const lost = Array.from(
    { length: 8 },
    (_, i) => `{"step":${21 + i},"loss":null,"skipped":"the loss is NaN"}\n`,
  );
  appendFileSync(join(path, "metrics.jsonl"), `${lost.join("")}{"step":28,"eval_loss":null}\n`);
  const cards = contentOf(pageOf(["diverged"])).replaceAll(/<[^>]+>/g, " ");
  expect(cards).toMatch(/steps +28 +of 30, stopped/);
  expect(cards).toMatch(/training loss +– +not finite at the end/);
  expect(cards).toMatch(/evaluation loss +– +not finite at the end/);
});

test("the command that makes the page again can be pasted", () => {
  const html = pageOf([odd[2]!]);
  const command = /<code>(neftune report .*)<\/code>/.exec(html)![1]!;
  expect(command).toStartWith("neftune report '/");
  expect(command).toContain("'\\''");
});

describe.skipIf(chromium === undefined)(
  `in Chromium${chromium === undefined ? `: ${noChromium}` : ""}`,
  () => {
    let browser: Browser;
    beforeAll(async () => {
      for (const [name, runs] of [
        ["ten", many],
        ["one", ["one"]],
        ["two", ["alpha-0", "empty"]],
        ["odd", odd],
      ] as const)
        writeFileSync(join(root, `${name}.html`), pageOf(runs));
      browser = await Browser.start();
    });
    afterAll(() => browser?.close());

    const views = ["one", "two", "ten", "odd"].flatMap((page) =>
      [360, 768, 1280].flatMap((width) =>
        (["light", "dark"] as const).map((scheme) => ({ page, width, scheme })),
      ),
    );

    test.each(views)(
      "$page at $width px, $scheme: fits, says nothing, asks for nothing, can be read",
      async (view) => {
        await browser.open(join(root, `${view.page}.html`), view);
        expect(
          await browser.value<number>("document.documentElement.scrollWidth - innerWidth"),
        ).toBeLessThanOrEqual(0);
        expect(browser.complaints).toEqual([]);
        expect(browser.requests.filter((url) => !url.startsWith("file:") && url !== "data:,")).toEqual([]);
        expect(await browser.value<string[]>(faintTexts)).toEqual([]);
        expect(await browser.value<string[]>(hiddenLines)).toEqual([]);
        expect(await browser.value<string[]>(crowdedHeaders)).toEqual([]);
      },
    );

    test.each(["two", "ten", "odd"])("%s on paper: no table is cut off", async (page) => {
      await browser.open(join(root, `${page}.html`), { width: 720, scheme: "light" }); // A4 within Chromium's margins
      await browser.send("Emulation.setEmulatedMedia", { media: "print" });
      const cut = `[...document.querySelectorAll("table")].filter(table => table.getBoundingClientRect().right > innerWidth)
        .map(table => table.textContent.slice(0, 40))`;
      expect(await browser.value<string[]>(cut)).toEqual([]);
      await browser.send("Emulation.setEmulatedMedia", { media: "" });
    });

    test("pointer and arrow keys show a step and its values, exactly", async () => {
      await browser.open(join(root, "one.html"), { width: 768, scheme: "light" });
      const shown = async (id: string, event: string) =>
        await browser.value<string>(
          `(() => { const svg = document.querySelector("#${id} svg"), r = svg.getBoundingClientRect(); svg.dispatchEvent(${event}); return document.querySelector("#${id} output").textContent })()`,
        );
      const rate = await shown("rate", 'new PointerEvent("pointermove", { clientX: r.left + r.width / 2 })');
      expect(rate).toMatch(/^step 15[01]one: 0\.0001\d*$/);
      expect(await shown("rate", 'new KeyboardEvent("keydown", { key: "Home" })')).toMatch(/^step 1one/);
      expect(await shown("rate", 'new KeyboardEvent("keydown", { key: "ArrowRight" })')).toMatch(
        /^step 2one/,
      );
      expect(await shown("rate", 'new KeyboardEvent("keydown", { key: "Escape" })')).toBe("");
    });
  },
);

/** Texts whose contrast to what is behind them is below 4.5 (WCAG 2 AA). */
const faintTexts = `(() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = color => rgb(color).slice(0, 3).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = node => { for (let n = node; n; n = n.parentElement) { const c = getComputedStyle(n).backgroundColor; if (rgb(c)[3] !== 0) return c; } };
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || /^(script|style|desc)$/i.test(node.tagName)) continue;
    const style = getComputedStyle(node), own = node instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(own), light(behind(node))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) found.add(walker.currentNode.data.trim() + " " + own);
  }
  return [...found];
})()`;

/** Names of rows and columns that reach into other cells, or take more than half of a phone. */
const crowdedHeaders = `[...document.querySelectorAll("th")].filter(th =>
  th.scrollWidth > th.clientWidth || th.querySelector(".name").offsetWidth > Math.max(innerWidth / 2, 330)
).map(th => th.textContent)`;

/** Charts with a line that takes no room on the screen. */
const hiddenLines = `[...document.querySelectorAll(".plot path[data-label]")].filter(path => {
  const { width, height } = path.getBoundingClientRect();
  return path.getAttribute("d") !== "" && !(width > 0 || height > 0) && /L/.test(path.getAttribute("d"));
}).map(path => path.closest("figure").id)`;
