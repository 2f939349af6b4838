import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdirSync } from "node:fs";
import { Place } from "./support.ts";

const place = new Place();
afterAll(() => place.close());

interface Measured {
  mean: number;
  deviation: number | null;
}

test("the demo: a base, fine-tunings that learn, a table, a verdict over seeds and a report that needs nothing from outside", async () => {
  const { stdout, stderr } = await place.must("demo", "--json", "--quiet");
  expect(stderr).toBe("");
  const summary = JSON.parse(stdout) as {
    report: string;
    verdict: string;
    results: { name: string; train_loss: Measured; held_out_loss: Measured; exact: Measured }[];
  };
  const [base, plain, noisy] = summary.results;
  expect([base!.name, plain!.name, noisy!.name]).toEqual(["base", "alpha 0", "alpha 5"]);
  for (const tuned of [plain!, noisy!]) {
    expect(tuned.held_out_loss.mean).toBeLessThan(1.2);
    expect(tuned.held_out_loss.mean).toBeLessThan(base!.held_out_loss.mean / 2);
    expect(tuned.held_out_loss.deviation).toBeGreaterThan(0);
    expect(tuned.exact.mean).toBeGreaterThan(base!.exact.mean);
  }
  expect(noisy!.held_out_loss.mean).not.toBe(plain!.held_out_loss.mean);
  expect(summary.verdict).toMatch(/95 % interval of the difference/);

  const html = place.read(summary.report);
  expect(html).toContain("<svg");
  expect(html).not.toMatch(/https?:|src=|@import|url\(/);
  expect(html).toContain(noisy!.held_out_loss.mean.toFixed(4));

  const { stdout: answer } = await place.must(
    ...[
      "generate",
      "--model",
      "neftune-demo/base",
      "--adapter",
      "neftune-demo/alpha-5-seed-1",
      "--dtype",
      "f32",
    ],
    ...["--prompt-template", "alpaca", "--prompt", "What is the opposite of hot?", "--quiet"],
  );
  expect(answer).toContain("opposite");
}, 300_000);

test("a folder that is no demo's is refused and left alone", async () => {
  mkdirSync(place.path("mine"));
  place.write("mine/data", "precious");
  const { status, stderr } = await place.run("demo", "--output", "mine");
  expect(status).toBe(2);
  expect(stderr).toContain("--output mine is not empty");
  expect(existsSync(place.path("mine/data"))).toBe(true);
});
