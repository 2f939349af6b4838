// `--device cuda:all`: this command once for each GPU of the machine, as ranks of one run.

import type { ChildProcess } from "node:child_process";
import { readFileSync } from "node:fs";
import { isCompiled } from "../../data/worker-url.ts";
import { NeftuneError, UsageError } from "../../errors.ts";
import { probeCuda } from "../../native/index.ts";
import { patienceOf } from "../../ranks/ranks.ts";
import type { LoadedCommand } from "../commands.ts";

/** Between two looks at what remains of the ranks after a failure. */
const LOOK_MILLISECONDS = 200;

const forwarded = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/**
 * Runs `neftune ARGS` once for each GPU. Returns the exit status: that of the first rank that ended otherwise than well.
 * Null where there is one GPU alone, for this process to use. Throws UsageError for a command that divides no work,
 * NeftuneError where no GPU can be used.
 */
export async function runOnAllGpus(
  { name, ranked = false }: Pick<LoadedCommand, "name" | "ranked">,
  args: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): Promise<number | null> {
  if (!ranked) throw new UsageError(`${name} runs on one device; give --device cuda or cuda:N`);
  const { problem, devices } = probeCuda();
  if (problem !== null)
    throw new NeftuneError("no_device", `--device cuda:all: ${problem}; or use --device cpu`);
  return devices.length === 1 ? null : runRanks(args, devices.length, env);
}

async function runRanks(
  args: readonly string[],
  count: number,
  env: Readonly<Record<string, string | undefined>>,
): Promise<number> {
  // In the executable, what a module imports by name from Bun itself is loaded at every start.
  const { spawn } = await import("node:child_process");
  const patience = patienceOf(env); // before any rank is started
  const common = {
    ...env,
    WORLD_SIZE: String(count),
    LOCAL_WORLD_SIZE: String(count),
    MASTER_ADDR: "127.0.0.1",
    MASTER_PORT: String(await freePort()),
  };
  const [program, ...before] = ownCommand();
  const children = Array.from({ length: count }, (_, rank) =>
    // In a session of its own a rank hears Ctrl-C once, from here.
    spawn(program!, [...before, ...args], {
      env: { ...common, RANK: String(rank), LOCAL_RANK: String(rank) },
      stdio: "inherit",
      detached: true,
    }),
  );
  for (const signal of forwarded) process.on(signal, () => sendAll(children, signal));
  return endOf(children, patience);
}

const ownCommand = (): string[] => (isCompiled ? [process.execPath] : [process.execPath, Bun.main]);

function sendAll(children: readonly ChildProcess[], signal: NodeJS.Signals): void {
  for (const child of children) if (child.exitCode === null && child.signalCode === null) child.kill(signal);
}

/**
 * After the first failure the others end by themselves; but one that is stopped cannot, nor one that hangs, which is given
 * the patience. Throws NeftuneError where a rank could not be started.
 */
async function endOf(children: readonly ChildProcess[], patience: number): Promise<number> {
  let first = 0;
  let problem: NeftuneError | null = null;
  const fail = (status: number) => {
    if (first !== 0) return;
    first = status;
    const end = performance.now() + patience;
    setInterval(() => {
      const isLate = performance.now() > end;
      sendAll(
        children.filter(({ pid }) => isLate || isStopped(pid)),
        "SIGKILL",
      );
    }, LOOK_MILLISECONDS).unref();
  };
  const ends = children.map(
    (child, rank) =>
      new Promise<void>((resolve) => {
        child.on("error", ({ message }) => {
          problem ??= new NeftuneError("ranks", `rank ${rank} cannot be started: ${message}`);
          sendAll(children, "SIGTERM");
          fail(1);
          resolve();
        });
        child.on("exit", (code) => {
          if (code !== 0) fail(code ?? 1);
          resolve();
        });
      }),
  );
  await Promise.all(ends);
  if (problem !== null) throw problem;
  return first;
}

function isStopped(pid: number | undefined): boolean {
  try {
    return /^State:\s*T /m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

async function freePort(): Promise<number> {
  const { createServer } = await import("node:net");
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}
