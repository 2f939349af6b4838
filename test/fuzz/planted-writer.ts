// A program that makes the folder `out` and takes its time: `whole` gives it its name at the end, `torn` at the start,
// and `littering` leaves what a killed one has begun.

import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const [how = ""] = process.argv.slice(2);
if (existsSync("out")) process.exit(2);
const folder = how === "torn" ? "out" : how === "whole" ? ".out.partial" : `.out.${process.pid}`;
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder);
for (const name of ["a", "b", "c"]) {
  writeFileSync(join(folder, name), name);
  await Bun.sleep(40);
}
if (folder !== "out") renameSync(folder, "out");
