// The executable runs where nothing but glibc is installed: a root folder with five libraries and the dynamic loader.

import { expect, test } from "bun:test";
import { copyFileSync, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { scratchFolder } from "../scratch.ts";

const executable = join(import.meta.dir, "../../dist/neftune");
const root = scratchFolder();

const loader = "/lib64/ld-linux-x86-64.so.2";
const libraries = ["libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2"];
const libraryFolder = "/lib/x86_64-linux-gnu";

/** A chroot needs a user and a mount namespace of its own; some machines forbid them. */
const canChroot =
  Bun.spawnSync(["unshare", "-rm", "true"]).exitCode === 0 && existsSync(join(libraryFolder, "libc.so.6"));

test.skipIf(!canChroot)(
  "computes in a root with glibc alone (skipped where namespaces are forbidden or glibc lies elsewhere)",
  () => {
    for (const folder of ["lib64", libraryFolder, "proc", "data"])
      mkdirSync(join(root, folder), { recursive: true });
    copyFileSync(loader, join(root, loader));
    for (const name of libraries) copyFileSync(join(libraryFolder, name), join(root, libraryFolder, name));
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
    expect(run.exitCode, run.stderr.toString()).toBe(0);
    expect(JSON.parse(run.stdout.toString())).toHaveProperty("tokens_per_second");
  },
  60_000,
);
