import { expect, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { keepMatmulChoices, restoreMatmulChoices } from "../../src/train/matmul-choices.ts";
import { RunFolder } from "../../src/train/run-folder.ts";
import { FakeModel } from "./fake-model.ts";
import { noisy, runFolders } from "./runs.ts";

const { newFolder } = await runFolders();
const FILE = "matmul-choices.txt";

/** A device that has chosen `text`, and takes texts over but for "odd". */
function choosing(text: string) {
  const used: string[] = [];
  const useMatmulChoices = (given: string) => {
    if (given === "odd") throw new Error("chosen with another library");
    used.push(given);
  };
  return { matmulChoices: () => text, useMatmulChoices, used };
}

test("choices are written where there are any, and taken over where there is a file", () => {
  const folder = RunFolder.open(newFolder(), { resume: false, tune: "lora" });
  const device = choosing("head\n1 2\n");
  expect(restoreMatmulChoices(folder, device)).toBeNull();
  keepMatmulChoices(folder, choosing(""));
  expect(existsSync(join(folder.path, FILE))).toBe(false);
  keepMatmulChoices(folder, device);
  expect(readFileSync(join(folder.path, FILE), "utf8")).toBe("head\n1 2\n");
  expect(restoreMatmulChoices(folder, device)).toBeNull();
  expect(device.used).toEqual(["head\n1 2\n"]);
  writeFileSync(join(folder.path, FILE), "odd");
  // What is written already is neither read nor written each step.
  keepMatmulChoices(folder, device);
  expect(readFileSync(join(folder.path, FILE), "utf8")).toBe("odd");
  expect(restoreMatmulChoices(folder, device)).toBe(
    "--resume: matmul-choices.txt is not used, and the last bits of results may differ: chosen with another library",
  );
  keepMatmulChoices(folder, choosing("head\n1 2\n3 4\n"));
  expect(readFileSync(join(folder.path, FILE), "utf8")).toBe("head\n1 2\n3 4\n");
  folder.close();
});

test("a run keeps them step by step, and a resumed one goes by them before it computes", async () => {
  const output = newFolder();
  class ChoosingModel extends FakeModel {
    override readonly device = { ...new FakeModel().device, ...choosing("chosen") };
  }
  const first = noisy({ output, model: new ChoosingModel(), options: { maxSteps: 2, saveSteps: 1 } });
  await first.trainer.train();
  expect(readFileSync(join(output, FILE), "utf8")).toBe("chosen");
  const model = new ChoosingModel();
  await noisy({ output, model, resume: true, options: { maxSteps: 2, saveSteps: 1 } }).trainer.train();
  expect(model.device.used).toEqual(["chosen"]);
});
