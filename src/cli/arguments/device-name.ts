// `--device` by its name alone: checked before anything is loaded.

import { NeftuneError, UsageError } from "../../errors.ts";
import { hasCudaLibrary } from "../../native/library.ts";

/** The device that `--device` names. */
export interface DeviceName {
  kind: "auto" | "cpu" | "cuda";
  /** Of the GPU; null: the first one, or that of the rank's place on its machine. */
  index: number | null;
}

/** As a --device: one rank for each GPU of this machine. */
export const ALL_GPUS = "cuda:all";

/** Reads the name. Throws UsageError, or NeftuneError where this build lacks the device. */
export function parseDevice(name: string): DeviceName {
  if (name === "auto" || name === "cpu") return { kind: name, index: null };
  const index = /^cuda(?::(\d{1,3}|all))?$/.exec(name)?.[1] ?? (name === "cuda" ? "" : null);
  if (index === null)
    throw new UsageError(`--device expects cpu, cuda, cuda:N, cuda:all or auto; got ${JSON.stringify(name)}`);
  if (!hasCudaLibrary()) {
    throw new NeftuneError(
      "no_device",
      `--device ${name}: this build of neftune has no CUDA backend; use --device cpu (or auto), or a build made with npm run build`,
    );
  }
  return { kind: "cuda", index: index === "" || index === "all" ? null : Number(index) };
}
