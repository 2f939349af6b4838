// Ranks of a run that is to be broken: which process each is, what it says, and how it ends, whoever starts them.

import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ensureMpi, mpiexec, startRanks } from "./support.ts";

/** Who starts the ranks: an MPI's launcher on the CPU backend, or variables alone on emulated GPUs. */
export const launches = ["mpich", "openmpi", "emulated"] as const;
export type Launch = (typeof launches)[number];

/** Options of MPI's launchers that leave the other ranks alone when one ends. */
const leaveOthers = { mpich: ["-disable-auto-cleanup"], openmpi: ["--runtime-options", "continuous"] };

/**
 * Keeps a rank's process number, messages and exit status in the folder WATCHED. MPICH's launcher sends SIGUSR1 to all when
 * a rank has left MPI, and kills all once a process, such as this shell, has ended by a signal.
 */
const watching = `
trap "" USR1
rank=\${RANK:-\${PMI_RANK:-$OMPI_COMM_WORLD_RANK}}
bash -c 'echo $$ > "$0"; exec "$@"' "$WATCHED/$rank.process" "$@" 2> "$WATCHED/$rank.messages"
status=$?
echo $status > "$WATCHED/$rank.status"
exit $status`;

const LOOK_MILLISECONDS = 10;
const SETTLE_MILLISECONDS = 10_000;

export class Watched {
  constructor(
    readonly size: number,
    readonly folder: string,
    readonly starters: readonly Bun.Subprocess[],
  ) {}

  /** Null: the rank has not started. */
  processOf(rank: number): number | null {
    const text = this.#read(rank, "process");
    return text.endsWith("\n") ? Number(text) : null;
  }

  messagesOf(rank: number): string {
    return this.#read(rank, "messages");
  }

  /** As a shell has it, 137 for a kill; null: the rank runs. */
  statusOf(rank: number): number | null {
    const text = this.#read(rank, "status");
    return text.endsWith("\n") ? Number(text) : null;
  }

  /** Whether the process of a rank is gone, also where its launcher has killed the shell around it. */
  hasEnded(rank: number): boolean {
    if (this.statusOf(rank) !== null) return true;
    const process = this.processOf(rank);
    if (process !== null) return !runs(process);
    return this.#haveStartersEnded();
  }

  /** Waits until `condition`; false: it did not come in `milliseconds`. */
  async until(condition: () => boolean, milliseconds: number): Promise<boolean> {
    const end = performance.now() + milliseconds;
    while (!condition()) {
      if (performance.now() > end) return false;
      await Bun.sleep(LOOK_MILLISECONDS);
    }
    return true;
  }

  /** After the ranks' end: waits for the shells around them to write their statuses; a launcher may have killed those. */
  async settle(): Promise<void> {
    const isOver = () =>
      this.#haveStartersEnded() || this.ranks.every((rank) => this.statusOf(rank) !== null);
    await this.until(isOver, SETTLE_MILLISECONDS);
  }

  get ranks(): number[] {
    return Array.from({ length: this.size }, (_, rank) => rank);
  }

  /** Ends what is left. */
  async kill(): Promise<void> {
    for (const rank of this.ranks) {
      const process = this.processOf(rank);
      if (process !== null && !this.hasEnded(rank)) send(process, "SIGKILL");
    }
    for (const starter of this.starters) starter.kill("SIGKILL");
    await Promise.all(this.starters.map(({ exited }) => exited));
  }

  #haveStartersEnded(): boolean {
    return this.starters.every(({ exitCode, signalCode }) => exitCode !== null || signalCode !== null);
  }

  #read(rank: number, what: string): string {
    const path = join(this.folder, `${rank}.${what}`);
    return existsSync(path) ? readFileSync(path, "utf8") : "";
  }
}

export function send(process: number, signal: NodeJS.Signals): void {
  try {
    globalThis.process.kill(process, signal);
  } catch {}
}

function runs(process: number): boolean {
  try {
    return !/^State:\s*Z/m.test(readFileSync(`/proc/${process}/status`, "utf8"));
  } catch {
    return false;
  }
}

/** Starts a command as `size` ranks; `isLenient`: the launcher leaves the others alone when one ends. */
export async function startWatched(
  launch: Launch,
  size: number,
  command: readonly string[],
  { cwd, env, folder, isLenient }: WatchedPlace,
): Promise<Watched> {
  mkdirSync(folder, { recursive: true });
  const watched = ["bash", "-c", watching, "bash", ...command];
  const own = { ...env, WATCHED: folder };
  if (launch === "emulated") {
    const devices = { ...own, NEFTUNE_EMULATOR_DEVICES: String(size) };
    return new Watched(size, folder, await startRanks(watched, size, devices, { cwdOf: () => cwd }));
  }
  const prefix = ensureMpi(launch);
  if (prefix === null) throw new Error(`${launch} is not there`);
  const launcher = [...mpiexec(launch, prefix, size), ...(isLenient ? leaveOthers[launch] : [])];
  const starter = Bun.spawn([...launcher, ...watched], {
    ...{ cwd, env: own, stdin: "ignore" },
    ...{ stdout: Bun.file(join(folder, "out")), stderr: Bun.file(join(folder, "launcher")) },
  });
  return new Watched(size, folder, [starter]);
}

export interface WatchedPlace {
  cwd: string;
  env: Record<string, string | undefined>;
  folder: string;
  isLenient: boolean;
}
