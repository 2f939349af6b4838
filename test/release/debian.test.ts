// Fetches from Debian's archive are tried again.

import { expect, test } from "bun:test";
import { download } from "../../build/arm64/debian.ts";

/** Asks a server that fails `failures` times before it answers. */
async function asked(failures: number): Promise<{ requests: number; got: string }> {
  let requests = 0;
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: () => (++requests > failures ? new Response("package") : new Response("", { status: 503 })),
  });
  try {
    const bytes = await download(server.url.href, 1).catch((error: Error) => error);
    return { requests, got: bytes instanceof Error ? bytes.message : new TextDecoder().decode(bytes) };
  } finally {
    await server.stop(true);
  }
}

test("a server that fails twice is asked a third time", async () => {
  expect(await asked(2)).toEqual({ requests: 3, got: "package" });
});

test("one that keeps failing is given up", async () => {
  const { requests, got } = await asked(9);
  expect(requests).toBe(3);
  expect(got).toMatch(/: the server answers 503$/);
});
