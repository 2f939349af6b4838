// What a command did, and what is wrong with that.

export interface Outcome {
  /** Null where the process did not end by itself. */
  status: number | null;
  signal: string | null;
  stderr: string;
  seconds: number;
  /** Of all threads. */
  cpuSeconds: number;
  peakBytes: number;
  /** Why it was ended from outside. */
  stopped: Stopped | null;
}

export type Stopped = "time" | "memory" | "disk";

export interface Limits {
  /** Of the processor. */
  seconds: number;
  bytes: number;
  diskBytes: number;
}

export const defaultLimits: Limits = { seconds: 10, bytes: 2 * 2 ** 30, diskBytes: 2 ** 30 };

const ALLOWED = new Set([0, 1, 2]);
/** What no user should read: traces, and the words of JavaScript's own errors (templates' own say what they got). */
const INNER = [
  /fault of neftune|internal error/i,
  /\bpanic\b|Segmentation fault|oh no: Bun has crashed/i,
  /^\s+at .+:\d+(:\d+)?\)?$/m,
  /\b(TypeError|RangeError|ReferenceError|SyntaxError|AssertionError)\b/,
  /\b(undefined|null) is not (an object|a function|iterable)|is not a function(?!: got )|Cannot (read|set|convert|destructure)/,
  /Invalid array length|Maximum call stack|Out of memory|\[object \w+\]|Array buffer allocation/i,
];
/** In columns of a terminal. */
const WIDEST_MESSAGE = 4100;
/** C0 but for tab and line end, C1, and characters that turn the direction of text. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what it looks for
const RAW_CONTROLS = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/;

/** Null where all is as it should be, whether the command worked or refused its input. */
export function complaint(outcome: Outcome, limits: Limits): string | null {
  const { status, signal, stderr, stopped, peakBytes } = outcome;
  if (stopped === "time") return `takes more than ${limits.seconds} s`;
  if (stopped === "disk") return `writes more than ${(limits.diskBytes / 2 ** 30).toFixed(1)} GiB`;
  if (stopped === "memory" || peakBytes > limits.bytes) {
    return `takes ${(peakBytes / 2 ** 30).toFixed(1)} GiB of memory`;
  }
  if (signal !== null) return `ended by ${signal}`;
  if (status === null || !ALLOWED.has(status)) return `exit status ${status}`;
  for (const pattern of INNER) {
    const found = pattern.exec(stderr);
    if (found !== null) return `inner error: ${lineAround(stderr, found.index)}`;
  }
  const message = stderr.split("\n").find((line) => line.startsWith("error: "));
  if (status !== 0 && message === undefined) return `exit status ${status} without a message`;
  const width = Bun.stringWidth(message ?? "");
  if (width > WIDEST_MESSAGE) return `a message of ${width} characters: ${message!.slice(0, 80)}`;
  const control = RAW_CONTROLS.exec(stderr);
  if (control !== null) {
    const code = control[0].codePointAt(0)!.toString(16).padStart(4, "0");
    return `control character U+${code} in: ${lineAround(stderr, control.index)}`;
  }
  return null;
}

function lineAround(text: string, at: number): string {
  const start = text.lastIndexOf("\n", at) + 1;
  const end = text.indexOf("\n", at);
  return JSON.stringify(text.slice(start, end < 0 ? undefined : end).slice(0, 200));
}
