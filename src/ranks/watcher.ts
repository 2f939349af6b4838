// Keeps in touch with the other ranks from a thread of its own, whatever the main thread is busy with: rank 0 hears from
// all, the others from rank 0. A rank that ends, falls silent or fails ends the run on all of them.

import { createServer, type Server, type Socket } from "node:net";
import { hostname } from "node:os";
import { type Address, dial, ownHosts } from "./dial.ts";
import { encodeMessage, listenTo, MAGIC, type Message } from "./messages.ts";
import { TcpStore } from "./store.ts";
import type { FromWatcher, ToWatcher, Watch } from "./watch.ts";

/** Between two signs of life: a share of the patience, and the most. */
const BEAT_SHARE = 1 / 24;
const MOST_BEAT_MILLISECONDS = 2000;
/** For the last words to go out, to ranks that may not be listening. */
const FAREWELL_MILLISECONDS = 1500;
const FAILED = 1;

interface Link {
  socket: Socket;
  name: string;
  heard: number;
  hasLeft: boolean;
}

/** What hub and spoke have in common; `post` tells the main thread. */
export abstract class Watcher {
  protected readonly links = new Map<number, Link>();
  protected isOver = false;
  /** When it began to look for the others. */
  #begun = 0;
  #hasFailed = false;
  #beat: ReturnType<typeof setInterval> | undefined;

  constructor(
    protected readonly watch: Watch,
    protected readonly post: (message: FromWatcher) => void,
  ) {}

  /** Finds the other ranks. A sentence that starts with a name is thrown as it is told. */
  protected abstract meet(): Promise<void>;
  protected abstract share(rank: number, round: number, text: string): void;
  protected abstract take(rank: number, message: Message): void;
  protected abstract leave(): void;

  async start(): Promise<void> {
    this.#begun = performance.now();
    this.#beat = setInterval(() => this.#lookAround(), this.beatMilliseconds);
    try {
      await this.meet();
    } catch (error) {
      this.fail(error instanceof Error ? error.message : String(error));
    }
  }

  /** The main thread's wish. */
  hear(message: Exclude<ToWatcher, { kind: "start" }>): void {
    if (message.kind === "share") this.share(this.watch.rank, message.round, message.text);
    else if (message.kind === "fail") this.fail(message.sentence, message.status);
    else if (message.kind === "meet") this.meetAt(message.addresses);
    else this.leave();
  }

  protected meetAt(_addresses: readonly Address[]): void {}

  protected get beatMilliseconds(): number {
    return Math.min(this.watch.patience * BEAT_SHARE, MOST_BEAT_MILLISECONDS);
  }

