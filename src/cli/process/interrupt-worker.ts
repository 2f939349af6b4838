// The thread that ends the process where its main thread is too busy to hear a signal. That the signal came shows in
// its handler, which serves once: the system has taken it away.

import { writeSync } from "node:fs";
import { endProcess, handled } from "../../native/signals.ts";
import { Hearing, type Watch } from "./interrupt.ts";

const LOOK_MILLISECONDS = 100;
/** From the signal to the end of a command that has not heard it, and of one that has and does not end. */
const UNHEARD_MILLISECONDS = 2000;
const HEARD_MILLISECONDS = 5000;
const INTERRUPTED = 130;

declare const self: Worker;

self.onmessage = ({ data }: MessageEvent<Watch>) => {
  const state = new Int32Array(data.state);
  let since: number | null = null;
  setInterval(() => {
    if (since === null && handled(data.names).length === data.names.length) return;
    since ??= performance.now();
    const hearing = Atomics.load(state, 0);
    if (hearing === Hearing.patient) return;
    const grace = hearing === Hearing.heard ? HEARD_MILLISECONDS : UNHEARD_MILLISECONDS;
    if (performance.now() - since < grace) return;
    try {
      writeSync(2, "\nstopped\n");
    } catch {}
    endProcess(INTERRUPTED);
  }, LOOK_MILLISECONDS);
};
