// The native libraries for arm64 as files inside the executable: what embedded.ts is for x86-64.

import gomp from "../../dist/native-arm64/libgomp.so.1.zst" with { type: "file" };
import cuda from "../../dist/native-arm64/libneftune-cuda.so.zst" with { type: "file" };
import faults from "../../dist/native-arm64/libneftune-faults.so.zst" with { type: "file" };
import neon from "../../dist/native-arm64/libneftune-neon.so.zst" with { type: "file" };
import openblas from "../../dist/native-arm64/libscipy_openblas.so.zst" with { type: "file" };

export const runtimeLibraries: readonly [name: string, file: string][] = [
  ["libgomp.so.1", gomp],
  ["libscipy_openblas.so", openblas],
];

export const cpuLibraries: Readonly<Record<string, string>> = { neon };

export const cudaLibrary: string = cuda;

export const faultsLibrary: string = faults;
