// What lies in the working directory must not get into the executable.

import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { makeModel, Place } from "./support.ts";

const place = new Place();
beforeAll(async () => {
  await makeModel(place);
  place.write(".env", "NEFTUNE_CPU_ISA=none-such\nNEFTUNE_DEBUG=1\nHF_HUB_CACHE=/planted\n");
  place.write(".env.local", "NEFTUNE_CPU_ISA=none-such\n");
  place.write("bunfig.toml", 'preload = ["./planted.ts"]\n');
  place.write("planted.ts", 'require("node:fs").writeFileSync("planted-ran", "");\n');
  place.write("package.json", '{ "name": "planted", "type": "commonjs" }');
  place.write("tsconfig.json", "{ broken");
  for (const library of ["libdnnl.so.3", "libgomp.so.1", "libstdc++.so.6", "libneftune-avx2.so"]) {
    place.write(library, "this is no library");
  }
}, 60_000);
afterAll(() => place.close());

test(".env, bunfig.toml and libraries there are ignored", async () => {
  const { stdout } = await place.must("doctor", "--json");
  const found = JSON.parse(stdout) as { hub_cache: { path: string }; libraries: { path: string }[] };
  expect(found.hub_cache.path).toStartWith(place.env.XDG_CACHE_HOME!);
  for (const { path } of found.libraries) expect(path).not.toContain(place.cwd);
  await place.must("eval", "--model", "model", "--dataset", "train.json", "--threads", "1", "--quiet");
  expect(existsSync(place.path("planted-ran"))).toBe(false);
}, 60_000);

test("NEFTUNE_CPU_ISA is read from the environment itself", async () => {
  place.env.NEFTUNE_CPU_ISA = "none-such";
  const { status, stderr } = await place.run("eval", "--model", "model", "--dataset", "train.json");
  delete place.env.NEFTUNE_CPU_ISA;
  expect(status).toBe(2);
  expect(stderr).toContain("NEFTUNE_CPU_ISA=none-such");
});

test("LD_LIBRARY_PATH to the planted libraries changes nothing", async () => {
  place.env.LD_LIBRARY_PATH = place.cwd;
  try {
    await place.must("eval", "--model", "model", "--dataset", "train.json", "--threads", "1", "--quiet");
  } finally {
    delete place.env.LD_LIBRARY_PATH;
  }
});
