// Headless Chromium, by its own protocol: opens a page at a width and in a color scheme, and says what it looks like.

import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const PLACES = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
/** Of Debian's package chromium; NEFTUNE_CHROMIUM names another. */
export const chromium = [process.env.NEFTUNE_CHROMIUM ?? "", ...PLACES].find(
  (path) => path !== "" && existsSync(path),
);
export const noChromium = "no Chromium here: apt-get install chromium, or name one in NEFTUNE_CHROMIUM";

export interface View {
  width: number;
  scheme: "light" | "dark";
}

interface Reply {
  id?: number;
  method?: string;
  params?: Record<string, unknown>;
  result?: Record<string, unknown>;
  error?: { message: string };
}

export class Browser {
  readonly #child: Bun.Subprocess;
  readonly #profile: string;
  readonly #socket: WebSocket;
  readonly #waiting = new Map<number, (reply: Reply) => void>();
  #next = 1;
  #session = "";
  /** What the page complained about since it was opened. */
  readonly complaints: string[] = [];
  /** Addresses other than the page's own that it asked for. */
  readonly requests: string[] = [];
  #loaded: () => void = () => {};

  private constructor(child: Bun.Subprocess, profile: string, socket: WebSocket) {
    this.#child = child;
    this.#profile = profile;
    this.#socket = socket;
    socket.addEventListener("message", ({ data }) => this.#hear(JSON.parse(String(data)) as Reply));
  }

  static async start(): Promise<Browser> {
    const profile = mkdtempSync(join(tmpdir(), "neftune-chromium-"));
    const child = Bun.spawn(
      [
        ...[
          chromium!,
          "--headless=new",
          "--no-sandbox",
          "--disable-gpu",
          "--disable-dev-shm-usage",
          "--no-first-run",
        ],
        ...[
          "--disable-background-networking",
          "--hide-scrollbars",
          "--remote-debugging-port=0",
          `--user-data-dir=${profile}`,
        ],
      ],
      { stdin: "ignore", stdout: "ignore", stderr: "pipe" },
    );
    let heard = "";
    const decoder = new TextDecoder();
    for await (const bytes of child.stderr as ReadableStream<Uint8Array>) {
      heard += decoder.decode(bytes);
      const address = /ws:\/\/\S+/.exec(heard)?.[0];
      if (address === undefined) continue;
      const socket = new WebSocket(address);
      await new Promise((resolve, reject) => {
        socket.addEventListener("open", resolve);
        socket.addEventListener("error", reject);
      });
      const browser = new Browser(child, profile, socket);
      await browser.#attach();
      return browser;
    }
    throw new Error(`Chromium ended: ${heard}`);
  }

  async #attach(): Promise<void> {
    const { targetId } = await this.send("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await this.send("Target.attachToTarget", { targetId, flatten: true });
    this.#session = sessionId as string;
    for (const domain of ["Page", "Runtime", "Log", "Network"]) await this.send(`${domain}.enable`);
  }

  #hear(reply: Reply): void {
    if (reply.id !== undefined) {
      this.#waiting.get(reply.id)?.(reply);
      this.#waiting.delete(reply.id);
    }
    const params = reply.params ?? {};
    if (reply.method === "Page.loadEventFired") this.#loaded();
    if (
      ["Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"].includes(reply.method ?? "")
    )
      this.complaints.push(JSON.stringify(params));
    if (reply.method === "Network.requestWillBeSent")
      this.requests.push((params.request as { url: string }).url);
  }

  send(method: string, params: object = {}): Promise<Record<string, unknown>> {
    const id = this.#next++;
    const session = this.#session === "" ? {} : { sessionId: this.#session };
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, ({ result, error }) => {
        if (error === undefined) resolve(result ?? {});
        else reject(new Error(`${method}: ${error.message}`));
      });
      this.#socket.send(JSON.stringify({ id, method, params, ...session }));
    });
  }

  /** Opens a file, or a page by its http address. */
  async open(path: string, { width, scheme }: View): Promise<void> {
    this.complaints.length = 0;
    this.requests.length = 0;
    await this.send("Emulation.setDeviceMetricsOverride", {
      width,
      height: 800,
      deviceScaleFactor: 1,
      mobile: width < 600,
    });
    await this.send("Emulation.setEmulatedMedia", {
      features: [{ name: "prefers-color-scheme", value: scheme }],
    });
    const loaded = new Promise<void>((resolve) => {
      this.#loaded = resolve;
    });
    await this.send("Page.navigate", { url: path.startsWith("http:") ? path : `file://${path}` });
    await loaded;
  }

  /** The value of an expression in the page. */
  async value<T>(expression: string): Promise<T> {
    const { result, exceptionDetails } = (await this.send("Runtime.evaluate", {
      expression,
      returnByValue: true,
      awaitPromise: true,
    })) as { result: { value: T }; exceptionDetails?: object };
    if (exceptionDetails !== undefined) throw new Error(JSON.stringify(exceptionDetails));
    return result.value;
  }

  /** The whole page as PNG. */
  async picture(): Promise<Uint8Array> {
    const { data } = await this.send("Page.captureScreenshot", {
      captureBeyondViewport: true,
      format: "png",
    });
    return Buffer.from(data as string, "base64");
  }

  async close(): Promise<void> {
    this.#socket.close();
    this.#child.kill();
    await this.#child.exited;
    rmSync(this.#profile, { recursive: true, force: true });
  }
}
