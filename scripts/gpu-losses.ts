// Whether steps on a GPU lose what the CPU's lose: the same random weights, rows and updates, in bf16 on both.
//   bun scripts/gpu-losses.ts RESULTS

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { formatTable } from "../src/cli/terminal/format.ts";

interface Report {
  device: string;
  /** null: not finite. */
  steps: { loss: number | null; grad_norm: number | null }[];
}

/** Relative differences that rounding in bf16 explains. */
const allowed = { loss: 2e-3, grad_norm: 3e-2 };

const folder = process.argv[2] ?? "gpu-results";
let failed = false;
for (const mode of ["lora", "qlora"]) {
  const read = (device: string) =>
    JSON.parse(readFileSync(join(folder, `losses-${mode}-${device}.json`), "utf8")) as Report;
  const [gpu, cpu] = [read("cuda"), read("cpu")];
  if (cpu.steps.length === 0) {
    console.log(`${mode}: the CPU's report has no steps to compare with`);
    failed = true;
  }
  const rows = cpu.steps.map((want, i) => {
    const got = gpu.steps[i];
    const apart = (name: "loss" | "grad_norm") =>
      Math.abs((got?.[name] ?? Number.NaN) / (want[name] ?? Number.NaN) - 1);
    const isRight = apart("loss") <= allowed.loss && apart("grad_norm") <= allowed.grad_norm;
    failed ||= !isRight;
    const cells = (["loss", "grad_norm"] as const).flatMap((name) => [
      got?.[name]?.toFixed(5) ?? "–",
      want[name]?.toFixed(5) ?? "–",
      apart(name).toExponential(1),
    ]);
    return [`${mode} ${i + 1}`, ...cells, isRight ? "" : "too far apart"];
  });
  const head = ["step", "loss", "CPU's", "apart", "gradient norm", "CPU's", "apart", ""];
  console.log(`${gpu.device} and ${cpu.device}\n${formatTable([head, ...rows], [1, 2, 3, 4, 5, 6])}\n`);
}
process.exitCode = failed ? 1 : 0;
