// What libc knows of signals and JavaScript does not: handlers that serve once, and an end without a goodbye.

import { dlopen, ptr } from "bun:ffi";
import { readFileSync } from "node:fs";

const SIGNALS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;
export type SignalName = keyof typeof SIGNALS;

/** glibc's struct sigaction on 64-bit Linux: handler, mask of 128 bytes, flags, restorer. */
const SIGACTION_BYTES = 152;
const FLAGS_AT = 136;
const SA_RESETHAND = 0x80000000;

function libc() {
  return dlopen("libc.so.6", {
    sigaction: { args: ["i32", "ptr", "ptr"], returns: "i32" },
    _exit: { args: ["i32"], returns: "void" },
  }).symbols;
}

/**
 * Lets the handler that a signal has now serve once: from its first arrival on the signal ends the process, whatever the
 * process is doing. Throws where libc cannot be called.
 */
export function serveOnce(names: readonly SignalName[]): void {
  const { sigaction } = libc();
  for (const name of names) {
    const action = new Uint8Array(SIGACTION_BYTES);
    if (sigaction(SIGNALS[name], null, ptr(action)) !== 0) continue;
    const view = new DataView(action.buffer);
    view.setUint32(FLAGS_AT, (view.getUint32(FLAGS_AT, true) | SA_RESETHAND) >>> 0, true);
    sigaction(SIGNALS[name], ptr(action), null);
  }
}

/** Ends the process from any thread, though the main one may be busy. */
export function endProcess(status: number): void {
  libc()._exit(status);
}

function maskOf(field: "SigCgt" | "SigIgn"): bigint {
  const found = new RegExp(`^${field}:\\s*([0-9a-f]+)`, "m").exec(readFileSync("/proc/self/status", "utf8"));
  return BigInt(`0x${found?.[1] ?? "0"}`);
}

const isIn = (mask: bigint, name: SignalName) => ((mask >> BigInt(SIGNALS[name] - 1)) & 1n) === 1n;

/** Of `names`, those for which the process has a handler. */
export function handled(names: readonly SignalName[]): SignalName[] {
  const mask = maskOf("SigCgt");
  return names.filter((name) => isIn(mask, name));
}

/** True where whoever started the process lets it ignore the signal, as nohup does. */
export function isIgnored(name: SignalName): boolean {
  return isIn(maskOf("SigIgn"), name);
}
