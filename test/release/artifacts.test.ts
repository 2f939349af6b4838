// Every file of a release, as `npm run release` left them in dist/release: hashes and bill of materials hold, and each
// is installed into an empty folder and trains there. Runs with NEFTUNE_TEST_RELEASE=1 (npm run test:release).

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { platforms } from "../../build/platform.ts";
import packageJson from "../../package.json" with { type: "json" };
import { makeModel, metricsOf, Place } from "../e2e/support.ts";
import { spawned } from "../spawned.ts";

const released = join(import.meta.dir, "../../dist/release");
const { version } = packageJson;
const file = (name: string) => join(released, name);

/** The platforms that were released. */
const platformNames = platforms
  .map(({ name }) => name)
  .filter((name) => name === "linux-x64" || existsSync(file(`neftune-${version}-${name}.tar.gz`)));

const sha256 = (path: string) => new Bun.CryptoHasher("sha256").update(readFileSync(path)).digest("hex");

/** Runs a command in a folder; throws with what it said when it fails. */
async function must(cwd: string, command: string[], env: Record<string, string> = {}): Promise<string> {
  const { status, stdout, stderr } = await spawned(command, { cwd, env: { ...process.env, ...env } });
  if (status !== 0) throw new Error(`${command.join(" ")}: status ${status}\n${stderr}${stdout}`);
  return stdout;
}

const place = new Place();
afterAll(() => place.close());

