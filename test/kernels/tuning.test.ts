import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { backends } from "../backends.ts";
import { spawned } from "../spawned.ts";

/**
 * Makes products of these numbers of rows after taking over the choices given, and what it can of damaged ones; prints
 * those it then has, the values, and what was said of the damaged ones. For the first `crowded` products the device has no
 * memory left.
 */
const script = `
  import { Device, linearForward, Weight } from ${JSON.stringify(join(import.meta.dir, "../../src/native/index.ts"))};
  const { given, rows, damaged, crowded } = JSON.parse(process.argv.at(-1));
  const device = Device.open({ kind: "cuda" });
  if (given !== null) device.useMatmulChoices(given);
  const refusals = damaged.map((text) => {
    try {
      device.useMatmulChoices(text);
      return "";
    } catch (error) {
      return error.message;
    }
  });
  const sine = (n) => Float32Array.from({ length: n }, (_, i) => Math.sin(i));
  const tensor = (...shape) => {
    const made = device.allocate("f32", shape);
    device.writeFloats(made, sine(made.size));
    return made;
  };
  const weight = Weight.dense(device, tensor(24, 40));
  const values = rows.map((T, i) => {
    const [y, x] = [device.allocate("f32", [T, 24]), tensor(T, 40)];
    const taken = i < crowded ? device.malloc(device.freeMemory()) : null;
    linearForward(device, y, x, weight, null);
    if (taken !== null) device.free(taken);
    return [...device.readFloats(y)];
  });
  console.log(JSON.stringify({ choices: device.matmulChoices(), values, refusals }));`;

interface Run {
  choices: string;
  values: number[][];
  refusals: string[];
}

for (const { kind, env } of backends.filter((backend) => backend.kind !== "cpu")) {
  describe(`${kind}: chosen algorithms`, () => {
    const run = async (
      rows: number[],
      given: string | null = null,
      tune = "1",
      damaged: string[] = [],
      split?: string,
      crowded = 0,
    ) => {
      const argument = JSON.stringify({ given, rows, damaged, crowded });
      const chosen = { NEFTUNE_TUNE_MATMUL: tune, NEFTUNE_EMULATOR_SPLIT_K: split };
      const where = { cwd: import.meta.dir, env: { ...env, ...chosen } };
      return spawned([process.execPath, "-e", script, argument], where);
    };
    const must = async (...args: Parameters<typeof run>) => {
      const { stdout, stderr } = await run(...args);
      expect(stderr).toBe("");
      return JSON.parse(stdout) as Run;
    };
    const lines = ({ choices }: Run) => choices.trimEnd().split("\n");

    test("sizes of one bucket share one, and none is made unless asked for", async () => {
      const [one, same, two] = [await must([33]), await must([33, 40, 36]), await must([33, 41])];
      expect(lines(one)).toHaveLength(2); // a head and a choice
      expect(lines(same)).toHaveLength(2);
      expect(lines(two)).toHaveLength(3);
      const none = await must([33, 40, 36], null, "0");
      expect(none.choices).toBe("");
    });

    test("another process goes by them", async () => {
      const { choices, values } = await must([33, 41]);
      const given = await must([41, 33], choices);
      expect(given.choices).toBe(choices);
      expect(given.values).toEqual(values.toReversed());
      expect(lines(await must([50], choices))).toHaveLength(4);
    });

    test("of a damaged text no choice is taken over", async () => {
      const { choices } = await must([33, 41]);
      const [head, one, two] = choices.trimEnd().split("\n");
      const texts = [
        choices.slice(0, -1), // no end of the last line
        choices.slice(0, -40),
        `${head}\n${one}\n${two!.split(" ").slice(0, -1).join(" ")}\n${one}\n`, // its word from the next line
        `${head}\n${one}\n\n${two}\n`,
      ];
      const { choices: kept, refusals } = await must([], null, "1", texts);
      for (const refusal of refusals)
        expect(refusal).toMatch(/the text of chosen algorithms is damaged at byte \d+$/);
      expect(refusals).toHaveLength(texts.length);
      expect(kept).toBe(`${head}\n`);
    });

    if (kind === "emulated")
      test("one that splits k is taken where its bits are the same each time and no k is lost", async () => {
        const plain = await must([33, 44]);
        const sound = await run([33, 44], null, "1", [], "sound");
        expect(sound.stderr).toBe("");
        const { choices, values } = JSON.parse(sound.stdout) as Run;
        expect(choices).not.toBe(plain.choices);
        expect(values).toEqual(plain.values);
        // Without memory to try it in it is not used, nor refused for good.
        const crowded = await run([33, 34], null, "1", [], "sound", 1);
        expect(crowded.stderr).toBe("");
        expect((JSON.parse(crowded.stdout) as Run).choices.split("\n")[1]).toMatch(/ 414c474f 2 /);
        for (const fault of ["varying", "short"]) {
          const refused = await run([33, 44], null, "1", [], fault);
          expect(
            refused.stderr.match(/splits k = 40 did not give the same, right bits each time/g),
          ).toHaveLength(1);
          expect((JSON.parse(refused.stdout) as Run).choices.split("\n")[1]).toMatch(/ 414c474f [01] /);
          // Nor is it taken over from another process.
          const given = await run(
            [33],
            choices.replaceAll(" 414c474f 2 ", ` 414c474f ${fault === "short" ? 4 : 3} `),
            "1",
            [],
            fault,
          );
          expect((JSON.parse(given.stdout) as Run).values).toEqual(plain.values.slice(0, 1));
          // By default none is asked for.
          expect((await run([33], null, "0", [], fault)).stderr).toBe("");
        }
      }, 60_000);

    test("those of another library or device, and damaged ones, are refused", async () => {
      const { choices } = await must([33]);
      const other = await run([33], choices.replace("cuBLASLt ", "cuBLASLt 9"));
      expect(other.stderr).toMatch(
        /these algorithms were chosen with cuBLASLt 9\d+, .*; here is cuBLASLt \d+, /,
      );
      const damaged = await run([33], choices.slice(0, -40));
      expect(damaged.stderr).toContain("the text of chosen algorithms is damaged at byte");
      expect((await run([33], "")).stderr).toContain("these algorithms were chosen with ;");
    });
  });
}
