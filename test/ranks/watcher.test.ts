// How long a rank waits for rank 0 to be found: its patience once, however many things it has to wait for.

import { afterAll, expect, test } from "bun:test";
import { createServer, type Server, type Socket } from "node:net";
import { type Address, dial } from "../../src/ranks/dial.ts";
import { encodeMessage, listenTo, MAGIC, type Message } from "../../src/ranks/messages.ts";
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

interface End {
  sentence: string;
  milliseconds: number;
}

/** The sentence that ends a rank of two, and after how many milliseconds it comes. `told`: MPI says `after` so many where rank 0 is. */
function end(rank: number, meeting: Watch["meeting"], told?: Address, after = LATE): Promise<End> {
  const start = performance.now();
  return new Promise((resolve) => {
    const hear = (message: FromWatcher) => {
      const milliseconds = performance.now() - start;
      if (message.kind === "failed") resolve({ sentence: message.sentence, milliseconds });
    };
    const watch: Watch = { rank, size: 2, state: new SharedArrayBuffer(8), patience: PATIENCE, meeting };
    const watcher = rank === 0 ? new Hub(watch, hear) : new Spoke(watch, hear);
    void watcher.start();
    if (told !== undefined) setTimeout(() => watcher.hear({ kind: "meet", addresses: [told] }), after);
  });
}

/** The ranks meet in torchrun's store. */
const inStore = (address: Address): Watch["meeting"] => ({ kind: "store", address, key: "rank0" });
const inMpi: Watch["meeting"] = { kind: "given" };

test("the waits of a meeting are not added up", async () => {
  const silent = await serve();
  const nobody = at(await freePort());
  const ends = await Promise.all([
    end(1, inStore(await serveLateStore(silent))),
    end(1, inStore(await serveLateStore(nobody))),
    end(1, inStore(await serve(() => {}, LATE))),
    end(0, inStore(await serve(() => {}, LATE))),
    end(1, inMpi, silent),
    end(1, inMpi),
    end(0, inMpi),
    end(1, inMpi, silent, PATIENCE - 20),
  ]);
  const sentences = [
    "rank 0 has not answered for 1 s",
    "rank 1 does not reach rank 0 within 1.2 s",
    "rank 1 of 2 waited 1.2 s for rank 0 to start",
    "rank 1 of 2 did not come within 1.2 s",
    "rank 0 has not answered for 1 s",
    "rank 1 of 2 waited 1.2 s in MPI for all ranks to start",
    "rank 0 of 2 waited 1.2 s in MPI for all ranks to start",
    "rank 0 has not answered for 1 s",
  ];
  for (const [i, { sentence, milliseconds }] of ends.entries()) {
    expect(sentence).toContain(sentences[i]!);
    expect(milliseconds).toBeGreaterThan(LATE);
    expect(milliseconds).toBeLessThan(MOST);
  }
  // However late rank 0 is found, it is given two signs of life's time to answer.
  expect(ends.at(-1)!.milliseconds).toBeGreaterThan(PATIENCE + 75);
});

test("rank 0 answers a rank that comes at once, not only with its next sign of life", async () => {
  const address = at(await freePort());
  const joined = Promise.withResolvers<void>();
  const ended = Promise.withResolvers<void>();
  const hear = ({ kind }: FromWatcher) => void (kind === "joined" && joined.resolve());
  const state = new SharedArrayBuffer(8);
  // Signs of life are two seconds apart.
  const hub = new Hub(
    { rank: 0, size: 2, state, patience: 60_000, meeting: { kind: "master", address } },
    hear,
  );
  void hub.start();
  const socket = await dial([address], PATIENCE);
  const heard: string[] = [];
  listenTo(socket, ({ kind }) => heard.push(kind), ended.resolve);
  const say = (message: Message) => socket.write(encodeMessage(message));
  say({ kind: "hello", magic: MAGIC, rank: 1, size: 2, host: "here", process: 1 });
  await joined.promise;
  hub.hear({ kind: "close" });
  say({ kind: "bye" });
  await ended.promise;
  socket.destroy();
  expect(heard.slice(0, 2)).toEqual(["alive", "joined"]);
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
  // However little time is left, each has a moment to answer.
  const late = performance.now();
  sockets.push(await dial([address, await serve()], 1));
  expect(performance.now() - late).toBeGreaterThan(190);
  child.stdin.end();
  await child.exited;
});
