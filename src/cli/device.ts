// `--device` and `--threads`.

import { Device } from "../native/index.ts";
import type { Context } from "./command.ts";

/** Opens the device that the options ask for and says which it is. The caller closes it. */
export function openDevice(options: { device: string; threads: number }, context: Context): Device {
  const device = Device.open({ kind: "cpu", threads: options.threads });
  const { name, isa, threads } = device.info;
  const chosen = options.device === "auto" ? " (auto: this version has no CUDA backend)" : "";
  context.note(`device: ${device.info.backend}, ${name}, ${isa}, ${threads} threads${chosen}`);
  return device;
}
