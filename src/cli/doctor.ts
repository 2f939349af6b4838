// neftune doctor: what this machine offers, and what was found or is missing.

import { readFileSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { NeftuneError } from "../errors.ts";
import { hubCacheDir } from "../formats/hub-cache.ts";
import type { NativeLibrary } from "../native/bindings.ts";
import { supportedIsas } from "../native/cpu-isa.ts";
import {
  type CudaProbe,
  ceilingEffect,
  checkProduct,
  Device,
  type DeviceInfo,
  type DeviceOptions,
  hasCudaLibrary,
  type IsaCeiling,
  isaCeiling,
  type ProductCheck,
  probeCuda,
  probeTransport,
  type Transport,
} from "../native/index.ts";
import { loadCpuLibrary, loadCudaLibrary } from "../native/library.ts";
import { parseDevice } from "./arguments/device-name.ts";
import { defineCommand } from "./command.ts";
import { countOf, formatBytes, formatList, toJson } from "./terminal/format.ts";

interface Library {
  name: string;
  path: string;
}

interface Findings {
  version: string;
  bun: string;
  kernel: string;
  glibc: string | null;
  cpu: { model: string; isas: string[]; amx: boolean; logical_cpus: number };
  /** A variable that keeps oneDNN from using all of that; null: there is none. */
  isa_ceiling: IsaCeiling | null;
  device: DeviceInfo | null;
  problems: string[];
  /** Shared libraries of the process after the backend was loaded; memfd: means out of the executable itself. */
  libraries: Library[];
  /** problem: why it cannot be used; probe: what was found, null where this build has no CUDA backend. */
  cuda: {
    usable: boolean;
    problem: string | null;
    device: DeviceInfo | null;
    probe: CudaProbe | null;
    product: ProductCheck | null;
  };
  /** What carries tensors between ranks; null: its backend is not there. */
  transports: { cpu: Transport | null; cuda: Transport | null };
  hub_cache: { path: string; exists: boolean };
}

function field(text: string, name: string): string | undefined {
  return new RegExp(`^${name}\\s*:\\s*(.*)$`, "m").exec(text)?.[1]?.trim();
}

/** The libraries mapped into this process. */
function mappedLibraries(): Library[] {
  const found = new Map<string, Library>();
  for (const line of readFileSync("/proc/self/maps", "utf8").split("\n")) {
    const path = /\s(\/\S+)(?: \(deleted\))?$/.exec(line)?.[1];
    if (path === undefined) continue;
    const name = path
      .split("/")
      .at(-1)!
      .replace(/^memfd:/, "");
    if (/\.so(\.|$)/.test(name)) found.set(path, { name, path });
  }
  return [...found.values()];
}

function glibcVersion(): string | null {
  const report = process.report?.getReport() as { header?: { glibcVersionRuntime?: string } } | undefined;
  return report?.header?.glibcVersionRuntime ?? null;
}

function openedDevice(what: string, options: DeviceOptions, problems: string[]): DeviceInfo | null {
  try {
    return describedDevice(options);
  } catch (error) {
    problems.push(`${what}: ${messageOf(error)}`);
    return null;
  }
}

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error));

function describedDevice(options: DeviceOptions): DeviceInfo {
  const device = Device.open(options);
  try {
    return device.info;
  } finally {
    device.close();
  }
}

function transport(load: () => NativeLibrary): Transport | null {
  try {
    return probeTransport(load());
  } catch {
    return null;
  }
}

const unusable = (problem: string, probe: CudaProbe | null): Findings["cuda"] => ({
  usable: false,
  problem,
  device: null,
  probe,
  product: null,
});

/** Opens the first GPU and makes one product on it. */
function triedCuda(probe: CudaProbe): Findings["cuda"] {
  const device = Device.open({ kind: "cuda" });
  try {
    const product = checkProduct(device);
    const problem = product.isRight
      ? null
      : `a product of ${sizeOf(product)} matrices came out wrong: the cuBLASLt found does not work on this GPU`;
    return { usable: product.isRight, problem, device: device.info, probe, product };
  } finally {
    device.close();
  }
}

const sizeOf = ({ size }: ProductCheck) => `${size} × ${size}`;

/** A missing GPU is not a failure unless --device asks for one: report what is missing instead of throwing. */
function probedCuda(): Findings["cuda"] {
  if (!hasCudaLibrary()) {
    return unusable("this build has no CUDA backend", null);
  }
  let probe: CudaProbe | null = null;
  try {
    probe = probeCuda();
    return probe.problem === null ? triedCuda(probe) : unusable(probe.problem, probe);
  } catch (error) {
    return unusable(messageOf(error), probe);
  }
}