  /** What is left of the patience for finding the others, however many waits that takes. */
  protected get remaining(): number {
    return Math.max(0, this.#begun + this.watch.patience - performance.now());
  }

  /** `wait`: milliseconds until the rank is given up where it says nothing. */
  protected add(rank: number, socket: Socket, name: string, wait = this.watch.patience): void {
    const heard = performance.now() + wait - this.watch.patience;
    this.links.set(rank, { socket, name, heard, hasLeft: false });
  }

  protected heard(rank: number, message: Message): void {
    const link = this.links.get(rank);
    if (link !== undefined) link.heard = performance.now();
    if (message.kind === "failed") this.fail(message.sentence, message.status);
    else if (message.kind === "bye" && link !== undefined) link.hasLeft = true;
    this.take(rank, message);
  }

  protected closed(rank: number): void {
    const link = this.links.get(rank);
    if (this.isOver || link === undefined || link.hasLeft) return;
    this.fail(
      `${link.name} ended without saying why; look at its own output, or at the system's log for a kill`,
    );
  }

  protected send(rank: number, message: Message): void {
    const socket = this.links.get(rank)?.socket;
    if (socket !== undefined && !socket.destroyed) socket.write(encodeMessage(message));
  }

  protected sendAll(message: Message): void {
    for (const rank of this.links.keys()) this.send(rank, message);
  }

  /** Ends the run on all ranks that can be reached. The first failure is the one that is told. */
  protected fail(sentence: string, status = FAILED): void {
    if (this.#hasFailed) return;
    this.#hasFailed = true;
    this.isOver = true;
    this.sendAll({ kind: "failed", sentence, status });
    this.post({ kind: "failed", sentence, status });
    this.finish();
  }

  /** Hangs up once all that was said has gone out. */
  protected finish(): void {
    this.isOver = true;
    clearInterval(this.#beat);
    const ended = [...this.links.values()].map(
      ({ socket }) =>
        new Promise<void>((resolve) => {
          if (socket.destroyed) resolve();
          else socket.end(resolve);
        }),
    );
    void Promise.race([Promise.all(ended), Bun.sleep(FAREWELL_MILLISECONDS)]).then(() =>
      this.post({ kind: "done" }),
    );
  }

  #lookAround(): void {
    if (this.isOver) return;
    this.sendAll({ kind: "alive" });
    for (const { name, heard, hasLeft } of this.links.values()) {
      const silence = performance.now() - heard;
      if (hasLeft || silence < this.watch.patience) continue;
      this.fail(
        `${name} has not answered for ${Math.round(silence / 1000)} s: it is stopped, or its machine cannot be reached`,
      );
    }
  }
}

const within = <T>(milliseconds: number, awaited: Promise<T>) =>
  Promise.race([awaited, Bun.sleep(milliseconds).then(() => null)]);
const seconds = (milliseconds: number) => `${Math.round(milliseconds / 100) / 10} s`;
/** Where MPI or torchrun's store has the ranks wait for each other. */
const unmet = ({ rank, size, patience, meeting }: Watch) =>
  `rank ${rank} of ${size} waited ${seconds(patience)} ${meeting.kind === "given" ? "in MPI for all ranks" : "for rank 0"} to start: one has ended, is stopped or did not start; look at the other ranks' own output`;
const nameOf = (rank: number, host: string, process: number) => `rank ${rank} (${host}, process ${process})`;

/** Rank 0: all others come to it. */
export class Hub extends Watcher {
  #server: Server | null = null;
  #store: TcpStore | null = null;
  readonly #joined = Promise.withResolvers<true>();
  readonly #rounds = new Map<number, string[]>();

  protected async meet(): Promise<void> {
    const { meeting, patience, size } = this.watch;
    const port = await this.#listen(meeting.kind === "master" ? meeting.address.port : 0);
    const addresses = ownHosts().map((host) => ({ host, port }));
    if (meeting.kind === "given") this.post({ kind: "listening", addresses });
    if (meeting.kind === "store") {
      this.#store = new TcpStore(await dial([meeting.address], this.remaining));
      const all = [{ host: meeting.address.host, port }, ...addresses];
      this.#store.set(meeting.key, JSON.stringify(all));
    }
    const inTime = await within(this.remaining, this.#joined.promise);
    this.#store?.close();
    if (this.isOver) return;
    if (inTime === null) {
      if (meeting.kind === "given" && this.links.size === 0) throw new Error(unmet(this.watch));
      const missing = Array.from({ length: size - 1 }, (_, i) => i + 1).filter(
        (rank) => !this.links.has(rank),
      );
      const shown = missing.slice(0, 8).join(", ");
      throw new Error(
        `rank ${shown}${missing.length > 8 ? ", …" : ""} of ${size} did not come within ${seconds(patience)}; rank 0 waited for it on port ${port}`,
      );
    }
    this.sendAll({ kind: "joined" });
    this.post({ kind: "joined" });
  }

  async #listen(port: number): Promise<number> {
    const server = createServer((socket) => this.#welcome(socket));
    this.#server = server;
    const listening = (host: string) =>
      new Promise<void>((resolve, reject) => {
        server.once("error", reject);
        server.listen(port, host, () => {
          server.removeListener("error", reject);
          resolve();
        });
      });
    try {
      await listening("0.0.0.0");
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new Error(`rank 0 cannot listen on port ${port}: ${reason}; set MASTER_PORT to a free port`);
    }
    return (server.address() as { port: number }).port;
  }

  #welcome(socket: Socket): void {
    let rank: number | null = null;
    listenTo(
      socket,
      (message) => {
        if (rank !== null) this.heard(rank, message);
        else if (message.kind === "hello" && message.magic === MAGIC) {
          rank = this.#seat(message, socket);
        } else socket.destroy();
      },
      () => {
        if (rank !== null) this.closed(rank);
      },
    );
  }

  /** Lets a rank in, or says why not. Returns its number where it is in. */
  #seat({ rank, size, host, process }: Extract<Message, { kind: "hello" }>, socket: Socket): number | null {
    const name = nameOf(rank, host, process);
    if (size === this.watch.size && rank > 0 && rank < size && !this.links.has(rank)) {
      this.add(rank, socket, name);
      this.send(rank, { kind: "alive" });
      if (this.links.size === size - 1) this.#joined.resolve(true);
      return rank;
    }
    const first = this.links.get(rank)?.name ?? nameOf(0, hostname(), globalThis.process.pid);
    const sentence =
      size === this.watch.size
        ? `two processes are rank ${rank}: ${first} and ${name}; check the launcher's variables`
        : `${name} was started as one of ${size} ranks, rank 0 as one of ${this.watch.size}`;
    socket.end(encodeMessage({ kind: "failed", sentence, status: FAILED }));
    this.fail(sentence);
    return null;
  }

  protected take(rank: number, message: Message): void {
    if (message.kind === "share") this.share(rank, message.round, message.text);
    if (message.kind === "bye") this.#endWhenAllLeft();
  }

  protected share(rank: number, round: number, text: string): void {
    const texts = this.#rounds.get(round) ?? [];
    this.#rounds.set(round, texts);
    texts[rank] = text;
    if (Object.keys(texts).length < this.watch.size) return;
    this.#rounds.delete(round);
    this.sendAll({ kind: "shared", round, texts });
    this.post({ kind: "shared", round, texts });
  }

  #isLeaving = false;

  protected leave(): void {
    this.#isLeaving = true;
    this.#endWhenAllLeft();
  }

  #endWhenAllLeft(): void {
    if (!this.#isLeaving || this.isOver) return;
    if ([...this.links.values()].some(({ hasLeft }) => !hasLeft)) return;
    this.sendAll({ kind: "bye" });
    this.finish();
  }

  protected override finish(): void {
    this.#server?.close();
    super.finish();
  }
}

/** Every other rank. */
export class Spoke extends Watcher {
  readonly #given = Promise.withResolvers<readonly Address[]>();

