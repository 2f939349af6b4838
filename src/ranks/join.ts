// Joins the ranks of a run: they find each other, each opens its device, and a communicator is made between them.

import { readFileSync } from "node:fs";
import { hostname } from "node:os";
import { NeftuneError } from "../errors.ts";
import {
  Communicator,
  Device,
  hasCudaLibrary,
  makeCommunicatorId,
  probeCuda,
  type Seat,
} from "../native/index.ts";
import type { Address } from "./dial.ts";
import type { Environment, Placement } from "./placement.ts";
import { onAllRanks, patienceOf, Ranks } from "./ranks.ts";
import { type Machine, Team } from "./team.ts";
import type { Watch } from "./watch.ts";

export interface WantedDevice {
  kind: "auto" | "cpu" | "cuda";
  /** Which GPU; null: that of the rank's place on its machine. */
  index: number | null;
  /** CPU threads; 0: this rank's share. */
  threads: number;
}

/** Told as soon as this rank looks for the others: from then on they hear of its failure. */
export type OnStart = (ranks: Ranks) => void;

/** Throws RankError where another rank fails, NeftuneError where this one does or all do. */
export async function joinTeam(
  placement: Placement,
  wanted: WantedDevice,
  env: Environment,
  onStart: OnStart,
): Promise<Team> {
  const state = Ranks.sharedState();
  const kind = kindOf(wanted);
  const seat = { rank: placement.rank, ranks: placement.size, id: null, stop: Ranks.stopOf(state) };
  // Between CPUs, and where no variable says where rank 0 is, MPI brings the ranks together.
  const needsMpi = kind === "cpu" || placement.master === null;
  const meeting = meetingOf(placement, needsMpi);
  const ranks = new Ranks(
    { rank: placement.rank, size: placement.size, patience: patienceOf(env), meeting },
    state,
  );
  onStart(ranks);
  const mpi = needsMpi ? await meetInMpi(ranks, seat) : null;
  await ranks.joined();

  const all = (await ranks.share(JSON.stringify(ownFacts(kind)))).map((text) => JSON.parse(text) as Facts);
  expectOneKind(all);
  const machine = placeOnMachine(all, ranks.rank, placement.local);
  if (kind === "cpu") {
    const threads = wanted.threads || shareOfThreads(all, ranks.rank);
    return new Team(ranks, Device.open({ kind: "cpu", threads }), mpi!, machine, mpi);
  }
  const device = openGpu(wanted.index, machine);
  await expectOwnGpu(ranks, device, all[ranks.rank]!);
  const id = ranks.rank === 0 ? Buffer.from(makeCommunicatorId(device)).toString("base64") : "";
  const given = Buffer.from((await ranks.share(id))[0]!, "base64");
  const comm = new Communicator(device, { ...seat, id: new Uint8Array(given) });
  return new Team(ranks, device, comm, machine, mpi);
}

/** Auto is CUDA where a GPU can be used, as without ranks. */
function kindOf({ kind }: WantedDevice): "cpu" | "cuda" {
  if (kind !== "auto") return kind;
  return hasCudaLibrary() && probeCuda().problem === null ? "cuda" : "cpu";
}

function meetingOf({ master, hasStore }: Placement, needsMpi: boolean): Watch["meeting"] {
  if (needsMpi) return { kind: "given" };
  const address = master!;
  return hasStore ? { kind: "store", address, key: storeKey() } : { kind: "master", address };
}

/** Hands rank 0's addresses on. MPI waits for all ranks, however long: it is the watching thread that gives up. */
async function meetInMpi(ranks: Ranks, seat: Seat): Promise<Communicator> {
  const control = Device.open({ kind: "cpu", threads: 1 });
  const mpi = new Communicator(control, seat);
  const text = ranks.rank === 0 ? JSON.stringify(await ranks.listening()) : "";
  const addresses = JSON.parse(broadcastText(control, mpi, text)) as Address[];
  if (ranks.rank > 0) ranks.meetAt(addresses);
  return mpi;
}

