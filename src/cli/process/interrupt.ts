// Ctrl-C, SIGTERM and SIGHUP. The first asks a command to end in order; the second ends it at once. So does the first
// where the command is too busy to hear it, unless it has said that it finishes what is under way: a thread watches.

import { workerUrl } from "../../data/worker-url.ts";
import { isIgnored, type SignalName, serveOnce } from "../../native/signals.ts";

/** What the watching thread is sent. */
export interface Watch {
  names: readonly SignalName[];
  /** One number: a value of `Hearing`. */
  state: SharedArrayBuffer;
}

export const Hearing = {
  /** A signal that is not heard soon ends the process. */
  expected: 0,
  /** A signal was heard: the command should end soon. */
  heard: 1,
  /** The command finishes what is under way, however long that takes. */
  patient: 2,
} as const;

export interface Interrupt {
  signal: AbortSignal;
  /** From now on a signal may wait for what is under way; `until` says for what, by default the step. */
  finishFirst(until?: string): void;
}

/** Listens from now on; `note` tells a person that the signal was heard. */
export function listen(note: (text: string) => void): Interrupt {
  const names: SignalName[] = ["SIGINT", "SIGTERM"];
  if (!isIgnored("SIGHUP")) names.push("SIGHUP");
  const controller = new AbortController();
  const state = new Int32Array(new SharedArrayBuffer(4));
  let until = ""; // what is waited for
  const stop = (name: NodeJS.Signals) => {
    for (const each of names) process.removeListener(each, stop);
    controller.abort(new DOMException(name, "AbortError"));
    const isPatient = Atomics.load(state, 0) === Hearing.patient;
    if (!isPatient) Atomics.store(state, 0, Hearing.heard);
    note(`stopping${isPatient ? ` ${until}` : ""}; Ctrl-C again ends at once`);
  };
  for (const name of names) process.on(name, stop);
  watch({ names, state: state.buffer });
  return {
    signal: controller.signal,
    finishFirst: (what = "after this step") => {
      until = what;
      if (!controller.signal.aborted) Atomics.store(state, 0, Hearing.patient);
    },
  };
}

/** Without libc or threads, a busy command hears a signal later. */
function watch(request: Watch): void {
  try {
    serveOnce(request.names);
    const thread = new Worker(workerUrl("cli/process/interrupt-worker"));
    thread.onerror = (event) => event.preventDefault();
    thread.postMessage(request);
    thread.unref();
  } catch {}
}
