// The thread of watcher.ts. Where a rank failed and the main thread is too busy to end the process, it does.

import { writeSync } from "node:fs";
import { endProcess } from "../native/signals.ts";
import { type FromWatcher, Shared, type ToWatcher } from "./watch.ts";
import { Hub, Spoke, type Watcher } from "./watcher.ts";

/** For the main thread to end in order after a failure: a share of the patience, within bounds. */
const GRACE_SHARE = 1 / 8;
const LEAST_GRACE_MILLISECONDS = 1000;
const MOST_GRACE_MILLISECONDS = 4000;

declare const self: Worker;

let watcher: Watcher | null = null;

self.onmessage = ({ data }: MessageEvent<ToWatcher>) => {
  if (data.kind !== "start") {
    watcher?.hear(data);
    return;
  }
  const { watch } = data;
  const state = new Int32Array(watch.state);
  const share = Math.max(LEAST_GRACE_MILLISECONDS, watch.patience * GRACE_SHARE);
  const grace = Math.min(MOST_GRACE_MILLISECONDS, share);
  const post = (message: FromWatcher) => {
    if (message.kind === "failed") {
      Atomics.store(state, Shared.stop, 1);
      setTimeout(() => endAtOnce(watch.rank, state, message), grace);
    }
    self.postMessage(message);
  };
  watcher = watch.rank === 0 ? new Hub(watch, post) : new Spoke(watch, post);
  void watcher.start();
};

function endAtOnce(
  rank: number,
  state: Int32Array,
  { sentence, status }: { sentence: string; status: number },
): void {
  if (Atomics.compareExchange(state, Shared.told, 0, 1) === 0) {
    try {
      writeSync(2, `${rank === 0 ? "" : `rank ${rank}: `}error: ${sentence}\n`);
    } catch {}
  }
  endProcess(status);
}