/** A restarted job meets under another key than the one before it. */
const storeKey = () => `neftune/${process.env.TORCHELASTIC_RESTART_COUNT ?? 0}/rank0`;

/** Rank 0's text to all. */
function broadcastText(device: Device, comm: Communicator, own: string): string {
  const MOST_BYTES = 4096;
  const bytes = new Uint8Array(MOST_BYTES);
  if (new TextEncoder().encodeInto(own, bytes).read < own.length) throw new Error("the text is too long");
  const tensor = device.allocate("f32", [MOST_BYTES / 4]);
  try {
    device.write(tensor, bytes);
    comm.broadcast(device, tensor);
    const read = device.readBytes(tensor);
    return new TextDecoder().decode(read.subarray(0, read.indexOf(0)));
  } finally {
    device.free(tensor.ptr);
  }
}

interface Facts {
  kind: "cpu" | "cuda";
  /** The same for all ranks of a machine, whatever container they are in. */
  machine: string;
  /** The CPUs that the process may run on. */
  cpus: string;
}

function ownFacts(kind: Facts["kind"]): Facts {
  const read = (path: string) => readFileSync(path, "utf8").trim();
  const cpus = /^Cpus_allowed_list:\s*(\S+)$/m.exec(read("/proc/self/status"))?.[1] ?? "";
  return { kind, machine: `${hostname()} ${read("/proc/sys/kernel/random/boot_id")}`, cpus };
}

function expectOneKind(all: readonly Facts[]): void {
  const other = all.findIndex(({ kind }) => kind !== all[0]!.kind);
  if (other < 0) return;
  throw onAllRanks(
    new NeftuneError(
      "ranks",
      `rank 0 runs on ${all[0]!.kind}, rank ${other} on ${all[other]!.kind}; give all ranks the same --device`,
    ),
  );
}

function placeOnMachine(all: readonly Facts[], rank: number, local: number | null): Machine {
  const { machine } = all[rank]!;
  const here = all.flatMap((facts, other) => (facts.machine === machine ? [other] : []));
  const machines = new Set(all.map((facts) => facts.machine)).size;
  return { rank: local ?? here.indexOf(rank), ranks: here.length, machines };
}

/** Ranks that may run on the same CPUs divide them; 0: all are this rank's. */
function shareOfThreads(all: readonly Facts[], rank: number): number {
  const own = all[rank]!;
  const sharing = all.filter(({ machine, cpus }) => machine === own.machine && cpus === own.cpus).length;
  return sharing === 1 ? 0 : Math.max(1, Math.floor(countCpus(own.cpus) / sharing));
}

/** How many a list such as `0-3,8` names. */
function countCpus(list: string): number {
  return list.split(",").reduce((count, range) => {
    const [first = 0, last = first] = range.split("-").map(Number);
    return count + last - first + 1;
  }, 0);
}

/** The GPU of the rank's place among those it can see; a launcher may have left it one. */
function openGpu(index: number | null, machine: Machine): Device {
  if (index !== null) return Device.open({ kind: "cuda", index });
  const count = probeCuda().devices.length;
  if (count > 1 && machine.rank >= count) {
    throw new NeftuneError(
      "no_device",
      `this machine shows ${count} GPUs, and this is its rank ${machine.rank}, counted from 0; start at most ${count} ranks on it`,
    );
  }
  return Device.open({ kind: "cuda", index: count > 1 ? machine.rank : 0 });
}

async function expectOwnGpu(ranks: Ranks, device: Device, { machine }: Facts): Promise<void> {
  const { uuid = "", name } = device.info;
  const all = await ranks.share(`${machine} ${uuid}`);
  for (const [rank, gpu] of all.entries()) {
    const earlier = all.indexOf(gpu);
    if (earlier === rank) continue;
    throw onAllRanks(
      new NeftuneError(
        "ranks",
        `rank ${earlier} and rank ${rank} run on the same GPU (${name}, UUID ${uuid}); start one rank per GPU, and let CUDA_VISIBLE_DEVICES show each machine's GPUs to its ranks`,
      ),
    );
  }
}
