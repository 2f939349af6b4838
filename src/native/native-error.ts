import { NeftuneError } from "../errors.ts";

/** A native function refused or failed; the message names the operation and what came. */
export class NativeError extends NeftuneError {
  readonly operation: string;
  readonly status: number;

  constructor(operation: string, status: number, message: string) {
    super(status === 2 ? "out-of-memory" : "native", message || `${operation} failed with status ${status}`);
    this.operation = operation;
    this.status = status;
  }
}
