// Which rank this process is, of how many, and where rank 0 is to be found: read from what launchers set.

import { UsageError } from "../errors.ts";

export type Environment = Readonly<Record<string, string | undefined>>;

/** Who started the ranks. "variables": RANK and WORLD_SIZE alone, as Kubernetes' PyTorchJob sets them. */
export type Launcher = "torchrun" | "slurm" | "mpi" | "variables";

export interface Placement {
  rank: number;
  size: number;
  /** Among the ranks of this machine; null: the launcher does not say. */
  local: number | null;
  launcher: Launcher;
  /** Where rank 0 listens, or torchrun's store; null: no launcher says, MPI has to. */
  master: { host: string; port: number } | null;
  /** torchrun's agent holds the master's port itself, as a key-value store. */
  hasStore: boolean;
}

interface Names {
  launcher: Launcher;
  rank: string;
  size: readonly string[];
  local: readonly string[];
}

// MPI's variables go before Slurm's: mpirun may run inside a Slurm job, whose variables then speak of its daemons.
const known: readonly Names[] = [
  { launcher: "variables", rank: "RANK", size: ["WORLD_SIZE"], local: ["LOCAL_RANK"] },
  {
    launcher: "mpi",
    rank: "OMPI_COMM_WORLD_RANK",
    size: ["OMPI_COMM_WORLD_SIZE"],
    local: ["OMPI_COMM_WORLD_LOCAL_RANK"],
  },
  {
    launcher: "slurm",
    rank: "SLURM_PROCID",
    size: ["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"],
    local: ["SLURM_LOCALID"],
  },
  {
    launcher: "mpi",
    rank: "PMI_RANK",
    size: ["PMI_SIZE"],
    local: ["MPI_LOCALRANKID", "PMI_LOCAL_RANK"],
  },
  { launcher: "mpi", rank: "PMIX_RANK", size: ["PMIX_SIZE"], local: ["PMIX_LOCAL_RANK"] },
];

/** The ports that a Slurm job's ranks meet at, by the job's number. */
const SLURM_PORTS = { first: 20000, count: 20000 };
const DEFAULT_PORT = 29500;
const MOST_RANKS = 65536;

/** Null where nothing says that there are other ranks. Throws UsageError for variables that contradict themselves. */
export function placementOf(env: Environment): Placement | null {
  const names = known.find((each) => isSaid(each, env));
  if (names === undefined) return null;
  const size = first(env, names.size);
  if (size === null || size.value === 1) return null;
  const rank = count(env, names.rank);
  if (rank === null) throw new UsageError(`${size.name}=${size.value}, but ${names.rank} is not set`);
  if (size.value < 1 || size.value > MOST_RANKS || rank >= size.value) {
    throw new UsageError(
      `${names.rank}=${rank} and ${size.name}=${size.value}: expected a rank below the number of ranks, which is at most ${MOST_RANKS}`,
    );
  }
  const local = first(env, names.local)?.value ?? null;
  const hasStore = env.TORCHELASTIC_USE_AGENT_STORE === "True";
  const launcher = names.launcher === "variables" && hasStore ? "torchrun" : names.launcher;
  return { rank, size: size.value, local, launcher, master: masterOf(env, launcher), hasStore };
}

/** This process's number among several, as far as the variables say; null: it is alone. Never throws. */
export function rankOf(env: Environment): number | null {
  const names = known.find((each) => isSaid(each, env));
  if (names === undefined) return null;
  const [rank, size] = [env[names.rank], names.size.map((name) => env[name]).find((text) => text)];
  return rank !== undefined && size !== "1" && /^\d{1,9}$/.test(rank) ? Number(rank) : null;
}

/** Whether these variables are set, and mean this process. */
function isSaid({ rank, size, launcher }: Names, env: Environment): boolean {
  const hasSize = size.some((name) => isSet(env, name));
  if (launcher === "variables") return hasSize;
  // In a batch script, beside its steps, Slurm's variables are those of the whole job.
  if (launcher === "slurm" && isSet(env, "SLURM_JOB_ID") && !isSet(env, "SLURM_STEP_ID")) return false;
  // MPICH's mpirun starts its own helpers as a step, and its ranks inherit their variables.
  const isHelper = isSet(env, "PMI_RANK") && env.PMI_RANK !== env.SLURM_PROCID;
  if (launcher === "slurm" && isHelper) return false;
  return hasSize && isSet(env, rank);
}

function masterOf(env: Environment, launcher: Launcher): Placement["master"] {
  const given = count(env, "MASTER_PORT");
  if (given !== null && given > 65535)
    throw new UsageError(`MASTER_PORT=${given}: expected a port of at most 65535`);
  const job = env.SLURM_JOB_ID;
  const ofJob = launcher === "slurm" && job !== undefined && /^\d+$/.test(job) ? Number(job) : null;
  const port = given ?? (ofJob === null ? DEFAULT_PORT : SLURM_PORTS.first + (ofJob % SLURM_PORTS.count));
  const host = env.MASTER_ADDR || (launcher === "slurm" ? slurmHost(env) : null);
  if (host !== null && host !== undefined) return { host, port };
  if (launcher === "mpi") return null;
  throw new UsageError("MASTER_ADDR is not set: it names the machine of rank 0 to all ranks");
}

/** The first machine of the job's step: rank 0 runs there. */
function slurmHost(env: Environment): string {
  const list = env.SLURM_STEP_NODELIST || env.SLURM_JOB_NODELIST || env.SLURM_NODELIST;
  return list === undefined || list === "" ? "127.0.0.1" : firstHost(list);
}

/** The first name of a list such as `gpu[03-05,09]-ib,login1`. */
export function firstHost(list: string): string {
  const [, prefix = "", range, suffix = ""] = /^([^[,]*)(?:\[([^\]]*)\]([^,]*))?/.exec(list) ?? [];
  if (range === undefined) return prefix;
  return firstHost(`${prefix}${/^[^-,]*/.exec(range)![0]}${suffix}`);
}

const isSet = (env: Environment, name: string) => env[name] !== undefined && env[name] !== "";

function count(env: Environment, name: string): number | null {
  const text = env[name];
  if (text === undefined || text === "") return null;
  if (!/^\d{1,9}$/.test(text)) throw new UsageError(`${name}=${text}: expected a whole number of at least 0`);
  return Number(text);
}

function first(env: Environment, names: readonly string[]): { name: string; value: number } | null {
  for (const name of names) {
    const value = count(env, name);
    if (value !== null) return { name, value };
  }
  return null;
}
