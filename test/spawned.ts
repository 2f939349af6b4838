// A program that a test runs to its end.

export interface Finished {
  /** Null: killed by a signal. */
  status: number | null;
  stdout: string;
  stderr: string;
}

/** Runs a command with nothing on standard input; what it prints, says and ends with. */
export async function spawned(
  command: string[],
  where: { cwd: string; env: Record<string, string | undefined> },
): Promise<Finished> {
  return finished(Bun.spawn(command, { ...where, stdin: "ignore", stdout: "pipe", stderr: "pipe" }));
}

/** A process's output and end. */
export async function finished(
  child: Bun.Subprocess<Bun.SpawnOptions.Writable, "pipe", "pipe">,
): Promise<Finished> {
  const [stdout, stderr] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  await child.exited;
  return { status: child.exitCode, stdout, stderr };
}
