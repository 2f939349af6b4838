// Ranks find each other, exchange texts, and end together whatever happens to one of them.

import { afterEach, describe, expect, test } from "bun:test";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { dial } from "../../src/ranks/dial.ts";
import { encodeMessage, MessageReader } from "../../src/ranks/messages.ts";
import { TcpStore } from "../../src/ranks/store.ts";
import { finished, freePort, type RankProcess, type RankResult, startRanks } from "./support.ts";

const child = [process.execPath, join(import.meta.dir, "meeting-child.ts")];
const SIZE = 3;
let started: RankProcess[] = [];

afterEach(() => {
  for (const each of started) each.kill("SIGKILL");
});

async function meet(faults: Record<number, string>, env: Record<string, string> = {}): Promise<RankResult[]> {
  const envOf = (rank: number) => (faults[rank] === undefined ? {} : { FAULT: faults[rank] });
  started = await startRanks(child, SIZE, { ...process.env, ...env }, { envOf });
  const ends = started.map(finished);
  for (const [rank, fault] of Object.entries(faults)) {
    if (fault === "stops")
      void Promise.any(ends)
        .then(() => Bun.sleep(1000))
        .then(() => started[Number(rank)]!.kill(9));
  }
  return Promise.all(ends);
}

test("all hear all, and leave together", async () => {
  for (const { status, stdout, stderr } of await meet({})) {
    expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: "0,1,2\nclosed\n", stderr: "" });
  }
});

test("one with another option: all name it", async () => {
  for (const [rank, { status, stderr }] of (await meet({ 2: "differs" })).entries()) {
    expect(status).toBe(1);
    expect(stderr).toBe(
      `rank ${rank}: error: rank 2 differs from rank 0: --alpha is 10, on rank 0 5; all ranks must have the same\n`,
    );
  }
});

describe.each([0, 2])("rank %p", (faulty) => {
  test("dies: the others name it within seconds", async () => {
    const results = await meet({ [faulty]: "dies" });
    expect(results[faulty]!.status).toBeNull();
    for (const [rank, { status, stderr }] of results.entries()) {
      if (rank === faulty) continue;
      expect(status).toBe(1);
      expect(stderr).toMatch(
        new RegExp(`^rank ${rank}: error: rank ${faulty}( \\(.*\\))? ended without saying why.*\n$`),
      );
    }
  });

  test("throws: the others say why", async () => {
    for (const [rank, { status, stderr }] of (await meet({ [faulty]: "throws" })).entries()) {
      expect(status).toBe(1);
      const cause = rank === faulty ? "" : `rank ${faulty} failed: `;
      expect(stderr).toBe(`rank ${rank}: error: ${cause}the disk is full\n`);
    }
  });

  test("is stopped: the others give it up within the timeout", async () => {
    const start = performance.now();
    const results = await meet({ [faulty]: "stops" }, { NEFTUNE_COMM_TIMEOUT: "4" });
    expect(performance.now() - start).toBeLessThan(12_000);
    for (const [rank, { status, stderr }] of results.entries()) {
      if (rank === faulty) continue;
      expect(status).toBe(1);
      expect(stderr).toContain(`rank ${rank}: error: rank ${faulty}`);
      expect(stderr).toContain("has not answered for");
    }
  });
});

test("a rank that dies ends one whose main thread is busy", async () => {
  const results = await meet({ 1: "is busy", 2: "dies" });
  expect(results[1]!.status).toBe(1);
  expect(results[1]!.stderr).toMatch(/^rank 1: error: rank 2 .* ended without saying why/);
});

test("a rank that does not come is named", async () => {
  const env = { ...process.env, NEFTUNE_COMM_TIMEOUT: "2" };
  started = (await startRanks(child, 2, env, { envOf: () => ({ WORLD_SIZE: "3" }) })).slice();
  const results = await Promise.all(started.map(finished));
  for (const { status, stderr } of results) {
    expect(status).toBe(1);
    expect(stderr).toContain("rank 2 of 3 did not come within 1.6 s");
  }
});