export const doctor = defineCommand({
  description:
    "Loads the native libraries and opens the device, as training would. The exit status is 1 if that fails; a missing GPU is a failure only with --device cuda.",
  options: {},
  examples: [
    ["neftune doctor", "what this machine offers"],
    ["neftune doctor --json", "the same for a program, or for a bug report"],
  ],
  async run(values, context) {
    const problems: string[] = [];
    const cpuinfo = readFileSync("/proc/cpuinfo", "utf8");
    const device = openedDevice("CPU backend", { kind: "cpu", threads: values.threads }, problems);
    const cache = hubCacheDir(context.env);
    const findings: Findings = {
      version: context.version,
      bun: Bun.version,
      kernel: readFileSync("/proc/sys/kernel/osrelease", "utf8").trim(),
      glibc: glibcVersion(),
      cpu: {
        model: field(cpuinfo, "model name") ?? "unknown",
        isas: supportedIsas(),
        amx: /\bamx_bf16\b/.test(field(cpuinfo, "flags") ?? ""),
        logical_cpus: navigator.hardwareConcurrency,
      },
      isa_ceiling: process.arch === "x64" ? isaCeiling(context.env) : null,
      device,
      problems,
      libraries: mappedLibraries(),
      cuda: probedCuda(),
      transports: {
        cpu: transport(loadCpuLibrary),
        cuda: hasCudaLibrary() ? transport(loadCudaLibrary) : null,
      },
      hub_cache: { path: cache, exists: statSync(cache, { throwIfNoEntry: false })?.isDirectory() === true },
    };
    const { kind, index } = parseDevice(values.device);
    if (kind === "cuda") openedDevice(`--device ${values.device}`, { kind, index: index ?? 0 }, problems);
    context.print(
      values.json ? toJson(findings) : describe(findings, context.env.HOME ?? homedir(), context.columns),
    );
    if (problems.length > 0) throw new NeftuneError("doctor", problems.join("; "));
  },
});

function describe(found: Findings, home: string, columns: number | undefined): string {
  const { cpu, device } = found;
  const tilde = (path: string) => (path.startsWith(`${home}/`) ? join("~", path.slice(home.length)) : path);
  const rows: [string, string][] = [
    ["neftune", `${found.version} (Bun ${found.bun})`],
    ["system", `Linux ${found.kernel}, glibc ${found.glibc ?? "unknown"}`],
    ["processor", `${cpu.model}, ${cpu.logical_cpus} logical CPUs${cpu.amx ? ", AMX bf16" : ""}`],
    ["kernels", `${device?.isa ?? "none"} (this CPU can run ${cpu.isas.join(", ") || "none"})`],
    ...ceilingRows(found),
    ["device cpu", device === null ? "not usable" : countOf(device.threads, "thread")],
    ["device cuda", cudaLine(found.cuda)],
    ...cudaRows(found.cuda.probe, tilde),
    ...productRows(found.cuda.product),
  ];
  if (device !== null) {
    rows.push(["memory", `${formatBytes(device.free_memory)} free of ${formatBytes(device.total_memory)}`]);
  }
  const { transports } = found;
  for (const each of [transports.cpu, transports.cuda])
    if (each !== null) rows.push(transportRow(each, tilde));
  rows.push([
    "model cache",
    `${tilde(found.hub_cache.path)}${found.hub_cache.exists ? "" : " (does not exist yet)"}`,
  ]);
  for (const { name, path } of found.libraries) {
    rows.push(["library", path.includes("memfd:") ? `${name} (from the executable)` : path]);
  }
  for (const problem of found.problems) rows.push(["problem", problem]);
  return formatList(rows, columns);
}

/** What keeps kernels from what the CPU can do. */
export function ceilingRows({
  cpu,
  isa_ceiling,
}: {
  cpu: Pick<Findings["cpu"], "amx">;
  isa_ceiling: IsaCeiling | null;
}): [string, string][] {
  return isa_ceiling === null ? [] : [["  ceiling", ceilingEffect(isa_ceiling, cpu.amx)]];
}

function productRows(product: ProductCheck | null): [string, string][] {
  if (product === null || !product.isRight) return [];
  const how = product.isPlain
    ? "right, but by a slow kernel: cuBLASLt has no algorithm for it, and training will be slow"
    : "right";
  return [["  product", `${sizeOf(product)} in bf16: ${how}`]];
}

function cudaLine({ device, problem }: Findings["cuda"]): string {
  if (device === null || problem !== null) return `not usable: ${problem}`;
  return `${device.name}, ${device.isa}, ${formatBytes(device.free_memory)} free of ${formatBytes(device.total_memory)}`;
}

function cudaRows(probe: CudaProbe | null, tilde: (path: string) => string): [string, string][] {
  if (probe === null) return [];
  const { architectures, runtime, driver, cublaslt } = probe;
  const built = architectures.map((sm) => `sm_${sm}`).join(", ") || "none";
  const rows: [string, string][] = [
    ["  kernels", `CUDA ${runtime} for ${built}`],
    ["  driver", driver === null ? "none" : `for CUDA ${driver}`],
    ["  cuBLASLt", cublaslt.path === null ? "not found" : `${tilde(cublaslt.path)} (${cublaslt.version})`],
  ];
  if (cublaslt.path === null) for (const place of cublaslt.looked) rows.push(["  looked in", tilde(place)]);
  for (const gpu of probe.devices.slice(1))
    rows.push([`  cuda:${gpu.index}`, `${gpu.name}, compute capability ${gpu.compute_capability}`]);
  return rows;
}

/** MPI or NCCL; only runs of several ranks need it. */
function transportRow(
  { transport, path, version, looked }: Transport,
  tilde: (path: string) => string,
): [string, string] {
  const where = path === null ? `not found; looked at ${looked.map(tilde).join(", ")}` : tilde(path);
  const which = version === null ? "" : ` (${version.replaceAll(/\s+/g, " ")})`;
  return [`ranks, ${transport}`, `${where}${which}`];
}
