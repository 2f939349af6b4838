// `--device` and `--threads`.

import { NeftuneError } from "../../errors.ts";
import { ceilingEffect, Device, hasCudaLibrary, isaCeiling } from "../../native/index.ts";
import { countOf } from "../../numbers.ts";
import type { Context } from "../command.ts";
import { shown } from "../terminal/text.ts";
import { parseDevice } from "./device-name.ts";

/** Opens the device that the options ask for, or takes the rank's, and says which it is. The caller closes it. */
export function openDevice(options: { device: string; threads: number }, context: Context): Device {
  const { kind, index } = parseDevice(options.device);
  let chosen = "";
  let device: Device | null = context.team?.device ?? null;
  if (device === null && kind === "cuda") device = openCuda(options.device, index);
  if (device === null && kind === "auto") {
    try {
      if (hasCudaLibrary()) device = Device.open({ kind: "cuda" });
      else chosen = " (auto: this build has no CUDA backend)";
    } catch (error) {
      if (!(error instanceof NeftuneError)) throw error;
      chosen = ` (auto: ${error.message})`;
    }
  }
  device ??= Device.open({ kind: "cpu", threads: options.threads });
  const { backend, name, isa, threads } = device.info;
  const size = countOf(threads, device.isHost ? "thread" : "multiprocessor");
  context.note(`device: ${backend}, ${name}, ${isa}, ${size}${chosen}`);
  if (backend === "cpu") noteCeiling(context);
  return device;
}

/** A limit on the CPU's instructions that is misspelled: it would pass for one that is obeyed. */
function noteCeiling({ env, note }: Context): void {
  const ceiling = process.arch === "x64" ? isaCeiling(env) : null;
  if (ceiling?.kind === "unknown") note(ceilingEffect({ ...ceiling, value: shown(ceiling.value) }, false));
}

function openCuda(name: string, index: number | null): Device {
  try {
    return Device.open({ kind: "cuda", index: index ?? 0 });
  } catch (cause) {
    if (!(cause instanceof NeftuneError)) throw cause;
    throw new NeftuneError("no_device", `--device ${name}: ${cause.message}; or use --device cpu`, { cause });
  }
}
