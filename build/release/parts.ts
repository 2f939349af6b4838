// Everything in the executable that others wrote: what it is, under which license, and where the license's text lies.
// THIRD_PARTY.md and the bill of materials are made from this list.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import packageJson from "../../package.json" with { type: "json" };
import lock from "../../package-lock.json" with { type: "json" };
import { root } from "../compile.ts";
import { type Platform, x64 } from "../platform.ts";

export interface Part {
  name: string;
  version: string;
  /** An SPDX expression, or LicenseRef-… where SPDX has none. */
  license: string;
  /** What it does in neftune. */
  purpose: string;
  url: string;
  /** Package URL: where this very version comes from. */
  purl: string;
  /** Files with the license and its notices. */
  texts: readonly string[];
  /** What the license asks to be said, where that is not in its text. */
  note?: string;
  /** Parts of this part, with their licenses. */
  holds?: readonly (readonly [name: string, license: string])[];
}

interface Locked {
  version?: string;
  license?: string;
  dependencies?: Record<string, string>;
}

const packages = lock.packages as Record<string, Locked>;

/** The npm packages in the bundle: the dependencies and theirs. Throws where one has no license file. */
export function npmParts(): Part[] {
  const found = new Set<string>();
  const visit = (names: readonly string[]): void => {
    for (const name of names) {
      if (found.has(name)) continue;
      found.add(name);
      visit(Object.keys(packages[`node_modules/${name}`]?.dependencies ?? {}));
    }
  };
  visit(Object.keys(packageJson.dependencies));
  return [...found].sort().map((name) => {
    const { version, license } = packages[`node_modules/${name}`] ?? {};
    if (version === undefined || license === undefined)
      throw new Error(`package-lock.json does not give version and license of ${name}`);
    const folder = join(root, "node_modules", name);
    const texts = readdirSync(folder).filter((file) => /^(licen[sc]e|notice)/i.test(file));
    if (texts.length === 0) throw new Error(`${folder} holds no license`);
    return {
      ...{ name, version, license, purpose: "JavaScript library" },
      url: `https://www.npmjs.com/package/${name}`,
      purl: `pkg:npm/${name.replace("@", "%40")}@${version}`,
      texts: texts.map((file) => join(folder, file)),
    };
  });
}

const licenses = join(import.meta.dir, "licenses");
const toolchain = (...parts: string[]) => join(root, ".toolchain", ...parts);

/** The version that a requirements file pins. Throws where it does not. */
function pinned(file: string, name: string): string {
  const text = readFileSync(join(root, "build", file), "utf8");
  const version = new RegExp(`^${name}==(\\S+)`, "m").exec(text)?.[1];
  if (version === undefined) throw new Error(`build/${file} does not pin ${name}`);
  return version;
}

/** The license files of a wheel's dist-info. */
function wheelLicenses(folder: string): string[] {
  const inside = existsSync(join(folder, "licenses")) ? join(folder, "licenses") : folder;
  return readdirSync(inside)
    .filter((file) => /^licen[sc]e/i.test(file))
    .map((file) => join(inside, file));
}

/** Where a wheel's dist-info was unpacked. Throws where it was not: an installed CUDA toolkit needs no wheels. */
function wheelFolder(name: string): string {
  const found = ["cuda", "cuda-headers", "arm64"].map((folder) => toolchain(folder, name)).find(existsSync);
  if (found === undefined) throw new Error(`.toolchain has no ${name}: npm run build:native fetches it`);
  return found;
}

function bun(platform: Platform): Part {
  const name = `@oven/bun-${platform === x64 ? "linux-x64" : "linux-aarch64"}`;
  const version = packageJson.devDependencies["@oven/bun-linux-x64"];
  return {
    ...{ name: "Bun", version, license: "MIT AND LGPL-2.1-or-later", purpose: "JavaScript runtime" },
    url: "https://github.com/oven-sh/bun",
    purl: `pkg:npm/${name.replace("@", "%40")}@${version}`,
    texts: [join(licenses, "bun.txt"), join(licenses, "lgpl-2.1.txt")],
    note: `Bun is linked statically with JavaScriptCore (LGPL-2.1) and TinyCC (LGPL-2.1). To use neftune with changed ones, build Bun from https://github.com/oven-sh/bun at bun-v${version} with your JavaScriptCore (https://github.com/oven-sh/WebKit) or TinyCC, put it in place of node_modules/${name}/bin/bun in neftune's sources, and run \`npm run build\`.`,
    holds: [
      ["JavaScriptCore and WebCore files of WebKit", "LGPL-2.1-or-later"],
      ["TinyCC", "LGPL-2.1-or-later"],
      ["BoringSSL", "OpenSSL AND ISC AND MIT"],
      ["Brotli", "MIT"],
      ["c-ares", "MIT"],
      ["Highway", "Apache-2.0"],
      ["ICU", "Unicode-3.0"],
      ["libarchive", "BSD-2-Clause"],
      ["libbase64", "BSD-2-Clause"],
      ["libc++abi (cxa_thread_atexit)", "Apache-2.0 WITH LLVM-exception"],
      ["libdeflate", "MIT"],
      ["libjpeg-turbo", "BSD-3-Clause AND IJG AND Zlib"],
      ["libspng", "BSD-2-Clause"],
      ["libwebp", "BSD-3-Clause"],
      ["lol-html", "BSD-3-Clause"],
      ["ls-hpack and ls-qpack", "MIT"],
      ["lsquic", "MIT AND BSD-3-Clause"],
      ["mimalloc", "MIT"],
      ["picohttpparser", "MIT"],
      ["simdutf", "Apache-2.0"],
      ["TigerBeetle (parts of its I/O)", "Apache-2.0"],
      ["uSockets and uWebSockets", "Apache-2.0"],
      ["uucode", "MIT"],
      ["zlib-ng", "Zlib"],
      ["Zstandard", "BSD-3-Clause"],
      ["polyfills of Node's modules, acorn", "MIT"],
    ],
  };
}

