// The platforms that neftune is built for, what npm, Python, zig and NVIDIA call them, and where their parts lie.

import { join } from "node:path";

const dist = join(import.meta.dir, "..", "dist");

export interface Platform {
  /** As in file names and in `neftune --version`. */
  name: "linux-x64" | "linux-arm64";
  /** npm's "cpu". */
  cpu: "x64" | "arm64";
  /** `uname -m`, as in Python's wheel tags. */
  machine: "x86_64" | "aarch64";
  /** zig's target. 2.28 is the glibc that the libraries need at least. */
  target: readonly string[];
  /** Folder of the native libraries. */
  native: string;
  executable: string;
  /** What the CUDA library holds machine code for; PTX of the last generation serves GPUs that come later. */
  cudaArchitectures: readonly string[];
}

export const x64: Platform = {
  ...{ name: "linux-x64", cpu: "x64", machine: "x86_64" },
  target: ["-target", "x86_64-linux-gnu.2.28"],
  native: join(dist, "native"),
  executable: join(dist, "neftune"),
  cudaArchitectures: ["80", "86", "89", "90", "100", "120"],
};

/** GH200, GB200, Thor and DGX Spark are the machines with an arm64 processor and a GPU. */
export const arm64: Platform = {
  ...{ name: "linux-arm64", cpu: "arm64", machine: "aarch64" },
  target: ["-target", "aarch64-linux-gnu.2.28"],
  native: join(dist, "native-arm64"),
  executable: join(dist, "neftune-linux-arm64"),
  cudaArchitectures: ["90", "100", "110", "121"],
};

export const platforms: readonly Platform[] = [x64, arm64];
