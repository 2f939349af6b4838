import { expect, test } from "bun:test";
import { cudaStamp } from "../../build/cuda.ts";
import { arm64, x64 } from "../../build/platform.ts";

test("a CUDA library built for other architectures, or with other options of nvcc, is stale", () => {
  expect(cudaStamp(x64)).not.toBe(cudaStamp(arm64));
  expect(cudaStamp(x64, ["-O3"])).not.toBe(cudaStamp(x64, ["-O3", "--use_fast_math"]));
  expect(cudaStamp(x64)).toBe(cudaStamp(x64));
});
