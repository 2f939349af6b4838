// Facts about the commit that is built. From them alone come the version text and every time stamp of a release, so
// that two builds of one commit are the same.

import { join } from "node:path";
import packageJson from "../package.json" with { type: "json" };

export const version: string = packageJson.version;

const root = join(import.meta.dir, "..");

/** What git says, or null outside a checkout or where there is no git. */
function git(...args: string[]): string | null {
  try {
    const { success, stdout } = Bun.spawnSync(["git", "-C", root, ...args], { stderr: "ignore" });
    return success ? stdout.toString().trim() : null;
  } catch {
    return null;
  }
}

/** The commit's full hash, with "+changes" where files differ from it; null outside a git checkout. */
export function commit(): string | null {
  const hash = git("rev-parse", "HEAD");
  if (hash === null) return null;
  return git("status", "--porcelain") === "" ? hash : `${hash}+changes`;
}

/** Seconds since 1970 that every file of a release bears: SOURCE_DATE_EPOCH, else the commit's time, else 1980. */
export function sourceDate(): number {
  const given = process.env.SOURCE_DATE_EPOCH;
  if (given !== undefined && given !== "") {
    if (!/^\d{1,10}$/.test(given))
      throw new Error(`SOURCE_DATE_EPOCH=${given}: expected whole seconds since 1970`);
    return Number(given);
  }
  return Number(git("show", "--no-patch", "--format=%ct", "HEAD") ?? Date.UTC(1980, 0, 1) / 1000);
}