describe.skipIf(process.env.NEFTUNE_TEST_RELEASE !== "1")(
  "a release (skipped without NEFTUNE_TEST_RELEASE=1; npm run release makes it)",
  () => {
    beforeAll(() => makeModel(place), 60_000);
    const empty = () => mkdtempSync(join(place.root, "empty-"));

    /** Trains two steps with an installed program, and checks that it is this release. */
    async function trains(...program: string[]): Promise<void> {
      const run = `run-${readdirSync(place.cwd).length}`;
      const said = await must(place.cwd, [...program, "--version"], place.env);
      expect(said).toStartWith(`neftune ${version}\n`);
      const data = ["--model", "model", "--dataset", "train.json", "--max-steps", "2", "--output", run];
      await must(place.cwd, [...program, "train", ...data, "--device", "cpu", "--quiet"], place.env);
      expect(metricsOf(place, run)).toHaveLength(2);
      expect(existsSync(place.path(run, "adapter_model.safetensors"))).toBe(true);
    }

    test("SHA256SUMS lists every file with its hash", async () => {
      const listed = readFileSync(file("SHA256SUMS"), "utf8").trimEnd().split("\n");
      const names = readdirSync(released).filter((name) => name !== "SHA256SUMS");
      expect(listed.map((line) => line.slice(66)).sort()).toEqual(names.sort());
      await must(released, ["sha256sum", "--check", "--strict", "SHA256SUMS"]);
    });

    test.each(platformNames)(
      "the bill of materials and THIRD_PARTY.md of %s name the same parts",
      async (platform) => {
        const bill = JSON.parse(readFileSync(file("sbom.cdx.json"), "utf8"));
        expect([bill.bomFormat, bill.metadata.component.version]).toEqual(["CycloneDX", version]);
        type Component = {
          name: string;
          version: string;
          licenses: unknown[];
          properties: { value: string }[];
        };
        const parts = (bill.components as Component[]).filter(({ properties }) =>
          properties.some(({ value }) => value === platform),
        );
        for (const { licenses } of parts) expect(licenses).toHaveLength(1);
        const folder = `neftune-${version}-${platform}`;
        const text = await must(empty(), [
          "tar",
          "-xOzf",
          file(`${folder}.tar.gz`),
          `${folder}/THIRD_PARTY.md`,
        ]);
        const headings = text.split("\n").filter((line) => line.startsWith("## "));
        expect(headings.sort()).toEqual(parts.map(({ name, version }) => `## ${name} ${version}`).sort());
        const multiplies = platform === "linux-x64" ? "oneDNN" : "OpenBLAS";
        for (const name of ["Bun", multiplies, "CUDA runtime (cudart, static)", "yaml"])
          expect(parts.map((part) => part.name)).toContain(name);
      },
    );

    test.each(platformNames)(
      "tarball, npm package and wheel of %s hold the same executable",
      async (platform) => {
        const { cpu, machine, executable } = platforms.find(({ name }) => name === platform)!;
        const folder = empty();
        const names = [`neftune-${version}-${platform}.tar.gz`, `neftune-${platform}-${version}.tgz`];
        for (const name of names) await must(folder, ["tar", "-xzf", file(name)]);
        const wheel = file(`neftune-${version}-py3-none-manylinux_2_28_${machine}.whl`);
        await must(folder, ["python3", "-m", "zipfile", "-e", wheel, "wheel"]);
        const manifest = JSON.parse(readFileSync(join(folder, "package", "package.json"), "utf8"));
        expect([manifest.os, manifest.cpu, manifest.libc]).toEqual([["linux"], [cpu], ["glibc"]]);
        const built = sha256(executable);
        for (const path of [
          `neftune-${version}-${platform}/neftune`,
          "package/bin/neftune",
          `wheel/neftune-${version}.data/scripts/neftune`,
        ])
          expect(sha256(join(folder, path))).toBe(built);
      },
      60_000,
    );

    test("the tarball", async () => {
      const folder = empty();
      const name = `neftune-${version}-linux-x64`;
      await must(folder, ["tar", "-xzf", file(`${name}.tar.gz`)]);
      expect(readdirSync(join(folder, name)).sort()).toEqual([
        "LICENSE",
        "README.md",
        "THIRD_PARTY.md",
        "completions",
        "neftune",
        "neftune.1",
      ]);
      await trains(join(folder, name, "neftune"));
    }, 60_000);

    test("install.sh", async () => {
      const server = Bun.serve({
        port: 0,
        hostname: "127.0.0.1",
        fetch: (request) => new Response(Bun.file(file(new URL(request.url).pathname.slice(1)))),
      });
      try {
        const prefix = empty();
        const url = server.url.href;
        await must(prefix, ["sh", file("install.sh"), "--base-url", url, "--prefix", prefix]);
        await trains(join(prefix, "bin", "neftune"));
      } finally {
        server.stop(true);
      }
    }, 60_000);

    test("npm", async () => {
      const folder = empty();
      const packages = [`neftune-${version}.tgz`, `neftune-linux-x64-${version}.tgz`].map(file);
      writeFileSync(join(folder, "package.json"), "{}");
      const cache = { npm_config_cache: join(place.root, "npm-cache") };
      await must(folder, ["npm", "install", "--offline", "--no-audit", "--no-fund", ...packages], cache);
      await trains(join(folder, "node_modules", ".bin", "neftune"));
      await must(folder, ["npx", "--offline", "neftune", "--version"], cache);

      // The library's types, for a program that is checked but not run.
      writeFileSync(
        join(folder, "program.ts"),
        'import { Device, type Sample } from "neftune";\nexport const device: Device = Device.open();\nexport const sample: Sample["ids"] = "wrong";\n',
      );
      const tsc = join(import.meta.dir, "../../node_modules/typescript/bin/tsc");
      const options = [
        "--noEmit",
        "--strict",
        "--skipLibCheck",
        "--module",
        "preserve",
        "--target",
        "esnext",
      ];
      const checked = Bun.spawnSync([process.execPath, tsc, ...options, "program.ts"], { cwd: folder });
      expect(checked.stdout.toString()).toMatch(/^program\.ts\(3,14\): error TS2322: [^\n]+\n$/);
      const imported = Bun.spawnSync(["node", "-e", 'import("neftune")'], { cwd: folder });
      expect(imported.stderr.toString()).toContain(
        "programs that use the library run with Bun in a checkout",
      );
    }, 60_000);

    test("npm without the platform's package: a sentence", async () => {
      const folder = empty();
      await must(folder, ["tar", "-xzf", file(`neftune-${version}.tgz`)]);
      const { exitCode, stderr } = Bun.spawnSync([join(folder, "package", "bin", "neftune")]);
      expect([exitCode, stderr.toString()]).toEqual([
        1,
        "neftune: the npm package neftune-linux-x64 is missing; install neftune again without --omit=optional (musl systems, such as Alpine, are not supported)\n",
      ]);
    });

    test("the wheel", async () => {
      const folder = empty();
      const python = join(folder, "bin", "python");
      await must(folder, ["python3", "-m", "venv", "."]);
      const wheel = file(`neftune-${version}-py3-none-manylinux_2_28_x86_64.whl`);
      const quiet = ["--disable-pip-version-check", "--no-index", "--quiet"];
      await must(folder, [python, "-m", "pip", "install", ...quiet, wheel]);
      await trains(join(folder, "bin", "neftune"));
      await trains(python, "-m", "neftune");
      await must(folder, [python, "-m", "pip", "uninstall", "--quiet", "--yes", "neftune"]);
      expect(existsSync(join(folder, "bin", "neftune"))).toBe(false);
    }, 120_000);
  },
);
