// The errors that a person sees. Every message names the thing, what was expected, what came,
// and what to do; main.ts prints it and turns `exitStatus` into the process's status.

/** A failure with a stable `code` for programs. Exit status 1. */
export class NeftuneError extends Error {
  readonly code: string;
  readonly exitStatus: number = 1;

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** Wrong usage: an unknown flag, a value out of range, options that exclude each other. Exit status 2. */
export class UsageError extends NeftuneError {
  override readonly exitStatus = 2;

  constructor(message: string, options?: ErrorOptions) {
    super("usage", message, options);
  }
}

/** What goes on a sentence about the thing before it. */
const PREDICATE = /^(?:is|are|has|have|was|were|holds|lacks|ends|cannot|must|does)\b/;

/** What is wrong with a thing: "FILE is empty", or "FILE: no such file" where the reason goes on no sentence. */
export const about = (thing: string, reason: string): string =>
  `${thing}${PREDICATE.test(reason) ? " " : ": "}${reason}`;

/** A file that is not what its format says, named with the reason. */
export class FormatError extends NeftuneError {
  constructor(path: string, reason: string, options?: ErrorOptions) {
    super("format", about(path, reason), options);
  }
}

/** The run was asked to stop (Ctrl-C). Exit status 130; of several ranks 143 after SIGTERM. */
export class InterruptedError extends NeftuneError {
  override readonly exitStatus: number;

  constructor(message: string, exitStatus = 130) {
    super("interrupted", message);
    this.exitStatus = exitStatus;
  }
}