  protected override meetAt(addresses: readonly Address[]): void {
    this.#given.resolve(addresses);
  }

  protected async meet(): Promise<void> {
    const { rank, size, patience } = this.watch;
    let socket: Socket | null;
    try {
      const addresses = await this.#addresses();
      socket = addresses === null ? null : await dial(addresses, this.remaining);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new Error(`rank ${rank} does not reach rank 0 within ${seconds(patience)}: ${reason}`);
    }
    if (socket === null) throw new Error(unmet(this.watch));
    // A stopped process is connected to all the same, by its system.
    this.add(0, socket, "rank 0", Math.max(this.remaining, 2 * this.beatMilliseconds));
    listenTo(
      socket,
      (message) => this.heard(0, message),
      () => this.closed(0),
    );
    this.send(0, {
      kind: "hello",
      magic: MAGIC,
      rank,
      size,
      host: hostname(),
      process: globalThis.process.pid,
    });
  }

  /** Null: nobody has said in time. */
  async #addresses(): Promise<readonly Address[] | null> {
    const { meeting } = this.watch;
    if (meeting.kind === "master") return [meeting.address];
    if (meeting.kind === "given") return within(this.remaining, this.#given.promise);
    const store = new TcpStore(await dial([meeting.address], this.remaining));
    try {
      const text = await within(this.remaining, store.get(meeting.key));
      return text === null ? null : (JSON.parse(text) as Address[]);
    } finally {
      store.close();
    }
  }

  protected take(_rank: number, message: Message): void {
    if (message.kind === "joined") this.post({ kind: "joined" });
    if (message.kind === "shared") this.post({ kind: "shared", round: message.round, texts: message.texts });
    if (message.kind === "bye" && !this.isOver) this.finish();
  }

  protected share(_rank: number, round: number, text: string): void {
    this.send(0, { kind: "share", round, text });
  }

  protected leave(): void {
    this.send(0, { kind: "bye" });
  }
}
