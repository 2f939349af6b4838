// install.sh against a local server: what it installs, and the sentence it ends with when something is wrong.

import { afterAll, beforeEach, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import {
  chmodSync,
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
import { tarGz } from "../../build/release/tar.ts";
import { spawned } from "../spawned.ts";

const scratch = mkdtempSync(join(tmpdir(), "neftune-installer-"));
const source = readFileSync(join(import.meta.dir, "../../build/release/install.sh"), "utf8");
const script = join(scratch, "install.sh");
writeFileSync(script, source.replace("@VERSION@", "1.2.3").replace("@BASE_URL@", ""));

const name = "neftune-1.2.3-linux-x64";
const others = ["neftune.1", "completions/neftune.bash", "completions/_neftune", "completions/neftune.fish"];
const archive = tarGz(
  [
    { path: `${name}/neftune`, bytes: Buffer.from("#!/bin/sh\necho neftune 1.2.3\n"), isExecutable: true },
    ...[...others, "LICENSE", "THIRD_PARTY.md", "README.md"].map((file) => ({
      path: `${name}/${file}`,
      bytes: Buffer.from(file),
    })),
  ],
  0,
);
const sums = `${createHash("sha256").update(archive).digest("hex")}  ${name}.tar.gz\n`;

/** What the server gives; `cut` ends the connection in the middle of the archive. */
let served: { archive: Uint8Array; sums: string; cut: boolean };
beforeEach(() => {
  served = { archive, sums, cut: false };
});
const server = Bun.listen({
  hostname: "127.0.0.1",
  port: 0,
  socket: {
    data(socket, request) {
      const path = /^GET \/release\/(\S+)/.exec(request.toString())?.[1] ?? "";
      const found = path === "SHA256SUMS" ? Buffer.from(served.sums) : served.archive;
      if (path !== "SHA256SUMS" && path !== `${name}.tar.gz`) {
        socket.end("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
      }
      socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${found.length}\r\nConnection: close\r\n\r\n`);
      socket.end(served.cut && path !== "SHA256SUMS" ? found.slice(0, found.length / 2) : found);
    },
  },
});
const url = `http://127.0.0.1:${server.port}/release`;
afterAll(() => {
  server.stop(true);
  rmSync(scratch, { recursive: true });
});

/** A folder for the PATH with programs that say what they are told to. */
function pretending(programs: Record<string, string>): string {
  const folder = mkdtempSync(join(scratch, "pretend-"));
  for (const [program, text] of Object.entries(programs)) {
    writeFileSync(join(folder, program), `#!/bin/sh\n${text}\n`);
    chmodSync(join(folder, program), 0o755);
  }
  return folder;
}

async function install(args: string[], path = "/usr/bin:/bin", env: Record<string, string> = {}) {
  const home = mkdtempSync(join(scratch, "home-"));
  const temporary = mkdtempSync(join(scratch, "tmp-"));
  const finished = await spawned(["/bin/sh", script, ...args], {
    cwd: home,
    env: { PATH: path, HOME: home, TMPDIR: temporary, ...env },
  });
  expect(readdirSync(temporary)).toEqual([]); // nothing stays behind
  return { home, ...finished };
}

/** One line on standard error, and nothing installed. */
async function refused(args: string[], path?: string): Promise<string> {
  const { home, status, stdout, stderr } = await install(args, path);
  expect({ status, stdout }).toEqual({ status: 1, stdout: "" });
  expect(stderr).toMatch(/^install\.sh: [^\n]+\n$/);
  expect(existsSync(join(home, ".local", "bin", "neftune"))).toBe(false);
  return stderr;
}

describe("installs", () => {
  test("below ~/.local, and says that its bin is not on the PATH", async () => {
    const { home, status, stdout, stderr } = await install(["--base-url", url]);
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    expect(stdout).toContain(`neftune 1.2.3 is installed: ${home}/.local/bin/neftune\n`);
    expect(stdout).toContain("not on your PATH");
    const share = join(home, ".local", "share");
    expect(readdirSync(join(home, ".local", "bin"))).toEqual(["neftune"]);
    expect(readFileSync(join(share, "man/man1/neftune.1"), "utf8")).toBe("neftune.1");
    expect(readFileSync(join(share, "zsh/site-functions/_neftune"), "utf8")).toBe("completions/_neftune");
    expect(readdirSync(join(share, "doc/neftune")).sort()).toEqual([
      "LICENSE",
      "README.md",
      "THIRD_PARTY.md",
    ]);
  });

  test("below --prefix, which may be relative, over what is there", async () => {
    const prefix = join(scratch, "with space");
    mkdirSync(join(prefix, "bin"), { recursive: true });
    writeFileSync(join(prefix, "bin", "neftune"), "an old one");
    const { status, stdout, stderr } = await install([`--base-url=${url}/`, "--prefix", "../with space"]);
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    expect(stdout).toContain("neftune 1.2.3 is installed");
    expect(readFileSync(join(prefix, "bin", "neftune"), "utf8")).toContain("echo neftune 1.2.3");
  });

  test("from NEFTUNE_BASE_URL", async () => {
    const { status } = await install([], undefined, { NEFTUNE_BASE_URL: url });
    expect(status).toBe(0);
  });
});

describe("ends with a sentence and installs nothing", () => {
  test("when the archive is another than SHA256SUMS says", async () => {
    served.archive = Buffer.concat([archive.subarray(0, -1), Buffer.from([archive.at(-1)! ^ 1])]);
    expect(await refused(["--base-url", url])).toContain(
      `but SHA256SUMS says ${sums.slice(0, 64)}: it was changed`,
    );
  });

  test("when the download is cut", async () => {
    served.cut = true;
    expect(await refused(["--base-url", url])).toContain("the download was cut short");
  });

  test("when SHA256SUMS does not list it", async () => {
    served.sums = sums.replace("x64", "riscv64");
    expect(await refused(["--base-url", url])).toContain(`does not list ${name}.tar.gz`);
  });

  test("when nothing is there, or no server", async () => {
    expect(await refused(["--base-url", `${url}/none`])).toContain("none/SHA256SUMS cannot be downloaded: ");
    expect(await refused(["--base-url", "http://127.0.0.1:1"])).toContain("cannot be downloaded: ");
  });

  test.each([
    [
      "an unknown processor",
      { uname: "case $1 in -s) echo Linux ;; *) echo riscv64 ;; esac" },
      "Linux on riscv64",
    ],
    ["another system", { uname: "case $1 in -s) echo Darwin ;; *) echo arm64 ;; esac" }, "Darwin on arm64"],
    ["no glibc", { getconf: "exit 1" }, "has no glibc"],
    ["an old glibc", { getconf: "echo glibc 2.17" }, "has glibc 2.17; neftune needs glibc 2.28"],
  ])("on %s", async (_, programs, sentence) => {
    const path = `${pretending(programs as Record<string, string>)}:/usr/bin:/bin`;
    expect(await refused(["--base-url", url], path)).toContain(sentence);
  });

  test("where it may not write", async () => {
    const into = (prefix: string, path?: string) => refused(["--base-url", url, "--prefix", prefix], path);
    expect(await into("/proc/neftune")).toContain("/proc/neftune/bin cannot be made");
    mkdirSync(join(scratch, "occupied", "bin", "neftune"), { recursive: true });
    expect(await into(join(scratch, "occupied"))).toContain("is a folder");
    const full = `${pretending({ cp: "exit 1" })}:/usr/bin:/bin`;
    expect(await into(join(scratch, "full"), full)).toContain("cannot be written to");
  });

  test("without curl and wget", async () => {
    const programs = ["uname", "getconf", "mktemp", "rm", "sed", "tail", "grep"];
    const few = pretending(Object.fromEntries(programs.map((one) => [one, `exec ${Bun.which(one)} "$@"`])));
    expect(await refused(["--base-url", url], few)).toContain("curl or wget is needed");
  });

  test("at wrong arguments", async () => {
    expect(await refused([])).toContain("give --base-url");
    expect(await refused(["--base-url"])).toContain("--base-url needs a value");
    expect(await refused(["--frefix", "x"])).toContain("unknown argument --frefix");
  });
});
