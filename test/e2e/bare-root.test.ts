// The executable runs where nothing but glibc is installed: a root folder with four libraries and the dynamic loader.

import { expect, test } from "bun:test";
import { benchInBareRoot, canChroot } from "./bare-root.ts";

test.skipIf(!canChroot)(
  "computes in a root with glibc alone (skipped where namespaces are forbidden or glibc lies elsewhere)",
  () => {
    const { status, printed, complaints } = benchInBareRoot("/");
    expect(status, complaints).toBe(0);
    expect(JSON.parse(printed)).toHaveProperty("tokens_per_second");
  },
  60_000,
);
