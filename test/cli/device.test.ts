import { afterAll, expect, test } from "bun:test";
import { openDevice } from "../../src/cli/arguments/device.ts";
import { backends } from "../backends.ts";

const emulated = backends.find(({ kind }) => kind === "emulated");
const before = process.env.NEFTUNE_CUDA_LIBRARY;
afterAll(() => {
  if (before === undefined) delete process.env.NEFTUNE_CUDA_LIBRARY;
  else process.env.NEFTUNE_CUDA_LIBRARY = before;
});

test.skipIf(emulated === undefined)(
  `a CUDA device that cannot be opened: the message names the remedy${emulated ? "" : " (skipped: no emulated backend)"}`,
  () => {
    process.env.NEFTUNE_CUDA_LIBRARY = emulated!.env.NEFTUNE_CUDA_LIBRARY!;
    const context = { note: () => {} } as unknown as Parameters<typeof openDevice>[1];
    expect(() => openDevice({ device: "cuda:77", threads: 1 }, context)).toThrow(
      /^--device cuda:77: .*; or use --device cpu$/,
    );
  },
);
