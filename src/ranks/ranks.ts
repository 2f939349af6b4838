// The ranks of a run as the main thread sees them: texts that all exchange, and who failed.

import { workerUrl } from "../data/worker-url.ts";
import { InterruptedError, NeftuneError } from "../errors.ts";
import type { Address } from "./dial.ts";
import { type FromWatcher, Shared, type ToWatcher, type Watch } from "./watch.ts";

/** Another rank failed: the message says which and why. */
export class RankError extends NeftuneError {
  constructor(sentence: string) {
    super("rank", sentence);
  }
}

/** Errors that all ranks throw at the same place, so that none has to tell the others. */
const shared = new WeakSet<object>();

/** Marks an error that all ranks throw at the same place. */
export function onAllRanks<E extends NeftuneError>(error: E): E {
  shared.add(error);
  return error;
}

const isShared = (error: unknown) => typeof error === "object" && error !== null && shared.has(error);

/** How long a rank may be silent, in seconds: NEFTUNE_COMM_TIMEOUT, and its default. */
const TIMEOUT_VARIABLE = "NEFTUNE_COMM_TIMEOUT";
const TIMEOUT_SECONDS = 60;
/** What remains of the timeout is for ending. */
const PATIENCE_SHARE = 0.8;
/** After an error of the connection itself: for word of the rank that is its cause. */
const CAUSE_MILLISECONDS = 3000;
/** For the other ranks to hear of a failure, or to say goodbye. */
const FAREWELL_MILLISECONDS = 2500;

/** Milliseconds until a rank that is not heard of is given up. Throws NeftuneError. */
export function patienceOf(env: Readonly<Record<string, string | undefined>>): number {
  const text = env[TIMEOUT_VARIABLE] || String(TIMEOUT_SECONDS);
  const seconds = Number(text);
  if (!(seconds >= 1 && seconds <= 86400)) {
    throw new NeftuneError("usage", `${TIMEOUT_VARIABLE}=${text}: expected seconds from 1 to 86400`);
  }
  return seconds * 1000 * PATIENCE_SHARE;
}

export class Ranks {
  readonly rank: number;
  readonly size: number;
  readonly #state: Int32Array;
  readonly #thread: Worker;
  readonly #joined = Promise.withResolvers<void>();
  readonly #failed = Promise.withResolvers<never>();
  readonly #done = Promise.withResolvers<void>();
  readonly #listening = Promise.withResolvers<Address[]>();
  readonly #rounds = new Map<number, PromiseWithResolvers<string[]>>();
  #round = 0;
  #failure: NeftuneError | null = null;

