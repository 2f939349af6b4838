// How long a rank waits for rank 0 to be found: its patience once, however many things it has to wait for.

import { afterAll, expect, test } from "bun:test";
import { createServer, type Server, type Socket } from "node:net";
import { type Address, dial } from "../../src/ranks/dial.ts";
import type { FromWatcher, Watch } from "../../src/ranks/watch.ts";
import { Hub, Spoke } from "../../src/ranks/watcher.ts";
import { freePort } from "./support.ts";

const PATIENCE = 1200;
/** What comes late comes after half of the patience. Two waits that were added up would be longer by this. */
const LATE = PATIENCE / 2;
const MOST = PATIENCE + LATE - 200;

const servers: Server[] = [];
const sockets: Socket[] = [];
afterAll(() => {
  for (const socket of sockets) socket.destroy();
  for (const server of servers) server.close();
});

const at = (port: number): Address => ({ host: "127.0.0.1", port });

/** A server that does `welcome` with each connection. */
async function serve(welcome: (socket: Socket) => void = () => {}, delay = 0): Promise<Address> {
  const port = await freePort();
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on("error", () => {});
    welcome(socket);
  });
  servers.push(server);
  const listening = new Promise<void>((resolve) => {
    setTimeout(() => server.listen(port, "127.0.0.1", resolve), delay);
  });
  if (delay === 0) await listening;
  return at(port);
}

/** torchrun's store, which says late where rank 0 is. */
const serveLateStore = (rank0: Address) =>
  serve((socket) => {
    const addresses = Buffer.from(JSON.stringify([rank0]));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(addresses.length));
    setTimeout(() => socket.write(Buffer.concat([Buffer.of(0), length, addresses])), LATE);
  });

/** The sentence that ends a rank of two which meet in torchrun's store, and after how many milliseconds it comes. */
function end(rank: number, address: Address): Promise<{ sentence: string; milliseconds: number }> {
  const start = performance.now();
  return new Promise((resolve) => {
    const hear = (message: FromWatcher) => {
      const milliseconds = performance.now() - start;
      if (message.kind === "failed") resolve({ sentence: message.sentence, milliseconds });
    };
    const meeting: Watch["meeting"] = { kind: "store", address, key: "rank0" };
    const watch: Watch = { rank, size: 2, state: new SharedArrayBuffer(8), patience: PATIENCE, meeting };
    void (rank === 0 ? new Hub(watch, hear) : new Spoke(watch, hear)).start();
  });
}

test("the waits of a meeting are not added up", async () => {
  const silent = await serve();
  const nobody = at(await freePort());
  const ends = await Promise.all([
    end(1, await serveLateStore(silent)),
    end(1, await serveLateStore(nobody)),
    end(1, await serve(() => {}, LATE)),
    end(0, await serve(() => {}, LATE)),
  ]);
  const sentences = [
    "rank 0 has not answered for 1 s",
    "rank 1 does not reach rank 0 within 1.2 s",
    "rank 1 of 2 waited 1.2 s for rank 0 to start",
    "rank 1 of 2 did not come within 1.2 s",
  ];
  for (const [i, { sentence, milliseconds }] of ends.entries()) {
    expect(sentence).toContain(sentences[i]!);
    expect(milliseconds).toBeGreaterThan(LATE);
    expect(milliseconds).toBeLessThan(MOST);
  }
});

/** A socket whose queue of connections is full: the system answers no more of them. Prints its port. */
const fullQueue = `
import socket, sys
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(0)
waiting = [socket.socket() for _ in range(4)]
for each in waiting:
    each.setblocking(False)
    each.connect_ex(listener.getsockname())
print(listener.getsockname()[1], flush=True)
sys.stdin.read()`;

test("several addresses that do not answer share the time", async () => {
  const child = Bun.spawn(["python3", "-c", fullQueue], { stdin: "pipe", stdout: "pipe" });
  const { value } = await child.stdout.getReader().read();
  const address = at(Number(new TextDecoder().decode(value)));
  const start = performance.now();
  await expect(dial([address, address, address], PATIENCE)).rejects.toThrow("no answer");
  expect(performance.now() - start).toBeLessThan(MOST);
  child.stdin.end();
  await child.exited;
});
