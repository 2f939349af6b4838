// The server's chat page in headless Chromium, at the widths of a phone and a screen, with nothing from elsewhere.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ServedModel } from "../../src/cli/inputs/served-model.ts";
import { ModelServer } from "../../src/cli/serve/server.ts";
import { Device } from "../../src/native/index.ts";
import { Browser, chromium, noChromium } from "../report/chromium.ts";
import { makeTinyModel, openTiny, tinyAdapter, tinyOptions } from "./tiny-served.ts";

if (chromium === undefined) console.log(`the chat page is not tested: ${noChromium}`);

describe.skipIf(chromium === undefined)("the chat page", () => {
  const root = mkdtempSync(join(tmpdir(), "chat-page-"));
  const models = new Map<string, ServedModel>();
  let device: Device;
  let server: ModelServer;
  let guarded: ModelServer;
  let browser: Browser;

  beforeAll(async () => {
    device = Device.open({ threads: 2 });
    const dir = makeTinyModel(join(root, "model"));
    models.set("base", openTiny(device, dir));
    models.set("tuned", openTiny(device, dir, tinyAdapter));
    server = new ModelServer(models, tinyOptions);
    guarded = new ModelServer(models, { ...tinyOptions, key: "hidden" });
    browser = await Browser.start();
  }, 60_000);
  afterAll(async () => {
    await browser?.close();
    for (const one of [server, guarded]) await one?.drain();
    for (const served of models.values()) served.close();
    device.close();
    rmSync(root, { recursive: true });
  });

  const evaluate = <T>(expression: string) => browser.value<T>(expression);
  async function until(expression: string): Promise<void> {
    for (let waited = 0; !(await evaluate<boolean>(expression)); waited += 20) {
      if (waited > 10_000)
        throw new Error(`never: ${expression}\n${await evaluate("document.body.innerText")}`);
      await Bun.sleep(20);
    }
  }
  /** Types into the page's field and sends it. */
  async function ask(text: string): Promise<void> {
    await evaluate(`document.getElementById("text").focus()`);
    await browser.send("Input.insertText", { text });
    for (const type of ["keyDown", "keyUp"])
      await browser.send("Input.dispatchKeyEvent", {
        type,
        key: "Enter",
        code: "Enter",
        windowsVirtualKeyCode: 13,
        text: "\r",
      });
  }

  test.each([
    [360, "light"],
    [1280, "dark"],
  ] as const)(
    "at %d px, %s: a conversation with an adapter, stopped and begun anew",
    async (width, scheme) => {
      await browser.open(`${server.url}/`, { width, scheme });
      await until(`document.querySelectorAll("#model option").length === 2`);
      await evaluate(
        `document.getElementById("model").value = "tuned"; document.getElementById("temperature").value = "0"`,
      );
      await ask("hello <b>there</b>");
      await until(`document.querySelectorAll(".assistant").length === 1 && send.textContent === "Send"`);
      const shown = await evaluate<string[]>(
        `[...document.querySelectorAll("#log > div")].map((div) => div.textContent)`,
      );
      expect(shown[0]).toBe("hello <b>there</b>");
      const served = models.get("tuned")!;
      const prompt = served.promptOf([{ role: "user", content: shown[0]! }]);
      const body = { model: "tuned", prompt: [...prompt], temperature: 0, max_tokens: 128 - prompt.length };
      const init = {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body),
      };
      const { choices } = (await (await fetch(`${server.url}/v1/completions`, init)).json()) as {
        choices: [{ text: string }];
      };
      expect(shown[1]).toBe(choices[0].text.trimStart());
      await evaluate(`document.getElementById("reset").click()`);
      expect(await evaluate(`document.getElementById("log").children.length`)).toBe(0);
      expect(await evaluate("document.documentElement.scrollWidth")).toBeLessThanOrEqual(width);
      expect(browser.complaints).toEqual([]);
      for (const url of browser.requests) expect(url).toStartWith(server.url);
    },
    60_000,
  );

  test("a key is asked for where one is needed", async () => {
    await browser.open(`${guarded.url}/`, { width: 800, scheme: "light" });
    await until(`!document.getElementById("key").hidden`);
    await evaluate(`key.value = "hidden"; key.dispatchEvent(new Event("change"))`);
    await until(`document.querySelectorAll("#model option").length === 2`);
  }, 60_000);
});
