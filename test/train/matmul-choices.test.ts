import { expect, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  gatherMatmulChoices,
  keepMatmulChoices,
  readMatmulChoices,
  restoreMatmulChoices,
} from "../../src/train/matmul-choices.ts";
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

const restore = (folder: RunFolder, device: ReturnType<typeof choosing>) =>
  restoreMatmulChoices(readMatmulChoices(folder), device);

test("choices are written where there are any, and taken over where there is a file", async () => {
  const folder = RunFolder.open(newFolder(), { resume: false, tune: "lora" });
  const device = choosing("head\n1 2\n");
  expect(await restore(folder, device)).toEqual([]);
  keepMatmulChoices(folder, [""]);
  expect(existsSync(join(folder.path, FILE))).toBe(false);
  keepMatmulChoices(folder, await gatherMatmulChoices(device));
  expect(readFileSync(join(folder.path, FILE), "utf8")).toBe("head\n1 2\n");
  expect(await restore(folder, device)).toEqual([]);
  expect(device.used).toEqual(["head\n1 2\n"]);
  writeFileSync(join(folder.path, FILE), "odd");
  // What is written already is neither read nor written again.
  keepMatmulChoices(folder, await gatherMatmulChoices(device));
  expect(readFileSync(join(folder.path, FILE), "utf8")).toBe("odd");
  expect(await restore(folder, device)).toEqual([
    "--resume: matmul-choices.txt is not used, and the last bits of results may differ: chosen with another library",
  ]);
  keepMatmulChoices(folder, ["head\n1 2\n3 4\n"]);
  expect(readFileSync(join(folder.path, FILE), "utf8")).toBe("head\n1 2\n3 4\n");
  folder.close();
});

test("each rank goes by its own, one more by the first's, and where one cannot it is said", async () => {
  const folder = RunFolder.open(newFolder(), { resume: false, tune: "lora" });
  const chosen = ["", "head\n1 2\n", "", "head\n3 4\n5 6\n", ""];
  for (const texts of [chosen, chosen.slice(1), chosen.slice(1, -1), chosen.slice(3)]) {
    keepMatmulChoices(folder, texts);
    expect(readMatmulChoices(folder)).toEqual(texts);
  }
  folder.close();
  /** What the ranks' devices are given, and what each rank says. */
  const restoredBy = async (size: number, texts: string[]) => {
    const devices = Array.from({ length: size }, () => choosing(""));
    const problems: Promise<string>[] = [];
    const notes = devices.map((device, rank) => {
      const share = (problem: string) => {
        problems[rank] = Promise.resolve(problem);
        return Promise.resolve().then(() => Promise.all(problems));
      };
      return restoreMatmulChoices(texts, device, { ranks: { rank, share } });
    });
    return { used: devices.map((device) => device.used), notes: await Promise.all(notes) };
  };
  expect(await restoredBy(3, ["a\n", "", "c\n"])).toEqual({
    used: [["a\n"], [], ["c\n"]],
    notes: [[], [], []],
  });
  expect((await restoredBy(3, ["a\n", "b\n"])).used).toEqual([["a\n"], ["b\n"], ["a\n"]]);
  expect((await restoredBy(1, ["a\n", "b\n"])).used).toEqual([["a\n"]]);
  const note =
    "--resume: matmul-choices.txt is not used on rank 1, and the last bits of results may differ: chosen with another library";
  expect(await restoredBy(2, ["a\n", "odd"])).toEqual({ used: [["a\n"], []], notes: [[note], [note]] });
});

test("a run keeps them at each checkpoint, and a resumed one goes by them before it computes", async () => {
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
