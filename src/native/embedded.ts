// The native libraries for x86-64 as files inside the executable (or of dist/native, when run from source). Imported as
// "#embedded": package.json says which platform's file that is.

import dnnl from "../../dist/native/libdnnl.so.3.zst" with { type: "file" };
import gcc from "../../dist/native/libgcc_s.so.1.zst" with { type: "file" };
import gomp from "../../dist/native/libgomp.so.1.zst" with { type: "file" };
import avx2 from "../../dist/native/libneftune-avx2.so.zst" with { type: "file" };
import avx512 from "../../dist/native/libneftune-avx512.so.zst" with { type: "file" };
import avx512Bf16 from "../../dist/native/libneftune-avx512_bf16.so.zst" with { type: "file" };
import cuda from "../../dist/native/libneftune-cuda.so.zst" with { type: "file" };
import faults from "../../dist/native/libneftune-faults.so.zst" with { type: "file" };
import stdcxx from "../../dist/native/libstdc++.so.6.zst" with { type: "file" };

/** What our kernels need, in the order to load it. */
export const runtimeLibraries: readonly [name: string, file: string][] = [
  ["libgomp.so.1", gomp],
  ["libstdc++.so.6", stdcxx],
  ["libgcc_s.so.1", gcc],
  ["libdnnl.so.3", dnnl],
];

/** The CPU kernels, one library for each instruction set of the platform. */
export const cpuLibraries: Readonly<Record<string, string>> = { avx2, avx512, avx512_bf16: avx512Bf16 };

/** The CUDA kernels; an empty file where the build had no nvcc. */
export const cudaLibrary: string = cuda;

/** What survives faults in mapped files. */
export const faultsLibrary: string = faults;
