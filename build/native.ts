// Builds the native libraries into dist/native, each compressed beside itself (.zst) for embedding.
//
//   libgomp.so.1, libstdc++.so.6, libgcc_s.so.1   what oneDNN needs at run time, for glibc 2.28 and later
//   libdnnl.so.3                                  oneDNN, as its wheel has it but for the names of those three and its symbol table
//   libneftune-<isa>.so                           kernels/cpu, once for each instruction set
//   libneftune-faults.so                          kernels/faults, which survives faults in mapped files
//
// Everything is cached by the hash of what went into it.

import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { cached, compress, inParallel, kernels, objects, output, withIncludes } from "./compile.ts";
import { withoutSymbols } from "./elf.ts";
import { type Platform, x64 } from "./platform.ts";
import { ensureToolchain, run, type Toolchain } from "./toolchain.ts";

const runtime = join(kernels, "cpu", "runtime");

const target = x64.target;

const warnings = ["-Wall", "-Wextra", "-Werror"];

/** The instruction sets of the kernel library; src/native/library.ts picks one by the CPU's flags. */
const variants: Record<string, string[]> = {
  avx2: ["-march=x86_64_v3"],
  avx512: ["-march=x86_64_v4"],
  avx512_bf16: ["-march=x86_64_v4+avx512bf16+amx_tile+amx_bf16"],
};

/**
 * What oneDNN is to ask for instead of the system's libraries, as long as the names in its file. glibc takes a library
 * that is loaded for any that is needed by its name: under the system's names ours, which have what oneDNN needs and no
 * more, would keep the system's from whatever is loaded later (cuBLASLt, which needs the whole of libgcc_s).
 */
const ownNames = {
  "libgomp.so.1": "nt_gomp.so.1",
  "libstdc++.so.6": "nt_stdc++.so.6",
  "libgcc_s.so.1": "nt_gcc_s.so.1",
} as const;

/** oneDNN's file with our names in its string table. */
function renamed(library: string): Buffer {
  const bytes = readFileSync(library);
  for (const [name, own] of Object.entries(ownNames)) {
    const at = bytes.indexOf(`\0${name}\0`);
    if (at < 0 || own.length !== name.length) throw new Error(`${library} does not ask for ${name}`);
    bytes.write(own, at + 1, "latin1");
  }
  return bytes;
}

/** The command that links a library in place of one of the system's. */
function linkRuntime(
  tools: Toolchain,
  { target }: Platform,
  replaced: keyof typeof ownNames,
  script: string,
) {
  const map = join(runtime, `${script}.map`);
  const names = [`-Wl,-soname,${ownNames[replaced]}`, `-Wl,--version-script,${map}`];
  return { map, command: [tools.zig, "cc", ...target, "-shared", "-s", ...names] };
}

/** libgomp: the thread pool. */
export async function buildPool(tools: Toolchain, platform: Platform): Promise<string> {
  const common = [...platform.target, "-O2", "-fPIC", ...warnings];
  const source = join(runtime, "pool.cpp");
  const object = join(objects, platform === x64 ? "pool.o" : `${platform.cpu}-pool.o`);
  const cxx = [tools.zig, "c++", ...common, "-std=c++17", "-fno-exceptions", "-fno-rtti"];
  await cached(object, [...cxx, "-c", source], [source], tools.env);
  const { map, command } = linkRuntime(tools, platform, "libgomp.so.1", "libgomp");
  const gomp = join(platform.native, "libgomp.so.1");
  await cached(gomp, [...command, object], [object, map], tools.env);
  return gomp;
}

/** libgomp, libstdc++ and libgcc_s for oneDNN. */
async function buildRuntime(tools: Toolchain, env: Record<string, string>): Promise<string[]> {
  const common = [...target, "-O2", "-fPIC", ...warnings];
  const compat = join(objects, "glibc_compat.o");
  const gomp = await buildPool(tools, x64);
  const compatSource = join(runtime, "glibc_compat.c");
  await cached(compat, [tools.zig, "cc", ...common, "-c", compatSource], [compatSource], env);

  const archive = async (name: string) => {
    const path = (await run(["g++", `-print-file-name=${name}`])).trim();
    if (!existsSync(path)) throw new Error(`the build needs g++ with its static ${name}; g++ knows of none`);
    return path;
  };
  const archives = [await archive("libstdc++.a"), await archive("libgcc_eh.a")];
  const linkStdcxx = linkRuntime(tools, x64, "libstdc++.so.6", "libstdc++");
  const wanted = readFileSync(linkStdcxx.map, "utf8").matchAll(/^ {4}(\w+);/gm);
  const pull = Array.from(wanted, (match) => `-Wl,-u,${match[1]}`);
  const stdcxx = join(output, "libstdc++.so.6");
  await cached(
    stdcxx,
    [...linkStdcxx.command, compat, ...pull, "-Wl,--start-group", ...archives, "-Wl,--end-group", "-lm"],
    [compat, linkStdcxx.map, ...archives],
    env,
  );
  const gccSource = join(runtime, "libgcc_s.c");
  const gcc = join(output, "libgcc_s.so.1");
  const linkGcc = linkRuntime(tools, x64, "libgcc_s.so.1", "libgcc_s");
  await cached(
    gcc,
    [...linkGcc.command, "-O2", "-fPIC", gccSource, stdcxx],
    [gccSource, linkGcc.map, stdcxx],
    env,
  );
  return [gomp, stdcxx, gcc];
}