test("two processes of the same rank are refused", async () => {
  started = await startRanks(child, SIZE, process.env, {
    envOf: (rank) => ({ RANK: String(Math.min(rank, 1)) }),
  });
  const [first] = await Promise.all(started.map(finished));
  expect(first!.status).toBe(1);
  expect(first!.stderr).toContain("two processes are rank 1");
});

test("messages come out whole, however they were cut", () => {
  const sent = ["", "ä".repeat(1000), "x"].map((text, round) => ({ kind: "share", round, text }) as const);
  const bytes = Buffer.concat(sent.map(encodeMessage));
  for (const size of [1, 3, 7, 4096]) {
    const reader = new MessageReader();
    const got = [];
    for (let at = 0; at < bytes.length; at += size) got.push(...reader.read(bytes.subarray(at, at + size)));
    expect(got).toEqual(sent);
  }
  expect(() => new MessageReader().read(Buffer.from("GET / HTTP/1.1\r\n"))).toThrow("a message of");
});

describe("torchrun's store", () => {
  /** The part of TCPStore's server that is used: values by key, waiting until they are set. */
  function serve(port: number): Promise<Server> {
    const values = new Map<string, Buffer>();
    const waiting = new Map<string, Socket[]>();
    const server = createServer((socket) => {
      let have = Buffer.alloc(0);
      const next = (): boolean => {
        const kind = have[0];
        const textAt = (at: number) => {
          const length = Number(have.readBigUInt64LE(at));
          return { text: have.subarray(at + 8, at + 8 + length), end: at + 8 + length };
        };
        if (kind === 0) have = have.subarray(5);
        else if (kind === 1) {
          const key = textAt(1);
          const value = textAt(key.end);
          values.set(key.text.toString(), Buffer.from(value.text));
          for (const other of waiting.get(key.text.toString()) ?? []) other.write(Buffer.of(0));
          have = have.subarray(value.end);
        } else if (kind === 6) {
          const key = textAt(9);
          const name = key.text.toString();
          if (values.has(name)) socket.write(Buffer.of(0));
          else waiting.set(name, [...(waiting.get(name) ?? []), socket]);
          have = have.subarray(key.end);
        } else if (kind === 3) {
          const key = textAt(1);
          const value = values.get(key.text.toString())!;
          const length = Buffer.alloc(8);
          length.writeBigUInt64LE(BigInt(value.length));
          socket.write(Buffer.concat([length, value]));
          have = have.subarray(key.end);
        } else return false;
        return have.length > 0;
      };
      socket.on("error", () => {});
      socket.on("data", (chunk: Buffer) => {
        have = Buffer.concat([have, chunk]);
        while (next());
      });
    });
    return new Promise((resolve) => server.listen(port, "127.0.0.1", () => resolve(server)));
  }

  test("a value is found before and after it is set", async () => {
    const port = await freePort();
    const server = await serve(port);
    const address = { host: "127.0.0.1", port };
    const [a, b] = [new TcpStore(await dial([address], 1000)), new TcpStore(await dial([address], 1000))];
    const early = b.get("rank 0");
    await Bun.sleep(20);
    a.set("rank 0", "node0:1234");
    expect(await early).toBe("node0:1234");
    expect(await b.get("rank 0")).toBe("node0:1234");
    for (const store of [a, b]) store.close();
    server.close();
  });

  test("ranks meet by way of it", async () => {
    const port = await freePort();
    const server = await serve(port);
    const store = { TORCHELASTIC_USE_AGENT_STORE: "True", MASTER_PORT: String(port) };
    const joinChild = [process.execPath, join(import.meta.dir, "store-child.ts")];
    started = await startRanks(joinChild, SIZE, process.env, { envOf: () => store });
    for (const { status, stdout } of await Promise.all(started.map(finished))) {
      expect({ status, stdout }).toEqual({ status: 0, stdout: "0,1,2\n" });
    }
    server.close();
  });
});

test("an address that nobody listens at is named", async () => {
  const port = await freePort();
  await expect(dial([{ host: "127.0.0.1", port }], 50)).rejects.toThrow(`127.0.0.1:${port}`);
});
