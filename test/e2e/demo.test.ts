import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdirSync } from "node:fs";
import { Place } from "./support.ts";

const place = new Place();
afterAll(() => place.close());

test("the demo: a base, two fine-tunings that learn, a table and a report that needs nothing from outside", async () => {
  const { stdout, stderr } = await place.must("demo", "--json", "--quiet");
  expect(stderr).toBe("");
  const summary = JSON.parse(stdout) as {
    report: string;
    results: { name: string; train_loss: number; held_out_loss: number; exact_answers: number }[];
  };
  const [base, plain, noisy] = summary.results;
  expect([base!.name, plain!.name, noisy!.name]).toEqual(["base", "alpha 0", "alpha 5"]);
  for (const tuned of [plain!, noisy!]) {
    expect(tuned.held_out_loss).toBeLessThan(1.2);
    expect(tuned.held_out_loss).toBeLessThan(base!.held_out_loss / 2);
    expect(tuned.exact_answers).toBeGreaterThan(base!.exact_answers);
  }
  expect(noisy!.held_out_loss).not.toBe(plain!.held_out_loss);

  const html = place.read(summary.report);
  expect(html).toContain("<svg");
  expect(html).not.toMatch(/https?:|src=|@import|url\(/);
  expect(html).toContain(noisy!.held_out_loss.toFixed(3));

  const { stdout: answer } = await place.must(
    ...["generate", "--model", "neftune-demo/base", "--adapter", "neftune-demo/alpha-5", "--dtype", "f32"],
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
