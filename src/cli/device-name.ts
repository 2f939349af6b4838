// `--device` by its name alone: checked before anything is loaded.

import { NeftuneError, UsageError } from "../errors.ts";

/** Checks the name. Throws UsageError, or NeftuneError where this build lacks the device. */
export function checkDevice(name: string): void {
  if (name === "auto" || name === "cpu") return;
  if (/^cuda(:\d+)?$/.test(name)) {
    throw new NeftuneError(
      "no_device",
      `--device ${name}: this version of neftune has no CUDA backend; use --device cpu (or auto)`,
    );
  }
  throw new UsageError(`--device expects cpu, cuda, cuda:N or auto; got ${JSON.stringify(name)}`);
}
