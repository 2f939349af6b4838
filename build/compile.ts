// What all parts of the build share: where things lie, and doing nothing twice.

import { existsSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { basename, dirname, join } from "node:path";
import { runBoth } from "./toolchain.ts";

export const root = join(import.meta.dir, "..");
export const kernels = join(root, "kernels");
export const objects = join(root, ".toolchain", "objects");
export const output = join(root, "dist", "native");

/** A source and every file that it includes by a name in quotes, directly or through others. */
export function withIncludes(source: string): string[] {
  const found = new Set([source]);
  for (const file of found) // which grows while it is read
    for (const [, name] of readFileSync(file, "utf8").matchAll(/^\s*#\s*include\s*"([^"]+)"/gm)) {
      const path = [dirname(file), kernels].map((folder) => join(folder, name!)).find(existsSync);
      if (path !== undefined) found.add(path);
    }
  return [...found];
}

/** A hash of a command and of what its input files hold; a copy of the checkout in another folder has the same. */
export function hashOf(command: string[], files: string[]): string {
  const hasher = new Bun.CryptoHasher("sha256");
  hasher.update(JSON.stringify(command).replaceAll(root, "."));
  for (const name of readdirSync(import.meta.dir).filter((file) => file.endsWith(".txt")))
    hasher.update(readFileSync(join(import.meta.dir, name))); // the compilers' versions
  for (const file of files) hasher.update(readFileSync(file));
  return hasher.digest("hex").slice(0, 32);
}

/** What a file is called in objects: its own name, behind that of its folder where that is another platform's. */
function stampName(path: string): string {
  const folder = basename(dirname(path));
  return ["objects", "native"].includes(folder) ? basename(path) : `${folder}-${basename(path)}`;
}

/** Runs `command -o OUT` unless the same command on the same inputs made OUT before. What it said stays in objects/OUT.log. */
export async function cached(
  out: string,
  command: string[],
  inputs: string[],
  env: Record<string, string>,
): Promise<void> {
  const hash = hashOf(command, inputs);
  const stamp = join(objects, `${stampName(out)}.stamp`);
  if (existsSync(out) && existsSync(stamp) && readFileSync(stamp, "utf8") === hash) return;
  rmSync(stamp, { force: true }); // a compiler that is killed leaves half of OUT
  const { out: said, err } = await runBoth([...command, "-o", out], env);
  writeFileSync(join(objects, `${stampName(out)}.log`), err + said);
  writeFileSync(stamp, hash);
}

/** Runs the jobs, as many at a time as there are processors. */
export async function inParallel(jobs: (() => Promise<void>)[]): Promise<void> {
  let next = 0;
  const worker = async () => {
    for (let job = jobs[next++]; job !== undefined; job = jobs[next++]) await job();
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
}

/** Compresses a library beside itself (.zst), for embedding; an empty file there stands for one that was left out. */
export async function compress(library: string): Promise<void> {
  const bytes = readFileSync(library);
  const hash = hashOf([], [library]);
  const stamp = join(objects, `${stampName(library)}.zst.stamp`);
  const packed = `${library}.zst`;
  const isPacked = existsSync(packed) && statSync(packed).size > 0;
  if (isPacked && existsSync(stamp) && readFileSync(stamp, "utf8") === hash) return;
  writeFileSync(`${packed}.new`, await Bun.zstdCompress(bytes, { level: 15 }));
  renameSync(`${packed}.new`, packed);
  writeFileSync(stamp, hash);
}
