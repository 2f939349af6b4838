// Runs a command and says what it did: in a process that it shares with others, or in one of its own.

import { closeSync, fstatSync, ftruncateSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Limits, Outcome } from "./outcome.ts";
import { type Usage, watch } from "./process-watch.ts";
import type { Job } from "./worker.ts";

/** A process is replaced after so many commands, so that what leaks a little is not taken for a fault. */
const COMMANDS_PER_PROCESS = 400;
const STDERR_BYTES = 2 ** 20;

export const baseEnv = {
  PATH: "/usr/bin:/bin",
  HF_HUB_OFFLINE: "1",
  // No GPU's driver, so that all machines do the same.
  NEFTUNE_CUDA_LIBRARY: "/nonexistent",
};

interface Shared {
  child: Bun.Subprocess;
  commands: number;
  /** Resolves with the status of the command that runs. */
  answer: PromiseWithResolvers<number>;
}

export class Runner {
  readonly #entry: string;
  readonly #limits: Limits;
  /** Standard error of everything that runs, since the last command began. */
  readonly #stderr: string;
  readonly #fd: number;
  #shared: Shared | null = null;

  /** `entry` is main.ts or what stands for it; `scratch` a folder for this runner's own files. */
  constructor(entry: string, scratch: string, limits: Limits) {
    this.#entry = entry;
    this.#limits = limits;
    this.#stderr = join(scratch, "stderr.txt");
    this.#fd = openSync(this.#stderr, "a+");
  }

  close(): void {
    this.#end();
    closeSync(this.#fd);
  }

  /** Runs it in a process that ran others before. */
  async run(dir: string, args: readonly string[]): Promise<Outcome> {
    const shared = this.#shared ?? this.#start();
    this.#shared = shared;
    shared.commands++;
    shared.answer = Promise.withResolvers();
    ftruncateSync(this.#fd, 0);
    shared.child.send({ dir, args } satisfies Job);
    const { child, answer } = shared;
    const ended = Promise.race([answer.promise, child.exited]);
    const usage = await watch(child.pid, dir, ended, this.#limits);
    const hasAnswered = child.exitCode === null && child.signalCode === null && usage.stopped === null;
    if (!hasAnswered) {
      await child.exited;
      this.#shared = null;
      return this.#outcome(child, usage);
    }
    const status = await answer.promise;
    if (shared.commands >= COMMANDS_PER_PROCESS) this.#end();
    return { ...this.#read(), ...usage, status, signal: null };
  }

  /** Runs it in a process of its own: the built executable, or `bun ENTRY`. */
  async runAlone(dir: string, args: readonly string[], executable: string | null): Promise<Outcome> {
    ftruncateSync(this.#fd, 0);
    const program = executable === null ? [process.execPath, this.#entry] : [executable];
    const child = Bun.spawn([...program, ...args], {
      cwd: dir,
      env: { ...baseEnv, HOME: dir, XDG_CACHE_HOME: join(dir, ".cache") },
      stdio: ["ignore", "ignore", this.#fd],
    });
    const usage = await watch(child.pid, dir, child.exited, this.#limits);
    await child.exited;
    return this.#outcome(child, usage);
  }

  #start(): Shared {
    const shared: Shared = {
      commands: 0,
      answer: Promise.withResolvers(),
      child: Bun.spawn([process.execPath, join(import.meta.dir, "worker.ts"), this.#entry], {
        env: baseEnv,
        stdio: ["ignore", "ignore", this.#fd],
        ipc: ({ status }: { status: number }) => shared.answer.resolve(status),
      }),
    };
    return shared;
  }

  #end(): void {
    this.#shared?.child.kill("SIGKILL");
    this.#shared = null;
  }

  #outcome(child: Bun.Subprocess, usage: Usage): Outcome {
    const signal = usage.stopped === null ? child.signalCode : null;
    return {
      ...this.#read(),
      ...usage,
      status: child.exitCode,
      signal: signal === null ? null : String(signal),
    };
  }

  #read(): { stderr: string } {
    const { size } = fstatSync(this.#fd);
    const bytes = readFileSync(this.#stderr);
    return { stderr: size > STDERR_BYTES ? bytes.toString("utf8", size - STDERR_BYTES) : bytes.toString() };
  }
}
