// Runs one command after the other in this process, each as the executable would: the whole of main.ts, anew, in a
// folder of its own. The parent says what to run and watches; see runner.ts.
//   bun worker.ts ENTRY

export interface Job {
  dir: string;
  args: readonly string[];
}

class Exit extends Error {
  readonly status: number;

  constructor(status: number) {
    super(`exit ${status}`);
    this.status = status;
  }
}

process.exit = ((status?: number) => {
  throw new Exit(status ?? 0);
}) as typeof process.exit;

/** The thread that ends a process which does not hear Ctrl-C would outlive its command, and end another one. */
globalThis.Worker = class extends Worker {
  constructor(url: string | URL, options?: WorkerOptions) {
    if (String(url).includes("interrupt-worker")) throw new Error("the process is shared");
    super(url, options);
  }
};

const entry = process.argv[2]!;
let count = 0;

process.on("message", async ({ dir, args }: Job) => {
  process.chdir(dir);
  process.env.HOME = dir;
  process.env.XDG_CACHE_HOME = `${dir}/.cache`;
  process.argv = [process.execPath, entry, ...args];
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"]) process.removeAllListeners(name);
  // The query makes it another module, which begins from its first line.
  const status = await import(`${entry}?${count++}`).then(
    () => 0,
    (error: unknown) => {
      if (error instanceof Exit) return error.status;
      throw error;
    },
  );
  process.send!({ status });
});
