// The executable computes with glibc 2.31, the oldest one that Debian's archive still has. Runs with
// NEFTUNE_TEST_OLD_GLIBC=1 (npm run test:release), as it needs a file from there.

import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fetched, unpack } from "../../build/arm64/debian.ts";
import { benchInBareRoot, canChroot } from "../e2e/bare-root.ts";

const LIBC = "pool/main/g/glibc/libc6_2.31-13+deb11u11_amd64.deb";
const HASH = "05f7264da867b37f4c5ce49266b558ea1e81e05a9464f623152fca70f3550282";

const bullseye = mkdtempSync(join(tmpdir(), "bullseye-"));
afterAll(() => rmSync(bullseye, { recursive: true }));

test.skipIf(!canChroot || process.env.NEFTUNE_TEST_OLD_GLIBC !== "1")(
  "computes with glibc 2.31 (skipped without NEFTUNE_TEST_OLD_GLIBC=1, and where namespaces are forbidden)",
  async () => {
    await unpack(await fetched(LIBC, HASH), bullseye);
    const { status, printed, complaints } = benchInBareRoot(bullseye);
    expect(status, complaints).toBe(0);
    expect(JSON.parse(printed)).toHaveProperty("tokens_per_second");
  },
  120_000,
);
