import { afterAll, expect, test } from "bun:test";
import { openDevice } from "../../src/cli/arguments/device.ts";
import { ceilingRows } from "../../src/cli/doctor.ts";
import { isaCeiling } from "../../src/native/index.ts";
import { backends } from "../backends.ts";
import { quietContext } from "./quiet-context.ts";

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

test.skipIf(process.arch !== "x64")(
  "a misspelled ceiling for oneDNN is said once, with the CPU alone",
  () => {
    const noted = (env: Record<string, string>) => {
      const notes: string[] = [];
      const context = quietContext({ env, note: (text) => void notes.push(text) });
      openDevice({ device: "cpu", threads: 1 }, context).close();
      return notes.filter((text) => text.includes("MAX_CPU_ISA"));
    };
    expect(noted({ ONEDNN_MAX_CPU_ISA: "AVX2" })).toEqual([]);
    expect(noted({ ONEDNN_MAX_CPU_ISA: "avx9" })).toEqual([
      expect.stringMatching(
        /^ONEDNN_MAX_CPU_ISA=avx9 has no effect: .*; expected one of /,
      ) as unknown as string,
    ]);
  },
);

test("doctor names the variable that limits oneDNN, and what it does", () => {
  const rows = (env: Record<string, string>, amx: boolean) =>
    ceilingRows({ cpu: { amx }, isa_ceiling: isaCeiling(env) });
  expect(rows({}, true)).toEqual([]);
  const [[name, effect] = []] = rows({ ONEDNN_MAX_CPU_ISA: "AVX512_CORE" }, true);
  expect(name).toBe("  ceiling");
  expect(effect).toMatch(/^ONEDNN_MAX_CPU_ISA=AVX512_CORE limits .*, and leaves AMX unused$/);
  expect(rows({ DNNL_MAX_CPU_ISA: "typo" }, true)[0]![1]).toStartWith(
    "DNNL_MAX_CPU_ISA=typo has no effect: ",
  );
});
