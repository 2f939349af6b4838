// A root folder with the executable, four of glibc's libraries and the dynamic loader, and nothing else.

import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const executable = join(import.meta.dir, "../../dist/neftune");
const loader = "/lib64/ld-linux-x86-64.so.2";
const libraries = ["libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2"];
const libraryFolder = "/lib/x86_64-linux-gnu";

/** A chroot needs a user and a mount namespace of its own; some machines forbid them. */
export const canChroot =
  Bun.spawnSync(["unshare", "-rm", "true"]).exitCode === 0 && existsSync(join(libraryFolder, "libc.so.6"));

/** What `neftune bench` prints as JSON in such a root with the glibc of `system`, or its standard error. */
export function benchInBareRoot(system: string): { status: number; printed: string; complaints: string } {
  const root = mkdtempSync(join(tmpdir(), "bare-root-"));
  try {
    for (const folder of ["lib64", libraryFolder, "proc", "data"])
      mkdirSync(join(root, folder), { recursive: true });
    copyFileSync(join(system, libraryFolder, "ld-linux-x86-64.so.2"), join(root, loader));
    for (const name of libraries)
      copyFileSync(join(system, libraryFolder, name), join(root, libraryFolder, name));
    copyFileSync(executable, join(root, "neftune"));
    writeFileSync(
      join(root, "data", "config.json"),
      JSON.stringify({
        ...{ model_type: "llama", hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1 },
        ...{ num_attention_heads: 2, vocab_size: 64 },
      }),
    );
    const script = `mount --rbind /proc ${root}/proc && exec chroot ${root} /neftune bench --shape /data/config.json --steps 1 --warmup 1 --json`;
    const run = Bun.spawnSync(["unshare", "-rm", "sh", "-c", script]);
    return { status: run.exitCode, printed: run.stdout.toString(), complaints: run.stderr.toString() };
  } finally {
    rmSync(root, { recursive: true });
  }
}