  /** Starts to look for the other ranks; `joined` waits for them. */
  constructor(watch: Omit<Watch, "state">, state: SharedArrayBuffer) {
    this.rank = watch.rank;
    this.size = watch.size;
    this.#state = new Int32Array(state);
    for (const { promise } of [this.#joined, this.#failed]) promise.catch(() => {});
    this.#thread = new Worker(workerUrl("ranks/watch-worker"));
    this.#thread.onmessage = ({ data }: MessageEvent<FromWatcher>) => this.#hear(data);
    this.#thread.onerror = (event) => {
      event.preventDefault();
      this.#fail(`rank ${watch.rank} has lost touch with the others: ${event.message}`);
    };
    this.#post({ kind: "start", watch: { ...watch, state } });
  }

  /** Memory for what both threads see. */
  static sharedState(): SharedArrayBuffer {
    return new SharedArrayBuffer(Shared.count * Int32Array.BYTES_PER_ELEMENT);
  }

  /** Not 0 once a rank failed; native code looks at it while it waits. */
  static stopOf(state: SharedArrayBuffer): Int32Array {
    return new Int32Array(state, Shared.stop * Int32Array.BYTES_PER_ELEMENT, 1);
  }

  /** Where the others find rank 0, in a meeting that MPI has to arrange. */
  listening(): Promise<Address[]> {
    return Promise.race([this.#listening.promise, this.#failed.promise]);
  }

  /** Where a meeting that MPI has arranged is, to ranks other than 0. */
  meetAt(addresses: Address[]): void {
    this.#post({ kind: "meet", addresses });
  }

  /** Waits for all ranks. Throws RankError. */
  joined(): Promise<void> {
    return Promise.race([this.#joined.promise, this.#failed.promise]);
  }

  /** All ranks' texts, in their order; all ranks call it. Throws RankError. */
  share(text: string): Promise<string[]> {
    const round = this.#round++;
    const answer = Promise.withResolvers<string[]>();
    this.#rounds.set(round, answer);
    this.#post({ kind: "share", round, text });
    return Promise.race([answer.promise, this.#failed.promise]);
  }

  /**
   * Throws on all ranks where one has other facts than rank 0: it names the first such rank and the first
   * fact. `describe` says what a fact is called.
   */
  async expectSame(
    facts: Readonly<Record<string, unknown>>,
    describe = (name: string) => name,
  ): Promise<void> {
    const all = (await this.share(JSON.stringify(facts))).map(
      (text) => JSON.parse(text) as Record<string, unknown>,
    );
    const first = all[0]!;
    for (const [rank, own] of all.entries()) {
      for (const name of new Set([...Object.keys(first), ...Object.keys(own)])) {
        const [here, there] = [JSON.stringify(own[name] ?? null), JSON.stringify(first[name] ?? null)];
        if (here === there) continue;
        const what = `${describe(name)} is ${here}, on rank 0 ${there}`;
        throw onAllRanks(
          new NeftuneError(
            "ranks",
            `rank ${rank} differs from rank 0: ${what}; all ranks must have the same`,
          ),
        );
      }
    }
  }

  /**
   * What to tell of `error`: where another rank is its cause, a RankError; otherwise the error itself, and the others
   * are told. Null: the watching thread has told already.
   */
  async explain(error: unknown): Promise<unknown> {
    const isSymptom = error instanceof NeftuneError && error.message.startsWith("comm_");
    if (isSymptom && this.#failure === null) {
      await Promise.race([this.#failed.promise.catch(() => {}), Bun.sleep(CAUSE_MILLISECONDS)]);
    }
    if (!this.#mayTell()) return null;
    if (isShared(error) || error === this.#failure) return error;
    if (this.#failure !== null) return this.#failure;
    const reason = error instanceof Error ? error.message : String(error);
    const isStop = error instanceof InterruptedError;
    const sentence = `rank ${this.rank} ${isStop ? "was asked to stop" : "failed"}: ${reason}`;
    this.#post({ kind: "fail", sentence, status: isStop ? error.exitStatus : 1 });
    return error;
  }

  /** After explain: waits until the others know, too. */
  async farewell(error: unknown): Promise<void> {
    if (isShared(error)) await this.close().catch(() => {});
    else await Promise.race([this.#done.promise, Bun.sleep(FAREWELL_MILLISECONDS)]);
  }

  /** Says goodbye and waits for the others'. Throws RankError. */
  async close(): Promise<void> {
    this.#post({ kind: "close" });
    await Promise.race([this.#done.promise, this.#failed.promise]);
    this.#thread.terminate();
  }

  /** Whether it falls to this thread to tell what ends the run. */
  #mayTell(): boolean {
    return Atomics.compareExchange(this.#state, Shared.told, 0, 1) === 0;
  }

  #post(message: ToWatcher): void {
    this.#thread.postMessage(message);
  }

  #hear(message: FromWatcher): void {
    if (message.kind === "listening") this.#listening.resolve(message.addresses);
    else if (message.kind === "joined") this.#joined.resolve();
    else if (message.kind === "failed") this.#fail(message.sentence, message.status);
    else if (message.kind === "done") this.#done.resolve();
    else {
      this.#rounds.get(message.round)?.resolve(message.texts);
      this.#rounds.delete(message.round);
    }
  }

  #fail(sentence: string, status = 1): void {
    this.#failure ??= status === 1 ? new RankError(sentence) : new InterruptedError(sentence, status);
    this.#failed.reject(this.#failure);
  }
}
