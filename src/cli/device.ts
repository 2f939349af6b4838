// `--device` and `--threads`.

import { NeftuneError, UsageError } from "../errors.ts";
import { Device } from "../native/index.ts";
import type { Context } from "./command.ts";

/** Checks `--device` without opening anything. Throws UsageError, or NeftuneError where this build lacks the device. */
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

/** Opens the device that the options ask for and says which it is. The caller closes it. */
export function openDevice(options: { device: string; threads: number }, context: Context): Device {
  checkDevice(options.device);
  const device = Device.open({ kind: "cpu", threads: options.threads });
  const { name, isa, threads } = device.info;
  const chosen = options.device === "auto" ? " (auto: this version has no CUDA backend)" : "";
  context.note(`device: ${device.info.backend}, ${name}, ${isa}, ${threads} threads${chosen}`);
  return device;
}
