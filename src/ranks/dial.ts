// Connecting to rank 0, which may be a while in coming.

import { connect, type Socket } from "node:net";
import { hostname, networkInterfaces } from "node:os";

export interface Address {
  host: string;
  port: number;
}

const PAUSE_MILLISECONDS = 100;
/** Until a machine that does not answer is left for the next address; where time is short, a share of what is left. */
const ATTEMPT_MILLISECONDS = 5000;
const LEAST_ATTEMPT_MILLISECONDS = 200;

/** Tries the addresses in turn, again and again, each at least once; throws after `milliseconds`. */
export async function dial(addresses: readonly Address[], milliseconds: number): Promise<Socket> {
  const end = performance.now() + milliseconds;
  for (;;) {
    let reason = "";
    for (const [i, address] of addresses.entries()) {
      const share = (end - performance.now()) / (addresses.length - i);
      const most = Math.max(LEAST_ATTEMPT_MILLISECONDS, Math.min(ATTEMPT_MILLISECONDS, share));
      try {
        return await attempt(address, most);
      } catch (error) {
        reason = error instanceof Error ? error.message : String(error);
      }
    }
    if (performance.now() + PAUSE_MILLISECONDS > end) {
      const where = addresses.map(({ host, port }) => `${host}:${port}`).join(", ");
      throw new Error(`${where}: ${reason}`);
    }
    await Bun.sleep(PAUSE_MILLISECONDS);
  }
}

function attempt({ host, port }: Address, milliseconds: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port });
    const timer = setTimeout(() => {
      socket.destroy();
      reject(new Error("no answer"));
    }, milliseconds);
    socket.once("connect", () => {
      clearTimeout(timer);
      socket.removeListener("error", fail);
      resolve(socket);
    });
    const fail = (error: Error) => {
      clearTimeout(timer);
      reject(error);
    };
    socket.once("error", fail);
  });
}

/** Names of this machine, by which others may reach it: the likeliest first. */
export function ownHosts(): string[] {
  const outer = Object.values(networkInterfaces())
    .flatMap((each) => each ?? [])
    .filter(({ internal, family }) => !internal && family === "IPv4")
    .map(({ address }) => address);
  return [...outer, hostname(), "127.0.0.1"];
}