function zig(): Part {
  const version = pinned("requirements.txt", "ziglang");
  return {
    ...{
      name: "Zig compiler-rt",
      version,
      license: "MIT",
      purpose: "compiler's runtime in the native libraries",
    },
    url: "https://ziglang.org",
    purl: `pkg:pypi/ziglang@${version}`,
    texts: [toolchain("packages", "ziglang", "LICENSE")],
  };
}

function cudart(): Part {
  const version = pinned("requirements-cuda.txt", "nvidia-cuda-runtime");
  return {
    ...{ name: "CUDA runtime (cudart, static)", version, purpose: "runtime of the CUDA kernels" },
    license: "LicenseRef-NVIDIA-CUDA-EULA",
    url: "https://docs.nvidia.com/cuda/eula/",
    purl: `pkg:pypi/nvidia-cuda-runtime@${version}`,
    texts: wheelLicenses(wheelFolder(`nvidia_cuda_runtime-${version}.dist-info`)),
    note: "Distributed under the terms for redistributable software of the CUDA Toolkit's license (its Attachment A names libcudart_static.a).",
  };
}

function onednn(): Part {
  const version = pinned("requirements.txt", "onednn-cpu-gomp");
  const docs = toolchain("packages", `onednn_cpu_gomp-${version}.data`, "data", "share", "doc", "onednn");
  return {
    ...{ name: "oneDNN", version, license: "Apache-2.0", purpose: "matrix products on x86-64" },
    url: "https://github.com/oneapi-src/oneDNN",
    purl: `pkg:pypi/onednn-cpu-gomp@${version}`,
    texts: [join(docs, "LICENSE"), join(docs, "THIRD-PARTY-PROGRAMS")],
    note: "The names of three libraries that it asks for were changed in its file (build/native.ts).",
  };
}

function gcc(): Part {
  const compiler = Bun.spawnSync(["g++", "-dumpfullversion"]).stdout.toString().trim();
  return {
    ...{ name: "libstdc++ and libgcc_eh of GCC", version: compiler, purpose: "C++ runtime of oneDNN" },
    license: "GPL-3.0-or-later WITH GCC-exception-3.1",
    url: "https://gcc.gnu.org",
    purl: `pkg:generic/gcc@${compiler}`,
    texts: [join(licenses, "gcc.txt")],
  };
}

function openblas(): Part {
  const version = pinned("arm64/requirements.txt", "scipy-openblas32");
  return {
    ...{ name: "OpenBLAS", version, license: "BSD-3-Clause", purpose: "matrix products on arm64" },
    url: "https://github.com/OpenMathLib/OpenBLAS",
    purl: `pkg:pypi/scipy-openblas32@${version}`,
    texts: wheelLicenses(toolchain("arm64", `scipy_openblas32-${version}.dist-info`)),
    holds: [
      ["LAPACK", "BSD-3-Clause"],
      ["GCC runtime library", "GPL-3.0-or-later WITH GCC-exception-3.1"],
    ],
  };
}

function simde(): Part {
  const pins = readFileSync(join(root, "build", "arm64", "debian.txt"), "utf8");
  const version = /libsimde-dev_(\S+)_all\.deb/.exec(pins)?.[1];
  if (version === undefined) throw new Error("build/arm64/debian.txt does not pin libsimde-dev");
  return {
    ...{
      name: "SIMDe",
      version: decodeURIComponent(version),
      license: "MIT",
      purpose: "vector instructions of arm64",
    },
    url: "https://github.com/simd-everywhere/simde",
    purl: `pkg:deb/debian/libsimde-dev@${version}?arch=all`,
    texts: [toolchain("debian", "usr", "share", "doc", "libsimde-dev", "copyright")],
  };
}

/** All parts of the executable for a platform, by name. */
export function partsOf(platform: Platform): Part[] {
  const own = platform === x64 ? [onednn(), gcc()] : [openblas(), simde()];
  const parts = [bun(platform), zig(), ...own, cudart(), ...npmParts()];
  return parts.sort((a, b) => Buffer.compare(Buffer.from(a.name), Buffer.from(b.name)));
}