/** What differs between the builds of kernels/cpu. */
export interface Variant {
  /** The instruction set. */
  name: string;
  platform: Platform;
  /** For the compiler: the instruction set, folders of headers. */
  flags: readonly string[];
  /** For the compiler, behind all others. */
  includes: readonly string[];
  sources: readonly string[];
  /** Files that the objects depend on, besides the sources and what these include. */
  inputs: readonly string[];
  /** Libraries to link with. */
  needed: readonly string[];
}

/** Every source of kernels/cpu. */
export const cpuSources = (): string[] =>
  readdirSync(join(kernels, "cpu"))
    .filter((file) => file.endsWith(".cpp"))
    .map((file) => join(kernels, "cpu", file));

/** The kernels for one instruction set: their object files are compiled by the returned jobs, then linked. */
export function kernelVariant(variant: Variant, tools: Toolchain) {
  const { name, platform, flags, sources, needed } = variant;
  const { target } = platform;
  const env = tools.env;
  const compile = [
    ...[tools.zig, "c++", ...target, ...flags, `-DNT_ISA_NAME="${name}"`, "-std=c++17", "-O3", "-fPIC"],
    ...[
      "-fvisibility=hidden",
      "-fno-exceptions",
      "-fno-rtti",
      "-fno-math-errno",
      "-ffp-contract=on",
      ...warnings,
    ],
    ...["-I", kernels, ...variant.includes],
  ];
  const objectOf = (source: string) => join(objects, `${name}-${basename(source)}.o`);
  const library = join(platform.native, `libneftune-${name}.so`);
  return {
    library,
    jobs: sources.map((source) => () => {
      return cached(
        objectOf(source),
        [...compile, "-c", source],
        [...withIncludes(source), ...variant.inputs],
        env,
      );
    }),
    link: () => {
      const parts = sources.map(objectOf);
      const link = [
        tools.zig,
        "cc",
        ...target,
        "-shared",
        "-s",
        "-Wl,-z,defs",
        "-Wl,-Bsymbolic", // where tests load several variants, each calls its own functions
        `-Wl,-soname,libneftune-${name}.so`,
      ];
      return cached(library, [...link, ...parts, ...needed, "-ldl", "-lm"], [...parts, ...needed], env);
    },
  };
}

export async function buildFaults(tools: Toolchain, platform: Platform): Promise<string> {
  const source = join(kernels, "faults", "mapped_faults.c");
  const library = join(platform.native, "libneftune-faults.so");
  const flags = [...platform.target, "-std=c11", "-O2", "-fPIC", "-fvisibility=hidden", ...warnings];
  const link = ["-shared", "-s", "-Wl,-z,defs", "-Wl,-soname,libneftune-faults.so"];
  await cached(library, [tools.zig, "cc", ...flags, ...link, source], [source], tools.env);
  return library;
}

/** Builds everything; returns the libraries' paths. */
export async function buildNative(): Promise<string[]> {
  mkdirSync(objects, { recursive: true });
  mkdirSync(output, { recursive: true });
  const tools = await ensureToolchain();
  const env = tools.env;
  const libraries = [...(await buildRuntime(tools, env)), await buildFaults(tools, x64)];
  const dnnl = join(output, "libdnnl.so.3");
  writeFileSync(dnnl, withoutSymbols(renamed(tools.dnnlLibrary)));
  libraries.push(dnnl);

  const common = {
    platform: x64,
    includes: ["-isystem", tools.dnnlInclude],
    sources: cpuSources(),
    inputs: [],
    needed: [tools.dnnlLibrary, join(output, "libgomp.so.1")],
  };
  const built = Object.entries(variants).map(([name, flags]) =>
    kernelVariant({ ...common, name, flags }, tools),
  );
  await inParallel([() => compress(dnnl), ...built.flatMap((variant) => variant.jobs)]); // the longest first
  for (const variant of built) {
    await variant.link();
    libraries.push(variant.library);
  }
  await inParallel(libraries.map((library) => () => compress(library)));
  return libraries;
}
