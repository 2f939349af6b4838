// The executable for arm64, built on x86-64.

import { chmodSync } from "node:fs";
import { join } from "node:path";
import { buildCuda, leaveOutStaleCuda } from "../cuda.ts";
import { buildExecutable } from "../executable.ts";
import { commit } from "../facts.ts";
import { arm64 } from "../platform.ts";
import { ensureBun } from "./bun.ts";
import { ensureDebian } from "./debian.ts";
import { buildNativeArm64, ensureArm64Wheels } from "./native.ts";

/** Builds the native libraries, the CUDA library if asked to, and the executable. */
export async function buildArm64(what: { withCuda: boolean; withExecutable: boolean }): Promise<void> {
  await buildNativeArm64();
  if (what.withCuda) {
    await ensureDebian();
    const compiler = join(import.meta.dir, "nvcc-host.sh");
    chmodSync(compiler, 0o755);
    const runtime = join(await ensureArm64Wheels(), "nvidia", "cu13", "lib", "libcudart_static.a");
    await buildCuda({ platform: arm64, compiler, runtime });
  }
  const hasCuda = !leaveOutStaleCuda(arm64);
  if (!what.withExecutable) return;
  const facts = { commit: commit(), cudaArchitectures: hasCuda ? arm64.cudaArchitectures : [] };
  await buildExecutable(facts, { platform: arm64, bun: await ensureBun() });
}
