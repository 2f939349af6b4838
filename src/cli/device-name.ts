// `--device` by its name alone: checked before anything is loaded.

import { NeftuneError, UsageError } from "../errors.ts";
import { hasCudaLibrary } from "../native/library.ts";

/** The device that `--device` names; `index` null: whichever CUDA device is the first. */
export interface DeviceName {
  kind: "auto" | "cpu" | "cuda";
  index: number;
}

/** Reads the name. Throws UsageError, or NeftuneError where this build lacks the device. */
export function parseDevice(name: string): DeviceName {
  if (name === "auto" || name === "cpu") return { kind: name, index: 0 };
  const index = /^cuda(?::(\d{1,3}))?$/.exec(name);
  if (index === null)
    throw new UsageError(`--device expects cpu, cuda, cuda:N or auto; got ${JSON.stringify(name)}`);
  if (!hasCudaLibrary()) {
    throw new NeftuneError(
      "no_device",
      `--device ${name}: this build of neftune has no CUDA backend; use --device cpu (or auto), or a build by npm run build`,
    );
  }
  return { kind: "cuda", index: Number(index[1] ?? 0) };
}
